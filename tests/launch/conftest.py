"""Jobs of these tests need no PyTorch: the server that forks them starts at once."""

import pytest

from fuxictr_multimodal.launch import pool


@pytest.fixture(autouse=True)
def nothing_preloaded(monkeypatch):
    monkeypatch.setattr(pool, "PRELOADED", ())
