"""The documentation site builds without a warning, and its generated pages are those of the code."""

import subprocess
import sys

import pytest

GENERATED = {"docs/settings.md": "fuxictr_multimodal.config.reference", "docs/fuxictr_faults.md": "fuxictr_multimodal.zoo.faults"}


def test_the_site_builds_strictly(repository, tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path / "site"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site/index.html").is_file()


@pytest.mark.parametrize("page", GENERATED)
def test_generated_pages_are_those_of_the_code(repository, page):
    command = [sys.executable, "-m", GENERATED[page]]
    text = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True).stdout
    assert (repository / page).read_text(encoding="utf-8") == text, "run `make docs`"
