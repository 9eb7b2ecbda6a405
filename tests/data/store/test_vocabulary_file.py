"""The file of vocabularies against the standard library's encoder."""

import json

from hypothesis import given
from hypothesis import strategies as st

from fuxictr_multimodal.data.store.vocabulary_file import write_vocabularies

vocabulary = st.dictionaries(st.text() | st.integers(), st.integers(0, 10**9), max_size=6)


@given(st.dictionaries(st.text(), vocabulary, max_size=3))
def test_the_bytes_are_those_of_an_indented_dump(tmp_path_factory, vocabularies):
    path = tmp_path_factory.mktemp("vocab") / "feature_vocab.json"
    write_vocabularies(path, vocabularies)
    ordered = {name: dict(sorted(vocab.items(), key=lambda pair: pair[1])) for name, vocab in vocabularies.items()}
    assert path.read_bytes() == json.dumps(ordered, indent=4).encode()
