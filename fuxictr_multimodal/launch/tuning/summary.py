"""Summary of a sweep: all trials as csv and Markdown, the best one as an expid, importance and pictures."""

from __future__ import annotations

import csv
import datetime
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fuxictr_multimodal.launch.tuning.board import count, duration, short
from fuxictr_multimodal.launch.tuning.folder import SweepFolder, write_yaml
from fuxictr_multimodal.launch.tuning.outcome import Record, best_record, maximised, read_report
from fuxictr_multimodal.launch.tuning.pictures import Insight, insight
from fuxictr_multimodal.launch.tuning.space import Space
from fuxictr_multimodal.system.files import replace_atomically, write_json
from fuxictr_multimodal.text.escape import csv_text, markdown, markdown_code, one_line, visible, without_passwords

TABLE_ROWS = 20


def write_summary(
    folder: SweepFolder,
    space: Space,
    records: Sequence[Record],
    *,
    search: str,
    script: Path,
    pictures: bool = True,
) -> Record | None:
    """Write `summary.csv`, `summary.md`, `summary.json`, `best/` and pictures into the folder.

    Trials are ranked by the monitored value on validation; the test metrics of the best one are shown, not used.

    Returns:
        The best completed trial.
    """
    ranked = _ranked(records)
    best = best_record(list(records))
    if best is not None:
        _write_best(folder, space, best, search=search, records=records)
    value = f"valid {monitor_text(records[0].trial.params)}" if records else ""
    found = Insight("none: not asked for")
    if pictures:
        found = insight(folder.path, records, space.axes, value=value)
    _write_csv(folder.path / "summary.csv", space, ranked)
    _write_json(folder.path / "summary.json", space, records, best, found, search=search)
    with replace_atomically(folder.path / "summary.md") as temporary:
        lines = _markdown(folder, space, ranked, best, found, search=search, script=script)
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return best


def trials_by_model(records: Sequence[Record]) -> dict[str, dict[str, int]]:
    """How many trials each model got, by status: a fair comparison must know it."""
    models = dict.fromkeys(record.trial.params["model"] for record in records)
    found = {}
    for model in models:
        counts = count([record for record in records if record.trial.params["model"] == model])
        found[model] = {"trials": sum(counts.values()) - counts["queued"], **counts}
    return found


def monitor_text(params: Mapping[str, Any]) -> str:
    """The monitor in words.

    >>> monitor_text({"monitor": {"AUC": 1, "logloss": 0}})
    'AUC'
    """
    monitor = params["monitor"]
    if not isinstance(monitor, dict):
        return str(monitor)
    return " + ".join(name if weight == 1 else f"{weight} {name}" for name, weight in monitor.items() if weight)


def _ranked(records: Sequence[Record]) -> list[Record]:
    """Completed trials, best first, then the others in their order."""
    done = [record for record in records if record.status == "completed"]
    sign = -1 if done and maximised(done[0].trial.params) else 1
    done.sort(key=lambda record: sign * (record.value or 0.0))
    return done + [record for record in records if record.status != "completed"]


