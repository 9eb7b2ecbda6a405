"""The page of all settings has every key that the binder knows, each with a description."""

import pkgutil

import pytest

from fuxictr_multimodal.config.binder import schema_of
from fuxictr_multimodal.config.reference import SECTIONS, _groups_inside, reference, render


def groups(schema):
    yield schema
    for setting in schema["properties"].values():
        for _, inner in _groups_inside(setting):
            yield from groups(inner)


@pytest.mark.parametrize("name", [name for _, _, name in SECTIONS])
def test_every_setting_is_described(name):
    model = pkgutil.resolve_name(name)
    page = render(model)
    for group in groups(schema_of(model)):
        assert group["description"].endswith("."), group["title"]
        for key, setting in group["properties"].items():
            assert setting["description"].endswith("."), key
            assert f"| `{key}` | " in page


def test_the_page_has_every_section_and_table_rows_of_four_cells():
    page = reference()
    assert [line.removeprefix("## ") for line in page.splitlines() if line.startswith("## ")] == [
        title for title, _, _ in SECTIONS
    ]
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in rows} == {5}
