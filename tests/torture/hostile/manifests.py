"""Metadata of a dataset that lies: manifests, feature maps, vocabularies, titles, reports, and links in the folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.torture.hostile.evaluated import REPORT
from tests.torture.hostile.meeting import Case, Place, with_name
from tests.torture.hostile.settings import RUN
from tests.torture.hostile.worlds import DATA, EXPID, edit_json, sealed

PREDICT = ("predict", "--config", "config", "--expid", EXPID, "--out", "scores.csv")
RAW = (*PREDICT, "--data", "raw/test.parquet", "--history-column", "click_history")
VERIFY = ("verify", "--dataset-id", "Shop")
LEADERBOARD = ("leaderboard", "--model-root", "checkpoints", "--dataset", "Shop", "--data-root", "data")


def manifest(change: Callable[[Any], object], *arguments: str) -> Callable[[Place], Sequence[str]]:
    """Change the manifest, and run a command that opens the dataset."""

    def write(place: Place) -> Sequence[str]:
        edit_json(DATA / "manifest.json", change)
        sealed()
        return arguments or PREDICT

    return write


def spec(key: str, value: Any) -> Callable[[Place], Sequence[str]]:
    """Change a key of a feature in the feature map, and train."""

    def write(place: Place) -> Sequence[str]:
        def change(found: Any) -> None:
            (entry,) = [entry["brand"] for entry in found["features"] if "brand" in entry]
            entry[key] = value

        edit_json(DATA / "feature_map.json", change)
        sealed()
        return RUN

    return write


def content(path: Path, text: str | bytes, *arguments: str) -> Callable[[Place], Sequence[str]]:
    """Replace a file, and run a command that reads it."""

    def write(place: Place) -> Sequence[str]:
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        if path not in (DATA / "manifest.json", REPORT):
            sealed()
        return arguments or PREDICT

    return write


def report(change: Callable[[Any], object], *arguments: str) -> Callable[[Place], Sequence[str]]:
    """Change the report of the run."""

    def write(place: Place) -> Sequence[str]:
        edit_json(REPORT, change)
        return arguments or LEADERBOARD

    return write


def _linked(name: str, target: str) -> Callable[[Place], Sequence[str]]:
    """A file of the dataset that is a link to one outside."""

    def write(place: Place) -> Sequence[str]:
        (DATA / name).unlink()
        (DATA / name).symlink_to(place.outside / target)
        sealed()
        return PREDICT

    return write


def _linked_pipe(place: Place) -> Sequence[str]:
    (DATA / "test.h5").unlink()
    os.mkfifo(DATA / "test.h5")
    return PREDICT


def _out_is_link(place: Place) -> Sequence[str]:
    Path("scores.csv").symlink_to(place.outside / "stolen.csv")
    return PREDICT


def _model_is_link(place: Place) -> Sequence[str]:
    """The checkpoint is a link to a file outside, which training must replace and not write through."""
    model = Path(f"checkpoints/Shop/{EXPID}.model")
    model.unlink()
    model.symlink_to(place.outside / "secret.txt")
    return RUN


def _titles_of_secret(place: Place) -> Sequence[str]:
    (DATA / "item_titles.json").symlink_to(place.outside / "secret.txt")
    return ("explain", "--config", "config", "--expid", EXPID, "--row", "0")


UNREADABLE = "the leaderboard names it as unreadable and ranks the others"
DEEP = "[" * 200_000
CASES: list[Case] = with_name(
    "manifests",
    [
        *(
            Case(
                f"a manifest with {key} {str(value)[:20]}",
                manifest(lambda m, k=key, v=value: m.update({k: v})),
                f"{key}|is damaged|is of dataset",
            )
            for key, value in (
                ("max_len", -1),
                ("max_len", 1.5),
                ("items", -5),
                ("items", "many"),
                ("items", 0),
                ("files", []),
                ("columns", {"a": 1}),
                ("ids", ["../../x"]),
                ("ids", "item_id"),
                ("behaviours", ["../x"]),
                ("feature_cols", "all"),
                ("split_method", 7),
                ("group_id", ["user_id"]),
                ("item_col", True),
                ("format_version", 99),
                ("dataset_id", "../outside"),
            )
        ),
        *(
            Case(
                f"a manifest whose files name {name!r}",
                manifest(lambda m, n=name: m["files"].update({n: "0" * 64}), *VERIFY),
                "cannot be",
            )
            for name in ("../../../etc/passwd", "/etc/passwd", "../../outside/secret.txt", "a/../../b", "", "a\0b")
        ),
        Case(
            "a manifest with a checksum that is no checksum",
            manifest(lambda m: m["files"].update({"x.h5": "../"}), *VERIFY),
            "SHA-256|missing",
        ),
        Case("a manifest with a split of -1 rows", manifest(lambda m: m["splits"]["test"].update(rows=-1)), "rows"),
        Case(
            "a manifest with a split ../x",
            manifest(lambda m: m["splits"].update({"../x": m["splits"]["test"]})),
            "a split",
        ),
        Case("a manifest with a column ../x", manifest(lambda m: m["columns"][0].update(name="../x")), "name"),
        Case("a manifest with a column of objects", manifest(lambda m: m["columns"][0].update(dtype="O")), "dtype"),
        Case("a manifest with a huge shape", manifest(lambda m: m["columns"][0].update(shape=[10**30])), "shape"),
        Case("a manifest with NaN", content(DATA / "manifest.json", '{"format_version": 1, "items": NaN}'), "NaN"),
        Case(
            "a manifest with 1e999", content(DATA / "manifest.json", '{"format_version": 1, "items": 1e999}'), "large"
        ),
        Case(
            "a manifest with a key twice",
            content(DATA / "manifest.json", '{"format_version": 1, "format_version": 1}'),
            "twice",
        ),
        Case("a manifest of 200,000 brackets", content(DATA / "manifest.json", DEEP), "nested"),
        Case("a manifest that is a number of 10,000 digits", content(DATA / "manifest.json", "9" * 10_000), "manifest"),
        Case("a manifest that is not UTF-8", content(DATA / "manifest.json", b"\xff\xfe{}"), "manifest"),
        Case("a manifest that is a list", content(DATA / "manifest.json", "[]"), "format_version"),
        *(
            Case(f"a feature map with {key} {str(value)[:20]}", spec(key, value), key)
            for key, value in (
                ("vocab_size", -1),
                ("vocab_size", 1.5),
                ("vocab_size", True),
                ("vocab_size", "10"),
                ("vocab_size", 2**31 - 1),
                ("vocab_size", 10**18),
                ("embedding_dim", 10**9),
                ("embedding_dim", -4),
                ("max_len", -1),
                ("pretrain_dim", 0),
                ("padding_idx", -1),
                ("share_embedding", "nothing"),
                ("source", ["item"]),
                ("type", "os"),
            )
        ),
        Case(
            "a feature map with a label that is a number",
            content(DATA / "feature_map.json", '{"dataset_id": "Shop", "labels": [1], "features": []}', *RUN),
            "label",
        ),
        Case("a feature map of 200,000 brackets", content(DATA / "feature_map.json", DEEP, *RUN), "nested"),
        Case("a feature map with NaN", content(DATA / "feature_map.json", '{"features": NaN}', *RUN), "NaN"),
        Case("vocabularies of 200,000 brackets", content(DATA / "feature_vocab.json", DEEP, *RAW), "nested"),
        Case(
            "vocabularies whose codes are texts",
            content(DATA / "feature_vocab.json", '{"device": {"phone": "x"}}', *RAW),
            "restored",
        ),
        Case(
            "vocabularies that are a list", content(DATA / "feature_vocab.json", "[1]", *RAW), "feature_vocab|restored"
        ),
        Case(
            "titles that are objects",
            content(
                DATA / "item_titles.json", '{"a": 1}', "explain", "--config", "config", "--expid", EXPID, "--row", "0"
            ),
            "item_titles",
        ),
        Case("titles that link to a secret", _titles_of_secret, "item_titles"),
        Case("ids that are no parquet", content(DATA / "ids/item_id.parquet", "PAR1 PAR1"), "ids/item_id.parquet"),
        Case("a split that links to a secret", _linked("test.h5", "secret.txt"), "test.h5"),
        Case("a vocabulary that links to a secret", _linked("feature_map.json", "secret.txt"), "feature_map"),
        Case("a split that is a pipe", _linked_pipe, "test.h5"),
        Case("scores into a link that leaves the folder", _out_is_link, "", accepted="the link itself is replaced"),
        Case(
            "a checkpoint that is a link", _model_is_link, "", accepted="the link itself is replaced by the new weights"
        ),
        Case("a report of 200,000 brackets", content(REPORT, DEEP, *LEADERBOARD), "", accepted=UNREADABLE),
        Case(
            "a report with NaN", content(REPORT, '{"expid": "a", "seed": NaN}', *LEADERBOARD), "", accepted=UNREADABLE
        ),
        Case("a report that is a list", content(REPORT, "[]", *LEADERBOARD), "", accepted=UNREADABLE),
        Case("a report whose metrics are texts", report(lambda r: r.update(metrics="AUC")), "", accepted=UNREADABLE),
        Case("a report whose config is a list", report(lambda r: r.update(config=[1])), "", accepted=UNREADABLE),
        Case(
            "a report of a dataset elsewhere",
            report(
                lambda r: (r.update(status="interrupted"), r["config"].update(dataset_id="../../outside")),
                "run",
                "--config",
                "config",
                "--expid",
                EXPID,
                "--name",
                EXPID,
                "--resume",
            ),
            "dataset_id",
        ),
    ],
)
