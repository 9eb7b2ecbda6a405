"""`fxmm verify` checks one dataset, several, or all of a folder; `--verify` of a run compares all files before it."""

from __future__ import annotations

import h5py
import pytest

from fuxictr_multimodal.cli.dataset import verify_main
from fuxictr_multimodal.cli.experiment import run_expid_main
from fuxictr_multimodal.config.identity import config_hash
from fuxictr_multimodal.data.store import integrity
from fuxictr_multimodal.data.store.manifest import Manifest
from tests.helpers.resealed import reseal
from tests.helpers.store_build import build
from tests.helpers.two_builds import build_shop, samples, write_config


@pytest.fixture
def data_root(tmp_path):
    build(tmp_path / "data", dataset_id="first")
    build(tmp_path / "data", dataset_id="second")
    return tmp_path / "data"


def verify(capsys, *arguments):
    """The exit status and what was printed."""
    status = 0
    try:
        verify_main([str(argument) for argument in arguments], prog="fxmm verify")
    except SystemExit as ended:
        status = ended.code
    return status, capsys.readouterr()


def test_all_datasets_of_a_folder(data_root, capsys):
    status, said = verify(capsys, "--data-root", data_root)
    assert status == 0
    assert [line.split(": ")[1] for line in said.out.splitlines() if "match" in line] == [
        "6 files match the manifest; 60 samples and 19 items are in range"
    ] * 2
    with (data_root / "first/train.h5").open("ab") as file:
        file.write(b"x")
    status, said = verify(capsys, "--data-root", data_root)
    assert (status, said.out.count("are in range")) == (2, 1)
    assert "first/train.h5 does not match its checksum in manifest.json" in said.err
    status, said = verify(capsys, "--data-root", data_root, "--dataset-id", "second")
    assert (status, said.out.count("are in range")) == (0, 1)
    status, said = verify(capsys, "--data-root", data_root / "first")
    assert status == 2
    assert "first holds no dataset: name its folder with --data-root" in said.err


def test_values_are_checked_too(data_root, capsys):
    with h5py.File(data_root / "second/valid.h5", "r+") as file:
        file["level"][3] = 9
    reseal(data_root / "second")
    status, said = verify(capsys, "--data-root", data_root, "--dataset-id", "first", "second")
    assert (status, said.out.count("are in range")) == (2, 1)
    assert "second/valid.h5: row 3, column 'level': 9 is not in 0 to 4: its vocab_size is 5" in said.err


def test_a_run_compares_all_files_on_request(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    splits = {
        name: samples(users=range(1, 9), items=range(1, 20), rows=rows, seed=rows)
        for name, rows in (("train", 70), ("valid", 40))
    }
    build_shop(tmp_path / "data", "shop", splits, None)
    config = write_config(tmp_path / "config", tmp_path / "data", ("shop",), epochs=1)
    hashed = []
    plain = integrity.sha256
    monkeypatch.setattr(integrity, "sha256", lambda path: hashed.append(path.name) or plain(path))
    run_expid_main(["--config", str(config), "--expid", "QIN_shop"])
    assert hashed == []
    run_expid_main(["--config", str(config), "--expid", "QIN_shop", "--verify"])
    assert sorted(hashed) == sorted(Manifest.read(tmp_path / "data/shop").files)
    assert [path.name for path in (tmp_path / "checkpoints/shop").glob("*.report.json")] == ["QIN_shop.report.json"]
    assert config_hash({"a": 1, "verify": "full"}) == config_hash({"a": 1})
    with pytest.raises(SystemExit):
        run_expid_main(["--config", str(config), "--expid", "QIN_shop", "--set", "verify=never"])
    assert "verify" in capsys.readouterr().err