def _write_csv(path: Path, space: Space, ranked: Sequence[Record]) -> None:
    metrics = list(dict.fromkeys(name for record in ranked for name in record.metrics))
    head = ["expid", "status", "model", "dataset_id", "value", *(f"valid_{name}" for name in metrics)]
    head += [*space.varied, "best_epoch", "evaluations", "seconds", "parameters", "exit_code", "ran_as", "error"]
    with replace_atomically(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        for record in ranked:
            settings = record.trial.settings
            values = [settings[key] for key in space.varied]
            writer.writerow(
                [
                    *(record.trial.expid, record.status, record.trial.params["model"], record.trial.dataset_id),
                    *(record.value, *(record.metrics.get(name) for name in metrics)),
                    *(_csv(json.dumps(value) if isinstance(value, list | dict) else value) for value in values),
                    *(record.best_epoch, len(record.curve), record.seconds, record.parameters, record.exit_code),
                    *(record.ran.expid if record.retried else "", csv_text("\n".join(record.error))),
                ]
            )


def _write_json(
    path: Path,
    space: Space,
    records: Sequence[Record],
    best: Record | None,
    found: Insight,
    *,
    search: str,
) -> None:
    """The summary for programs; the leaderboard reads the number of trials from it."""
    write_json(
        path,
        {
            "tuner_file": space.path.name,
            "search": search,
            "models": trials_by_model(records),
            "best": best and {"expid": best.ran.expid, "value": best.value, "settings": best.trial.settings},
            "importance": {"method": found.method, "shares": found.fractions},
        },
    )


def _write_best(folder: SweepFolder, space: Space, best: Record, *, search: str, records: Sequence[Record]) -> None:
    """Write a config folder with one expid, `<base_expid>_tuned`: the best setting, to run or to copy."""
    name = f"{space.base_expid}_tuned"
    counts = count(records)
    # The leaderboard shows beside a result how many trials its model got.
    model = best.ran.params["model"]
    entry = {**best.ran.entry, "tuning_trials": trials_by_model(records)[model]["trials"]}
    header = (
        f"# {datetime.date.today().isoformat()}: best of {len(records)} trials ({counts['completed']} completed, "
        f"{search}) of {space.path.name}.\n"
        f"# Command: {command_line()}\n"
        f"# Valid {monitor_text(best.trial.params)} {best.value:.6f} as {best.ran.expid}.\n"
    )
    directory = folder.path / "best"
    directory.mkdir(exist_ok=True)
    write_yaml(directory / "model_config.yaml", {name: entry}, header=header)
    write_yaml(directory / "dataset_config.yaml", {best.ran.dataset_id: best.ran.dataset})


def command_line() -> str:
    """The command that the user typed, without the password of a storage."""
    name = Path(sys.argv[0]).name
    python = ["python"] if name.endswith(".py") else []
    return one_line(shlex.join([*python, name, *map(without_passwords, sys.argv[1:])]))


def _csv(value: Any) -> Any:
    return csv_text(value) if isinstance(value, str) else value


def _markdown(
    folder: SweepFolder,
    space: Space,
    ranked: Sequence[Record],
    best: Record | None,
    found: Insight,
    *,
    search: str,
    script: Path,
) -> list[str]:
    monitor = markdown(monitor_text(ranked[0].trial.params)) if ranked else "value"
    lines = [f"# {markdown(space.base_expid)}: {search}", ""]
    lines += [f"{datetime.date.today().isoformat()}, {markdown_code(command_line())}", ""]
    for model, counts in trials_by_model(ranked).items():
        counted = ", ".join(f"{n} {status}" for status, n in counts.items() if n and status != "trials")
        lines.append(f"- {markdown(model)} got {counts['trials']} trials: {counted}.")
    lines.append(f"- All trials together took {duration(sum(record.seconds for record in ranked))} of computing.")
    lines.append(f"- Selected by {monitor} on the validation split alone, with one training seed per trial.")
    if best is not None:
        name = f"{space.base_expid}_tuned"
        command = f"python {shlex.quote(script.name)} --config {shlex.quote(str(folder.path / 'best'))}"
        lines += [
            "",
            f"Best: {markdown_code(best.ran.expid)}, valid {monitor} {best.value:.6f}, epoch {best.best_epoch}.",
        ]
        test = (read_report(best.ran.report) or {}).get("metrics", {}).get("test", {})
        if test:
            metrics = ", ".join(
                f"{markdown(metric)} {value:.6f}" for metric, value in test.items() if value is not None
            )
            lines.append(f"Its metrics on the test split, which was read once and not used to select: {metrics}.")
        lines += [
            "As an expid: [best/model_config.yaml](best/model_config.yaml). Its value is the best of many on one",
            "validation split, so it is optimistic. Run it with several seeds before you compare it:",
            "",
            f"    {command} --expid {shlex.quote(name)} --seed 1",
        ]
    lines += ["", "## Importance", "", f"Method: {found.method}.", ""]
    if found.fractions:
        lines += ["| parameter | fraction |", "|---|---:|"]
        lines += [f"| {markdown(key)} | {fraction:.3f} |" for key, fraction in found.fractions.items()]
    lines += [line for file in found.pictures if file.suffix == ".svg" for line in ("", f"![{file.stem}]({file.name})")]
    lines += ["", f"## Trials ({min(len(ranked), TABLE_ROWS)} of {len(ranked)}; all in summary.csv)", ""]
    lines += [f"| trial | status | valid {monitor} | seconds | {' | '.join(map(markdown, space.varied))} |"]
    lines += ["|---|---|---:|---:|" + "---|" * len(space.varied)]
    for record in ranked[:TABLE_ROWS]:
        value = "" if record.value is None else f"{record.value:.6f}"
        settings = " | ".join(markdown(short(record.trial.settings[key])) for key in space.varied)
        lines.append(
            f"| {markdown(record.trial.expid)} | {record.status} | {value} | {record.seconds:.0f} | {settings} |"
        )
    lines += _failures(folder, ranked)
    return lines


def _failures(folder: SweepFolder, ranked: Sequence[Record]) -> list[str]:
    lines: list[str] = []
    retried = [record for record in ranked if record.retried]
    failed = [record for record in ranked if record.status == "failed"]
    if retried:
        lines += ["", "## Retried with half the batch size after running out of memory", ""]
        lines += [
            f"- {markdown_code(record.trial.expid)} as {markdown_code(record.ran.expid)}: {record.status}"
            for record in retried
        ]
    if failed:
        lines += ["", "## Failed", ""]
    for reason in dict.fromkeys(record.error[0] for record in failed):
        alike = [record for record in failed if record.error[0] == reason]
        lines += [
            f"{markdown(reason)}; logs are in {markdown_code(str(folder.logs))}; the last lines of the first one:",
            "",
        ]
        lines += [*(f"    {visible(line)}" for line in alike[0].error[1:]), ""]
        lines += [*(f"- {markdown_code(record.ran.expid)}" for record in alike), ""]
    return lines
