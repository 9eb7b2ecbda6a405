"""Files that are written in one step hold what they were given, or are not there."""

import json

import pytest

from fuxictr_multimodal.files import replace_atomically, write_json


def test_json_of_any_text_reads_back(tmp_path):
    content = {"path": "caf\udce9", "title": "L\u00e9on \u00b1", "quote": '"\\'}
    write_json(tmp_path / "a.json", content)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == content
    assert "L\u00e9on" in text
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == content


def test_a_failure_leaves_the_old_file(tmp_path):
    (tmp_path / "a").write_text("old")

    def fail():
        with replace_atomically(tmp_path / "a") as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "old")]
