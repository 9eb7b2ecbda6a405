"""`run_param_tuner.py` and `fxmm tune`: search settings."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

from fuxictr_multimodal.cli.parser import check_settings_file, command_parser
from fuxictr_multimodal.config.user_paths import path_argument
from fuxictr_multimodal.system.command import command

SECONDS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}


@command()
def run_param_tuner_main(argv: Sequence[str] | None = None, *, prog: str = "run_param_tuner.py") -> None:
    """Run a sweep; exit status 1 if a trial failed, 2 on bad input, 128 + a signal."""
    parser = command_parser(
        prog,
        "Run the trials of a tuner file in parallel, each in its own process, and summarise them.",
        notes="Run the same command again after a crash or a kill: complete trials are kept, the rest resumes.",
        examples=[
            "--config config/tuner/QIN_demo_tuner.yaml --gpu -1 -1",
            "--config config/tuner/QIN_demo_search.yaml --search tpe --trials 20 --gpu 0 1",
            "--config config/tuner/QIN_demo_tuner.yaml --engine ray --ray-address 10.0.0.1:6379",
        ],
    )
    parser.add_argument(
        "--config", default="./config/tuner/QIN_demo_tuner.yaml", type=path_argument, help="the tuner file"
    )
    parser.add_argument(
        "--expid",
        metavar="NAME[,NAME]",
        type=parse_names,
        help="tune this expid in place of the file's base_expid, in a folder named after both; several share "
        "the slots; "
        "config/tuner/shared_*_search.yaml fit QIN and the ten baselines",
    )
    parser.add_argument("--tag", help="grid: run only trials whose expid contains this text")
    parser.add_argument(
        "--gpu",
        nargs="+",
        type=int,
        help="--engine local: GPU indices, one per slot; -1 is the CPU (default: -1)",
    )
    add_cluster(parser)
    parser.add_argument("--script", type=path_argument, help="script that runs a trial in place of run_expid.py")
    parser.add_argument("--search", choices=("grid", "random", "tpe"), default="grid", help="search method")
    parser.add_argument("--trials", type=int, metavar="N", help="search: total number of trials")
    parser.add_argument(
        "--time", type=parse_seconds, metavar="2h", help="time limit after which no trial starts: 2h, 1h30m, 90s"
    )
    parser.add_argument(
        "--retry-oom", action="store_true", help="retry a trial that ran out of memory with half the batch size"
    )
    parser.add_argument("--no-prune", action="store_true", help="search: train unpromising trials to their end")
    parser.add_argument("--seed", default=0, type=int, help="search: seed")
    parser.add_argument(
        "--storage",
        metavar="URL",
        help="share the trials with tuners on other machines: the path of a journal (journal:///path) or a database "
        "(postgresql://user@host/database; its password comes from PGPASSWORD or ~/.pgpass)",
    )
    args = parser.parse_args(argv)
    check_settings_file(args.config, "tuner", prog)
    if args.search == "grid" and args.trials is not None:
        parser.error("--trials needs --search random or tpe; a grid runs all its settings")
    if args.search != "grid" and args.tag is not None:
        parser.error("--tag needs --search grid")
    if args.tag is not None and args.storage is not None:
        parser.error("--tag selects trials of one machine's grid: leave out --storage")
    if args.trials is not None and args.trials < 1:
        parser.error("--trials must be 1 or more")
    check_cluster(parser, args)
    from fuxictr_multimodal.launch.cluster import Cluster
    from fuxictr_multimodal.launch.tuning.run import tune
    from fuxictr_multimodal.system.gpus import check_gpus

    gpus = args.gpu or [-1]
    check_gpus(gpus)
    sweeps = tune(
        args.config,
        args.expid or [None],
        gpus=gpus,
        tag=args.tag,
        script=args.script,
        search=args.search,
        trials=args.trials,
        seconds=args.time,
        retry_oom=args.retry_oom,
        prune=not args.no_prune,
        seed=args.seed,
        storage=args.storage,
        cluster=None if args.engine == "local" else Cluster(args.ray_address, args.cpus_per_trial, args.gpus_per_trial),
    )
    if any(record.status == "failed" for records in sweeps for record in records):
        raise SystemExit(1)


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """Add --engine, --ray-address, --cpus-per-trial and --gpus-per-trial."""
    parser.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="where trials run: on the slots of this machine, or on all machines of a Ray cluster, which see the "
        "config folder, data_root and model_root at the same paths",
    )
    parser.add_argument(
        "--ray-address",
        metavar="HOST:PORT",
        help="Ray cluster of --engine ray, or auto for the one that this machine belongs to (default: Ray on this "
        "machine)",
    )
    parser.add_argument(
        "--cpus-per-trial",
        type=parse_amount,
        metavar="N",
        help="--engine ray: CPUs that a trial takes; also its number of threads, unless OMP_NUM_THREADS says otherwise "
        "(default: 1)",
    )
    parser.add_argument(
        "--gpus-per-trial",
        type=parse_amount,
        metavar="N",
        help="--engine ray: 1, 0 for the CPU, or the part of a GPU that a trial takes, 0.5 for two trials on each "
        "(default: 1 where the cluster has GPUs)",
    )


def check_cluster(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse options of the other engine, and amounts that no trial can use."""
    if args.engine == "ray" and args.gpu is not None:
        parser.error("--gpu names slots of this machine: with --engine ray, pass --gpus-per-trial and --cpus-per-trial")
    for name in ("ray_address", "cpus_per_trial", "gpus_per_trial"):
        if args.engine == "local" and getattr(args, name) is not None:
            parser.error(f"--{name.replace('_', '-')} is for --engine ray")
    cpus, gpus = args.cpus_per_trial, args.gpus_per_trial
    if cpus is not None and (cpus < 1 or cpus % 1):
        parser.error(f"--cpus-per-trial {cpus:g}: a trial takes whole CPUs, at least 1")
    if gpus is not None and gpus > 1:
        parser.error(f"--gpus-per-trial {gpus:g}: a trial trains on one GPU, or a part of it")
    args.cpus_per_trial = cpus or 1


def parse_amount(text: str) -> float:
    """An amount of a resource.

    >>> parse_amount("0.5")
    0.5
    """
    try:
        amount = float(text)
    except ValueError:
        amount = -1.0
    if not 0 <= amount < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not an amount: write 1, 2 or 0.5")
    return amount


def parse_names(text: str) -> list[str]:
    """Names between commas, each once.

    >>> parse_names("DIN_demo, SIM_demo,DIN_demo")
    ['DIN_demo', 'SIM_demo']
    """
    names = list(dict.fromkeys(filter(None, map(str.strip, text.split(",")))))
    if not names:
        raise argparse.ArgumentTypeError(f"{text!r} contains no expid")
    return names


def parse_seconds(text: str) -> float:
    """Parse a duration; a plain number is seconds.

    >>> parse_seconds("2h"), parse_seconds("1h30m"), parse_seconds("45")
    (7200.0, 5400.0, 45.0)
    """
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    if not text or not re.fullmatch(r"(\d+(\.\d+)?[dhms])+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration: write 2h, 1h30m, 90s or seconds")
    return sum(float(number) * SECONDS[unit] for number, _, unit in re.findall(r"(\d+(\.\d+)?)([dhms])", text))
