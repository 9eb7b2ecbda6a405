"""A page of all settings, in Markdown: `python -m fuxictr_multimodal.config.reference > docs/settings.md`."""

from __future__ import annotations

import json
import pkgutil
from collections.abc import Iterator, Mapping
from typing import Any

from fuxictr_multimodal.config.binder import Settings, expected, schema_of

# Settings belong to packages above this one: named by text, they are imported when the page is made.
SECTIONS = (
    ("Experiments", "config/model_config/*.yaml", "fuxictr_multimodal.config.run_settings:RunSettings"),
    ("Parameters of models", "config/model_config/*.yaml", "fuxictr_multimodal.config.run_settings:ModelSettings"),
    ("Boosted trees", "config/model_config/*.yaml", "model_zoo.Trees.settings:TreesSettings"),
    ("FuxiCTR's keys without effect", "", "fuxictr_multimodal.config.run_settings:IgnoredSettings"),
    ("Data sets", "config/dataset_config/*.yaml", "fuxictr_multimodal.config.dataset_settings:DatasetSettings"),
    ("Searches", "config/tuner/*.yaml", "fuxictr_multimodal.launch.tuning.settings:SearchSettings"),
    ("Ranges of a search", "tuner_space", "fuxictr_multimodal.launch.tuning.settings:Range"),
    ("Comparisons", "config/comparison/*.yaml", "fuxictr_multimodal.comparison.settings:ComparisonSettings"),
    ("Text encoders", "config/embedding/*.yaml", "bilingual_embedding.training.settings:Experiment"),
)
HEAD = """# Settings

All settings of the YAML files. `--set key=value` replaces one on the command line, with a dot between levels:
`--set synthetic.rows=1000`. An unknown key is an error that names the nearest known one. A key that is left out has its
default; "required" ones have none.

The page is made by `python -m fuxictr_multimodal.config.reference`; change the descriptions there, not here."""


def reference() -> str:
    """The whole page."""
    parts = [HEAD]
    for title, place, name in SECTIONS:
        parts.append(f"## {title}" + (f"\n\nIn `{place}`." if place else ""))
        parts.append(render(pkgutil.resolve_name(name)))
    return "\n\n".join(parts) + "\n"


def render(model: type[Settings]) -> str:
    """The settings of one model and of the groups inside it, each group with its own heading.

    >>> from pydantic import Field
    >>> class Search(Settings):
    ...     "How settings are found."
    ...     trials: int = Field(ge=1, description="Number of trials.")
    ...     search: str = Field("random", description="`random` or `tpe`.")
    >>> print(render(Search))
    How settings are found.
    <BLANKLINE>
    | key | value | default | meaning |
    |---|---|---|---|
    | `trials` | a whole number from 1 | required | Number of trials. |
    | `search` | text | `"random"` | `random` or `tpe`. |
    """
    return "\n\n".join(_group(schema_of(model), "", set()))


def _group(schema: Mapping[str, Any], path: str, described: set[str]) -> Iterator[str]:
    """Heading, description and table of a group, then those of the groups inside it, each kind of group once."""
    described.add(schema["title"])
    if path:
        yield f"### `{path}`"
    yield " ".join(schema.get("about", schema.get("description", "")).split())
    lines = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for key, setting in schema["properties"].items():
        cells = (f"`{key}`", _value(setting), _default(key, setting, schema), setting.get("description", ""))
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    yield "\n".join(lines)
    for key, setting in schema["properties"].items():
        for suffix, inner in _groups_inside(setting):
            if inner["title"] not in described:
                yield from _group(inner, f"{path}.{key}{suffix}".lstrip("."), described)


def _groups_inside(setting: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Groups that a setting is, has by name or lists, each with what its path adds to that of the setting."""
    if "properties" in setting:
        yield "", setting
    for option in setting.get("anyOf", ()):
        yield from _groups_inside(option)
    for suffix, around in ((".<name>", "additionalProperties"), ("[]", "items")):
        if isinstance(setting.get(around), Mapping):
            for inner, group in _groups_inside(setting[around]):
                yield suffix + inner, group


def _value(setting: Mapping[str, Any]) -> str:
    options = [option for option in setting.get("anyOf", [setting]) if option.get("type") != "null"]
    return " or ".join(
        f"`{choice}`" if "enum" in option else str(choice)
        for option in options
        for choice in option.get("enum", [expected(option)])
    )


def _default(key: str, setting: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    if key in schema.get("required", ()):
        return "required"
    default = setting.get("default")
    if isinstance(default, Mapping):
        inside = setting.get("properties", {})
        default = {key: value for key, value in default.items() if value != inside.get(key, {}).get("default")}
    return "" if default in (None, "") else f"`{json.dumps(default)}`"


if __name__ == "__main__":
    print(reference(), end="")
