"""Folders that hostile inputs begin with: a trained shop, an exported model, a small text encoder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

from tests.torture.hostile.server import Server

EXPID, DATASET = "QIN_shop", "Shop"
CONFIG = Path("config")
RUN = Path("checkpoints") / DATASET / EXPID
DATA = Path("data") / DATASET


def prepare(server: Server, worlds: Path, names: Iterable[str]) -> None:
    """Write the prepared folders, each in a process of its own."""
    for name in names:
        (worlds / name).mkdir(parents=True)
        status = server.call(f"{__name__}:make", name, str(worlds / name), seconds=120)
        assert status == 0, f"the folder {name} could not be prepared"


def make(name: str, folder: str) -> None:
    """Write one of them, in the process that is to end with it."""
    os.chdir(folder)
    MAKERS[name]()


def _shop() -> None:
    from tests.helpers import trained_shop

    trained_shop.train(Path())
    # Short runs: what a hostile input is accepted for must end soon.
    edit_yaml(CONFIG / "model_config.yaml", lambda found: found[EXPID].update(num_layers=2))


def _export() -> None:
    import numpy as np

    from tests.helpers.exported_folder import Item, write_flat_folder, write_folder

    items = {f"i{n}": Item("film", np.full(4, n, np.float32)) for n in range(6)}
    write_folder(Path("export"), items)
    write_flat_folder(Path("flat"))


def _encoder() -> None:
    from bilingual_embedding.model.checkpoint import save_encoder
    from bilingual_embedding.model.encoder import Encoder
    from bilingual_embedding.model.presets import EncoderConfig
    from bilingual_embedding.model.tokenizer import BilingualTokenizer

    texts = {"en": ["a red car", "a blue sky over the sea"] * 8, "es": ["un coche rojo", "un cielo azul"] * 8}
    tokenizer = BilingualTokenizer.train(texts, vocabulary_size=300)
    config = EncoderConfig(
        vocabulary_size=tokenizer.vocabulary_size, hidden=16, inner=32, layers=1, heads=2, max_length=32
    )
    save_encoder(Path("encoder"), Encoder(config), tokenizer)
    Path("texts.csv").write_text("id,text\n1,a red car\n2,the sea\n", encoding="utf-8")
    Path("config/embedding").mkdir(parents=True)


MAKERS: dict[str, Callable[[], None]] = {"shop": _shop, "export": _export, "encoder": _encoder}


def edit_yaml(path: Path, change: Callable[[Any], object]) -> None:
    """Change the content of a YAML file."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(yaml.safe_dump(content), encoding="utf-8")


def edit_json(path: Path, change: Callable[[Any], object]) -> None:
    """Change the content of a JSON file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def sealed(folder: Path = DATA) -> None:
    """Put the checksums of changed files into manifest and report, as somebody does who wants them to pass."""

    def change(manifest: Any) -> None:
        manifest.pop("checksum", None)
        for name in manifest["files"]:
            path = folder / name
            if path.is_file():
                manifest["files"][name] = hashlib.sha256(path.read_bytes()).hexdigest()

    edit_json(folder / "manifest.json", change)
    # The identity of the build, by which a trained run knows it.
    content = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    edit_json(
        Path(f"{RUN}.report.json"),
        lambda found: found.update(manifest_hash=hashlib.sha256(canonical.encode()).hexdigest()),
    )
    for record in folder.parent.glob(f".{folder.name}.verified.json"):
        record.unlink()
