"""A trial without a training: takes the runner's arguments, writes the runner's report, behaves as its settings say.

Every start appends a line to `<model_root>/starts.txt`: expid, process id, threads, then the options.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from fuxictr_multimodal.config.expids import load_config
from fuxictr_multimodal.config.identity import config_hash
from fuxictr_multimodal.system.files import write_json


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--config", "--expid", "--gpu"):
        parser.add_argument(name, required=True)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--overwrite", action="store_true")
    args = parser.parse_args()
    params = load_config(args.config, args.expid)
    model_root = Path(params["model_root"])
    directory = model_root / params["dataset_id"]
    directory.mkdir(parents=True, exist_ok=True)
    with (model_root / "starts.txt").open("a") as file:
        options = [f"--{name}" for name in ("resume", "overwrite") if getattr(args, name)]
        print(args.expid, os.getpid(), os.environ.get("OMP_NUM_THREADS", "default"), args.gpu, *options, file=file)

    report = {
        "expid": args.expid, "status": "running", "error": None, "metrics": {}, "curve": [], "best_epoch": None,
        "seconds": 0.0, "parameters": {"total": 10}, "config_hash": config_hash(params), "manifest_hash": "",
    }  # fmt: skip
    path = directory / f"{args.expid}.report.json"
    # A peak at learning_rate 1e-3 and larger batches slightly better: the best setting is known.
    auc = 0.9 - 0.1 * abs(params["learning_rate"] - 1e-3) / 1e-3 + params["batch_size"] * 1e-6
    plan = params["plan"]
    auc -= 0.01 * plan.get("rate", 0)
    behaviour = plan.get("behaviour", params["behaviour"])
    # After so many trials every one is slow and bad: a pruner must end it.
    starts = len((model_root / "starts.txt").read_text().splitlines())
    pause, handicap = (20.0, 0.2) if starts > plan.get("bad_after", starts) else (params["epoch_seconds"], 0.0)
    try:
        write_json(path, report)
        if behaviour == "helper":
            subprocess.Popen([sys.executable, "-c", f"import time; time.sleep(60)  # {model_root}"])
        for epoch in range(1, params["epochs"] + 1):
            value = auc - handicap - 0.3 / epoch
            report["curve"].append({"epoch": epoch, "step": epoch, "metrics": {"AUC": value}, "monitor": value})
            report["seconds"] = epoch * params["epoch_seconds"]
            write_json(path, report)
            time.sleep(pause if epoch > 1 else params["epoch_seconds"])
    except KeyboardInterrupt:
        write_json(path, {**report, "status": "interrupted"})
        raise
    if behaviour == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "crash":
        print("something was odd before")
        raise RuntimeError("the fake trial crashed as requested")
    if behaviour == "silent":
        sys.exit(0)
    if behaviour == "oom" and params["batch_size"] > params["fits"]:
        report.update(status="failed", error="OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB")
        write_json(path, report)
        raise MemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    report["metrics"] = {"valid": {"AUC": auc, "logloss": 1 - auc}, "test": {"AUC": 0.5, "logloss": 0.7}}
    report.update(status="completed", best_epoch=params["epochs"])
    write_json(path, report)
    print("done")


if __name__ == "__main__":
    main()
