"""What README and docs show is true of the repository: their Python runs, their commands name what is there."""

import fnmatch
import re
from pathlib import Path

import pytest

from bilingual_embedding.training.settings import list_experiments
from fuxictr_multimodal.cli.main import SUBCOMMANDS
from fuxictr_multimodal.comparison.board import Board
from fuxictr_multimodal.comparison.tables import markdown
from fuxictr_multimodal.config.expids import list_expids

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "docs/results.md").read_text(encoding="utf-8")
PAGES = sorted(["README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in ROOT.glob("docs/*.md"))])


@pytest.mark.slow
def test_python_blocks_run(tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert blocks
    (tmp_path / "config").symlink_to(ROOT / "config")
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})


@pytest.mark.parametrize("page", PAGES)
def test_commands_name_scripts_expids_and_files_that_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    scripts = re.findall(r"python ((?:\w+/)*\w+\.py)", text)
    assert [name for name in scripts if not (ROOT / name).is_file()] == []
    commands = re.findall(r"(?:^|`)fxmm (\w+)", text, flags=re.MULTILINE)
    assert [name for name in commands if name not in SUBCOMMANDS] == []
    known = {*list_expids(ROOT / "config"), *list_expids(ROOT / "model_zoo/QIN/config")}
    known |= {*list_experiments(ROOT / "config/embedding"), "QIN_Shop"}  # the last is the reader's own
    expids = [name for group in re.findall(r"""--expid\s+['"]?([\w,*]+)""", text) for name in group.split(",")]
    assert [name for name in expids if not fnmatch.filter(known, name)] == []
    assert [name for name in re.findall(r"config/[\w/]+\.yaml", text) if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    path = ROOT / page
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"\s+", " ", path.read_text(encoding="utf-8"))):
        if not link.startswith("https://"):
            name, _, anchor = link.partition("#")
            target = (path.parent / name).resolve()
            assert target.is_file(), link
            titles = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert not anchor or anchor in [title.lower().replace(" ", "-") for title in titles], link


def table_rows(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if line.startswith("|"))


def test_leaderboards_are_those_of_the_results():
    boards = sorted(path for kind in ("leaderboard", "protocol") for path in ROOT.glob(f"results/{kind}_*.json"))
    text = re.sub(r"\s+", " ", RESULTS)
    shown = re.findall(r"--from (results/\w+\.json) --short", text)
    assert boards
    assert shown
    for path in boards:
        board, name = Board.read(path), path.relative_to(ROOT)
        table = path.with_suffix(".md")
        assert table_rows(table.read_text(encoding="utf-8")) == table_rows(markdown(board)), name
        assert f"(../{table.relative_to(ROOT)})" in text, name
        assert (str(name) in shown) == (table_rows(markdown(board, short=True)) in RESULTS), name


def test_the_figures_of_the_readme_are_those_of_the_boards():
    """Each AUC of the README's table of results is a mean of a board, or stands in the docs beside its command."""
    table = README.partition("## Results")[2].partition("## Install")[0]
    figures = re.findall(r"0\.\d{4}", table_rows(table))
    assert len(figures) > 10
    known = RESULTS + "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("results/*.md"))
    assert [figure for figure in figures if figure not in known] == []


@pytest.mark.parametrize("page", PAGES)
def test_make_targets_exist(page):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`make (\w+)`", (ROOT / page).read_text(encoding="utf-8")):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
