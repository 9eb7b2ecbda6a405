"""Fixtures of the tests of serving."""

import pytest

from tests.helpers import trained_shop


@pytest.fixture(scope="session")
def qin_shop(tmp_path_factory) -> trained_shop.TrainedShop:
    """QIN, trained on the shop once a session: read it, and write elsewhere."""
    return trained_shop.train(tmp_path_factory.mktemp("qin_shop"))


@pytest.fixture(scope="session")
def din_shop(tmp_path_factory) -> trained_shop.TrainedShop:
    """FuxiCTR's DIN on the same shop."""
    return trained_shop.train(tmp_path_factory.mktemp("din_shop"), model="DIN")
