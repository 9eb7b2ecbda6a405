"""Columns of texts to vectors, by TF-IDF or by an encoder that the column names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fuxictr_multimodal.data.entry.entry import TFIDF, Entry
from fuxictr_multimodal.data.recipes.text_cache import encoded_once
from fuxictr_multimodal.data.recipes.text_features import TextVectors, fitted_width, tfidf_svd, unit_length
from fuxictr_multimodal.errors import ConfigError, DataError, InputError
from fuxictr_multimodal.text.words import drop_invisible

if TYPE_CHECKING:
    from bilingual_embedding.vectors.named import NamedEncoder

# Beside the datasets: vectors of texts that were encoded before, a folder for each encoder.
CACHE = ".text_vectors"


@dataclass(frozen=True)
class TextEncoders:
    """The encoders of an entry's columns of texts, found and not loaded yet.

    Attributes:
        names: how the entry names them, by column; those of TF-IDF too.
        found: the others, by column.
        cache: folder of vectors that were made before.
        where: the dataset, for messages.
    """

    names: Mapping[str, str]
    found: Mapping[str, NamedEncoder]
    cache: Path
    where: str

    @classmethod
    def of(cls, entry: Entry, data_root: str | Path) -> TextEncoders:
        """Find the encoders that an entry names.

        Raises:
            ConfigError: there is none of that name, or its packages are not installed.
        """
        names = encoder_names(entry)
        found = {name: _find(encoder, _where(entry.where, name)) for name, encoder in names.items() if encoder != TFIDF}
        return cls(names, found, Path(data_root) / CACHE, entry.where)

    def vectors(
        self, column: str, texts: Sequence[str], *, fit_rows: NDArray[np.bool_], dim: int | None
    ) -> tuple[TextVectors, list[str]]:
        """Vectors (N, D) of length 1 and what to tell the user; a text that shows nothing has a row of zeros.

        Args:
            column: name of the column.
            texts: N texts, "" where one is missing.
            fit_rows: texts of which TF-IDF learns, (N,).
            dim: width D; by default that of the encoder.

        Raises:
            DataError: no row has a text, or the encoder is damaged.
        """
        if column not in self.found:
            assert dim is not None, "TF-IDF has no width of its own"
            return tfidf_svd(texts, fit_rows=fit_rows, dim=dim), []
        encoder, where = self.found[column], _where(self.where, column)
        shown = [text.strip() if drop_invisible(text).strip() else "" for text in texts]
        place = {text: row for row, text in enumerate(dict.fromkeys(text for text in shown if text))}
        if not place:
            raise DataError(f"{where}: no item has a text: name another column of the items, or leave this one out")
        try:
            made, fresh = encoded_once(
                list(place), lambda: encoder.load(progress=True), folder=self.cache / encoder.fingerprint
            )
        except InputError as error:
            raise DataError(f"{where}: {error}") from None
        vectors = np.zeros((len(texts), made.shape[1]), dtype=np.float32)
        rows = [row for row, text in enumerate(shown) if text]
        vectors[rows] = made[[place[shown[row]] for row in rows]]
        fitted, how = fitted_width(vectors, dim or made.shape[1])
        if "variance_kept" in how:
            # PCA shortens vectors; those of all encoders have one length.
            fitted = unit_length(fitted)
        metadata = {
            "method": "encoder",
            "encoder": self.names[column],
            "kind": encoder.kind,
            **({"revision": encoder.revision} if encoder.revision else {"folder": Path(encoder.place).name}),
            "fingerprint": encoder.fingerprint,
            "width": fitted.shape[1],
            "texts": len(place),
            "items_without_vector": int((~fitted.any(axis=1)).sum()),
            **how,
        }
        others = ", the others were cached" if fresh < len(place) else ""
        note = f"{column}: encoded {fresh:,} of {len(place):,} texts{others}"
        return TextVectors(np.asarray(fitted, dtype=np.float32), metadata), [note]


def encoder_names(entry: Entry) -> dict[str, str]:
    """Encoders of the columns of texts as the entry names them, by column."""
    making = {column["name"]: entry.columns.making[column["name"]] for column in entry.columns.items}
    return {name: keys["encoder"] for name, keys in making.items() if "encoder" in keys}


def changed_encoder(entry: Entry, built: Mapping[str, Mapping[str, object]]) -> str | None:
    """The first column whose encoder on this machine is another one than its vectors were made by.

    What is not on this machine is not compared: a dataset needs its encoder no more.

    Args:
        entry: the entry.
        built: metadata of vectors by column, of the dataset's manifest.
    """
    made_by = {column: facts["fingerprint"] for column, facts in built.items() if "fingerprint" in facts}
    # An entry of other data need not have columns of its own.
    for column, name in encoder_names(entry).items() if made_by else ():
        if column not in made_by:
            continue
        try:
            from bilingual_embedding.vectors.named import find_local

            found = find_local(name)
        except (ImportError, ConfigError):
            continue
        if found is not None and found.fingerprint != made_by[column]:
            return column
    return None


def _where(where: str, column: str) -> str:
    return f"{where}: column {column!r}"


def _find(name: str, where: str) -> NamedEncoder:
    # Encoders need packages that a dataset without them does not.
    try:
        from bilingual_embedding.vectors.named import find_encoder
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{where}: encoder {name!r} needs {error.name}: pip install 'fuxictr-multimodal[embedding]'"
        ) from None
    try:
        return find_encoder(name)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
