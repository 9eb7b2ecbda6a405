"""Fixtures of the tests of serving."""

import pytest

from fuxictr_multimodal.serving.export import Exported, export
from tests.helpers import trained_shop


@pytest.fixture(scope="session")
def qin_shop(tmp_path_factory) -> trained_shop.TrainedShop:
    """QIN, trained on the shop once a session: read it, and write elsewhere."""
    return trained_shop.train(tmp_path_factory.mktemp("qin_shop"))


@pytest.fixture(scope="session")
def din_shop(tmp_path_factory) -> trained_shop.TrainedShop:
    """FuxiCTR's DIN on the same shop."""
    return trained_shop.train(tmp_path_factory.mktemp("din_shop"), model="DIN")


@pytest.fixture(scope="session")
def qin_export(qin_shop, tmp_path_factory) -> Exported:
    """The export of `qin_shop`: read it, or copy it."""
    return _exported(qin_shop, tmp_path_factory)


@pytest.fixture(scope="session")
def din_export(din_shop, tmp_path_factory) -> Exported:
    """The export of `din_shop`."""
    return _exported(din_shop, tmp_path_factory)


def _exported(shop: trained_shop.TrainedShop, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    out = tmp_path_factory.mktemp(f"{shop.expid}_export") / "model"
    return export(config_dir=shop.config, expid=shop.expid, out=out)
