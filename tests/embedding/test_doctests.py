"""The examples in the docstrings of `bilingual_embedding` run."""

import doctest
import importlib
import pkgutil

import pytest

import bilingual_embedding

# Needs the optional package sentence-transformers at import; its own tests import it.
OPTIONAL = {"sentence_transformers_module", "sentence_transformers_losses"}
WALK = pkgutil.walk_packages(bilingual_embedding.__path__, "bilingual_embedding.")
MODULES = sorted(info.name for info in WALK if info.name.rpartition(".")[2] not in OPTIONAL)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
