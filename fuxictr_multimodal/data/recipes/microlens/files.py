"""The files of MicroLens_1M_MMCTR: names, row counts, where they come from and where they lie.

Source: https://recsys.westlake.edu.cn/MicroLens_1M_MMCTR/, the data of the WWW 2025 Multimodal CTR Challenge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fuxictr_multimodal.data.recipes.download import NotOnServer, RemoteFile, download
from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.system.files import replace_atomically
from fuxictr_multimodal.system.untrusted.archives import ZIP_ERRORS, open_zip
from fuxictr_multimodal.system.untrusted.sizes import most_bytes

ADDRESS = "https://recsys.westlake.edu.cn/MicroLens_1M_MMCTR/"
FOLDER = "MicroLens_1M_x1"
ITEM_INFO, ITEM_FEATURE, ITEM_EMB = "item_info.parquet", "item_feature.parquet", "item_emb.parquet"
# Rows of the release, by file; the first four lie in the folder, the others beside it.
ROWS = {
    "train.parquet": 3_600_000,
    "valid.parquet": 10_000,
    "test.parquet": 379_142,
    ITEM_INFO: 91_718,
    ITEM_FEATURE: 91_717,
    ITEM_EMB: 91_717,
}
IN_FOLDER = ("train.parquet", "valid.parquet", "test.parquet", ITEM_INFO)
# Columns of the files.
LABEL, TARGET, HISTORY, ROW_ID = "label", "item_id", "item_seq", "ID"
LEVELS = ("likes_level", "views_level")
MAX_LEN = 64
TAGS = {"item_tags": 5}


@dataclass(frozen=True)
class ItemEmbedding:
    """A pretrained embedding of items: the file, the column and its width."""

    file: str
    column: str
    width: int


EMBEDDINGS = {
    "d128": ItemEmbedding(ITEM_INFO, "item_emb_d128", 128),
    "bert": ItemEmbedding(ITEM_FEATURE, "txt_emb_BERT", 768),
    "clip": ItemEmbedding(ITEM_FEATURE, "img_emb_CLIPRN50", 1024),
    "v1": ItemEmbedding(ITEM_EMB, "item_emb_d128_v1", 128),
    "v2": ItemEmbedding(ITEM_EMB, "item_emb_d128_v2", 128),
    "v3": ItemEmbedding(ITEM_EMB, "item_emb_d128_v3", 128),
    "e4": ItemEmbedding(ITEM_EMB, "item_emb_d128_e4", 128),
}


def locate(raw: Path, names: Sequence[str]) -> dict[str, Path]:
    """The files, or folders of their parts, by name: in `raw` itself, in its folder `MicroLens_1M_x1`, or beside `raw`.

    Names are found in upper and lower case.

    Raises:
        DataError: the folder or a file is missing; the message names all that are.
    """
    if not raw.is_dir():
        what = "is a file, not a folder (unpack an archive first)" if raw.exists() else "does not exist"
        raise DataError(f"{raw} {what}; it must hold the files of {ADDRESS}")
    found, missing = {}, []
    folders = [raw, raw / FOLDER]
    # `raw` may be the inner folder: then the files beside it are one up.
    if raw.resolve().name == FOLDER:
        folders.append(raw.resolve().parent)
    present: dict[str, Path] = {}
    for folder in folders:
        if folder.is_dir():
            present = {path.name.lower(): path for path in sorted(folder.iterdir(), reverse=True)} | present
    for name in names:
        if name.lower() in present:
            found[name] = present[name.lower()]
        else:
            missing.append(name)
    if missing:
        archive = next((path for name, path in present.items() if name.endswith(".zip")), None)
        hint = f"unpack {archive}" if archive else f"download it from {ADDRESS}, or pass --download"
        raise DataError(f"{raw} lacks {', '.join(missing)} (also looked for in {FOLDER}/): {hint}")
    return found


def load(names: Sequence[str], *, directory: Path, address: str = ADDRESS, progress: bool = True) -> Path:
    """Download files of the release by name, and return the folder for `locate`.

    If the server has the folder only as one zip file, that is downloaded and unpacked.

    Raises:
        DataError: the server cannot be reached or lacks a file, or a file is damaged.
    """
    inside = [name for name in names if name in IN_FOLDER]
    beside = [name for name in names if name not in IN_FOLDER]
    try:
        _load([f"{FOLDER}/{name}" for name in inside], directory, address, progress)
    except NotOnServer as error:
        archive = RemoteFile(f"{FOLDER}.zip", magic=b"PK")
        try:
            (path,) = download([archive], address=address, directory=directory, progress=progress)
        except NotOnServer:
            raise error from None
        _unpack(path, inside, directory / FOLDER)
    _load(beside, directory, address, progress)
    return directory


def _load(paths: Sequence[str], directory: Path, address: str, progress: bool) -> None:
    # The release publishes neither sizes nor digests: the server's own size is what is checked.
    files = [RemoteFile(path, magic=b"PAR1") for path in paths]
    download(files, address=address, directory=directory, progress=progress)


def _unpack(archive: Path, names: Sequence[str], folder: Path) -> None:
    """Take the named files out of the archive, wherever they lie in it, and nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with open_zip(archive, by_last_name=True) as content:
            members = {Path(member).name: member for member in content.namelist()}
            for name in names:
                if name not in members:
                    raise DataError(f"{archive}: {name} is not in it")
                if (folder / name).is_file():
                    continue
                info = content.getinfo(members[name])
                # The release is parquet, which zip does not make smaller.
                if info.file_size > most_bytes(info.compress_size):
                    raise DataError(f"{archive}: {name} unfolds to {info.file_size:,} bytes: download it again")
                with (
                    replace_atomically(folder / name) as temporary,
                    content.open(members[name]) as source,
                    temporary.open("wb") as target,
                ):
                    while piece := source.read(1 << 20):
                        target.write(piece)
    except ZIP_ERRORS as error:
        raise DataError(f"{archive}: not a readable zip file ({error}): remove it and download it again") from None
