"""What the README shows is true of the repository: its Python runs, its commands name what is there."""

import fnmatch
import re
from pathlib import Path

from fuxictr_multimodal.config import list_expids
from fuxictr_multimodal.leaderboard.board import Board
from fuxictr_multimodal.leaderboard.tables import markdown

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_python_blocks_run():
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})


def test_commands_name_scripts_and_expids_that_exist():
    scripts = re.findall(r"python ((?:\w+/)*\w+\.py)", README)
    assert scripts
    assert [name for name in scripts if not (ROOT / name).is_file()] == []
    known = {*list_expids(ROOT / "config"), *list_expids(ROOT / "model_zoo/QIN/config"), "BiEncoder_en_de"}
    expids = [name for group in re.findall(r"--expid '?([\w,*]+)", README) for name in group.split(",")]
    assert [name for name in expids if not fnmatch.filter(known, name)] == []
    assert [f for f in re.findall(r"config/[\w/]+\.yaml", README) if not (ROOT / f).is_file()] == []


def table_rows(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if line.startswith("|"))


def test_leaderboards_are_those_of_the_results():
    boards = sorted(path for kind in ("leaderboard", "protocol") for path in ROOT.glob(f"results/{kind}_*.json"))
    shown = re.findall(r"--from (results/\w+\.json) --short", README)
    assert boards
    assert shown
    for path in boards:
        board, name = Board.read(path), path.relative_to(ROOT)
        table = path.with_suffix(".md")
        assert table_rows(table.read_text(encoding="utf-8")) == table_rows(markdown(board)), name
        assert f"({table.relative_to(ROOT)})" in README, name
        assert (str(name) in shown) == (table_rows(markdown(board, short=True)) in README), name


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`make (\w+)`", README):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
