"""`run_predict.py` and `fxmm predict`: score samples."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from fuxictr_multimodal.cli.parser import add_trained_run, command_parser
from fuxictr_multimodal.config.user_paths import path_argument
from fuxictr_multimodal.system.command import command


@command()
def run_predict_main(
    argv: Sequence[str] | None = None, *, prog: str = "run_predict.py", config: str | Path = "./config/"
) -> None:
    """Score the test split or new samples and write the scores; exit status 2 on bad input."""
    parser = command_parser(
        prog,
        "Score the test split, or new raw samples, with a trained experiment or with published weights.",
        notes="New samples are csv or parquet: the dataset's columns in raw form, ids as in your own files, and the "
        "history as a list of items, newest last (in csv a text with ^, or the entry's splitter, between items). "
        "Columns are named as in the dataset's entry; for a dataset that a script built, the history is item_seq or "
        "history. A dataset that was built from a log needs user, item, time and the log's own columns: histories are "
        "read off the log. They can also come in history, and in a column for each further behaviour, with the times "
        "of their events in history_time and other event features in history_<name>. Scores keep the order of the "
        "samples.",
        examples=["--expid QIN_demo --out scores.parquet", "--expid QIN_demo --data new.parquet --out scores.csv"],
    )
    add_trained_run(parser, config)
    parser.add_argument(
        "--data",
        type=path_argument,
        help="csv or parquet file of new samples, or a folder of its parts (default: the test split)",
    )
    parser.add_argument(
        "--history-column",
        help="history column in --data (default: that of the dataset's entry, else item_seq or history)",
    )
    parser.add_argument(
        "--out",
        type=path_argument,
        help=".parquet or .csv file of scores; with --engine ray, a name without a suffix is a folder of parts "
        "(default: <run>.scores.parquet at the checkpoint)",
    )
    parser.add_argument("--submission", action="store_true", help="also write <out>.zip with prediction.csv")
    parser.add_argument(
        "--task", choices=("Task1", "Task2", "Task1&2"), default="Task2", help="score column of the submission"
    )
    parser.add_argument(
        "--import-weights", type=path_argument, metavar="FILE", help="use published weights in place of the checkpoint"
    )
    parser.add_argument(
        "--export-weights",
        type=path_argument,
        metavar="FILE",
        help="export the weights under their published names; without other options, nothing is scored",
    )
    parser.add_argument(
        "--calibrate",
        choices=("platt", "isotonic", "none"),
        default="none",
        help="calibrate the scores on the valid split; the model's own are then in score_raw",
    )
    parser.add_argument(
        "--engine",
        choices=("folded", "model", "ray"),
        default="folded",
        help="folded: the folded form of a model that has one; model: the model itself; ray: as folded, for large "
        "parquet files, with the workers of a Ray cluster",
    )
    parser.add_argument(
        "--ray-address",
        metavar="ADDRESS",
        help="Ray cluster of --engine ray, which sees files at the same paths (default: Ray on this machine)",
    )
    args = parser.parse_args(argv)
    # FuxiCTR, torch and Ray take seconds to import: so only after the arguments are checked.
    from fuxictr_multimodal.scoring.scores import predict

    scored = predict(
        config_dir=args.config,
        expid=args.expid,
        gpu=args.gpu,
        seed=args.seed,
        overrides=args.overrides,
        name=args.name,
        data=args.data,
        history_column=args.history_column,
        out=args.out,
        submission=args.submission,
        task=args.task,
        imported=args.import_weights,
        exported=args.export_weights,
        score=bool(not args.export_weights or args.out or args.submission or args.data or args.calibrate != "none"),
        calibrate=None if args.calibrate == "none" else args.calibrate,
        engine=args.engine,
        ray_address=args.ray_address,
    )
    if args.export_weights:
        print(f"weights: {args.export_weights}")
    if scored is None:
        return
    rate = scored.rows / scored.seconds
    print(f"{scored.rows:,} samples in {scored.seconds:.1f} s ({rate:,.0f} samples/s): {scored.out}")
    if scored.calibrated:
        print(f"{args.calibrate} calibration on the test split: {scored.calibrated}")
    if scored.submission:
        print(f"submission: {scored.submission}")
    for column, count in scored.unknown.items():
        print(f"unknown: {count:,} values of {column!r}", file=sys.stderr)
    if scored.cut_histories:
        print(f"{scored.cut_histories:,} histories were cut to their newest items", file=sys.stderr)
