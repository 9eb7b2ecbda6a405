"""Hooks of mkdocs: pages of the repository that live outside `docs/` become pages of the site.

Markdown files link to each other by their place in the repository, so that the links also work there. Here a link
such as `../results/LOG.md` leads to the copy of that page in the site.
"""

import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(?<=\]\()(?!https?://|#|mailto:)([^)\s#]+)")
# File of the repository -> file of the site.
OUTSIDE = {
    "ARCHITECTURE.md": "project/architecture.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
    "SECURITY.md": "project/security.md",
    "bilingual_embedding/README.md": "project/text_encoder.md",
    "model_zoo/QIN/README.md": "project/qin.md",
    "README.md": "index.md",
    **{f"results/{path.name}": f"project/results/{path.name}" for path in sorted((ROOT / "results").glob("*.md"))},
    **{f"examples/{path.name}": f"examples/{path.name}" for path in sorted((ROOT / "examples").glob("*.py"))},
}
COPIED = {site: source for source, site in OUTSIDE.items() if site != "index.md"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files that live outside `docs/`."""
    for site, source in COPIED.items():
        files.append(File.generated(config, site, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Lead links between pages of the repository to their places in the site."""
    here = page.file.src_uri
    source = PurePosixPath(COPIED.get(here, f"docs/{here}"))

    def place(link: re.Match[str]) -> str:
        target = _resolved(source.parent / link[1])
        if not (ROOT / target).exists():
            return link[1]  # mkdocs names the page with the broken link
        site = OUTSIDE.get(target, target.removeprefix("docs/"))
        return "../" * (len(PurePosixPath(here).parts) - 1) + site

    return LINK.sub(place, markdown)


def _resolved(path: PurePosixPath) -> str:
    parts: list[str] = []
    for part in path.parts:
        if part == ".." and parts:
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)
