"""The files of a shop."""

import pytest

from tests.helpers.ready_samples import make_items, make_rows, make_users


@pytest.fixture
def shop(tmp_path):
    for seed, (split, rows) in enumerate((("train", 200), ("valid", 50), ("test", 60))):
        make_rows(seed, rows).write_parquet(tmp_path / f"{split}.parquet")
    make_items().write_parquet(tmp_path / "items.parquet")
    make_users().write_parquet(tmp_path / "users.parquet")
    return tmp_path
