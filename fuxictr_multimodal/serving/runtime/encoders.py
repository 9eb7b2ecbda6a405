"""Raw values of one column to what a model reads, one class a kind of column.

An encoder is a JSON object `{"name", "kind", ...}` of `vocabulary.json`; `encoder_of` makes the object of it. Codes are
int64, numbers float32: the values that the dataset's own encoders give for the same raw value. `missing` is what a
missing value (None) becomes; where an encoder has none, a value is needed.

| kind | also has |
|---|---|
| `category` | `dtype` (`int` or `str`), `tokens`, `oov`; `codes` where not 1, 2 ...; `text` where tokens of `int` are |
| `encoded_category` | `vocab_size`: other codes become 0 |
| `sequence` | `tokens` (texts), `oov`, `splitter`, `max_len`, `padding`, `pad_token` |
| `encoded_sequence` | `vocab_size`, `splitter`, `max_len`, `padding` |
| `number` | `dtype`; `subtract` and `divide`, or `multiply` and `add` |
| `quantile_bins` | `dtype`, `boundaries` |
| `hash` | `dtype`, `num_buckets` |
| `embedding` | `width`: a missing vector is zero |

Shape legend: n values; T slots of a sequence; d numbers of an embedding.
"""

from __future__ import annotations

import re
import zlib
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import RequestError
from .raw_values import listed, number, shown, token, whole_number
from .stored import MOST_SLOTS, real, reals, text, text_or_none, tokens, whole
from .stored import listed as listed_of

PAD_TOKEN, OOV_TOKEN = "__PAD__", "__OOV__"
_NUMBERS = re.compile(r"[^\s,;^\[\]]+")


class Encoder(ABC):
    """Encodes the values of one column.

    Args:
        stored: the encoder as JSON.

    Attributes:
        name: of the column that the model reads.
        source: name of the raw value, which may be another one.
    """

    def __init__(self, stored: Mapping[str, Any]) -> None:
        self.name = text(stored, "name")
        self.source = text_or_none(stored, "from") or self.name
        self.what = f"column {self.source!r}"
        self.needed = "missing" not in stored
        self.missing: Any = stored.get("missing")

    def encode(self, value: Any) -> NDArray:
        """One value, () or (T,) or (d,).

        Raises:
            RequestError: the value is wrong.
        """
        return self.encode_many([value])[0]

    @abstractmethod
    def encode_many(self, values: Sequence[Any]) -> NDArray:
        """Values, (n, ...).

        Raises:
            RequestError: a value is wrong.
        """

    def _if_missing(self) -> Any:
        if self.needed:
            raise RequestError(f"{self.what}: the value is missing")
        return self.missing


class Category(Encoder):
    """A category with a vocabulary; one that it lacks has the out-of-vocabulary code."""

    def __init__(self, stored: Mapping[str, Any]) -> None:
        super().__init__(stored)
        self._whole = text(stored, "dtype") == "int"
        self._codes = codes_of(stored)
        # Whole numbers that share a vocabulary with texts are looked up as texts.
        self._as_text = self._whole and stored.get("text", False)
        self._type = int if self._whole and not self._as_text else str
        self._oov = whole(stored, "oov")

    def encode_many(self, values: Sequence[Any]) -> NDArray[np.int64]:
        """Codes, (n,)."""
        return np.fromiter(map(self._code, values), np.int64, len(values))

    def _code(self, value: Any) -> int:
        if type(value) is self._type and not self._as_text:
            found = self._codes.get(value)
            if found is not None:
                return found
        key = whole_number(value, self.what) if self._whole else token(value, self.what, whole=True)
        if key is None:
            return self._if_missing()
        return self._codes.get(str(key) if self._as_text else key, self._oov)


class EncodedCategory(Encoder):
    """A code as it is; one outside of the vocabulary is 0."""

    def __init__(self, stored: Mapping[str, Any]) -> None:
        super().__init__(stored)
        self._size = whole(stored, "vocab_size", least=1)

    def encode_many(self, values: Sequence[Any]) -> NDArray[np.int64]:
        """Codes, (n,)."""
        return np.fromiter(map(self._code, values), np.int64, len(values))

    def _code(self, value: Any) -> int:
        code = value if type(value) is int else whole_number(value, self.what)
        if code is None:
            return self._if_missing()
        return code if 0 <= code < self._size else 0


class _Padded(Encoder):
    """Codes of several categories in a fixed number of slots, 0 where there is none."""

    def __init__(self, stored: Mapping[str, Any]) -> None:
        super().__init__(stored)
        self._splitter = text(stored, "splitter")
        self._width = whole(stored, "max_len", least=1, most=MOST_SLOTS)
        self._pre = text(stored, "padding", ("pre", "post")) == "pre"

    def encode_many(self, values: Sequence[Any]) -> NDArray[np.int64]:
        """Codes, (n, T)."""
        found = np.zeros((len(values), self._width), np.int64)
        for row, value in zip(found, values, strict=True):
            if value is None:
                row[:] = self._if_missing()
                continue
            codes = self._codes_of(value)
            if self._pre:
                codes = codes[-self._width :]
                row[self._width - len(codes) :] = codes
            else:
                row[: len(codes)] = codes[: self._width]
        return found

    def _codes_of(self, value: Any) -> list[int]:
        raise NotImplementedError

    def _refused(self, value: Any) -> RequestError:
        return RequestError(
            f"{self.what}: {shown(value)} is no list, nor a text with {self._splitter!r} between its values"
        )


class CategorySequence(_Padded):
    """Categories with a vocabulary: a list of texts or whole numbers, or one text with the splitter between them."""

    def __init__(self, stored: Mapping[str, Any]) -> None:
        super().__init__(stored)
        self._codes = codes_of({**stored, "dtype": "str"})
        self._oov = whole(stored, "oov")
        pad = text_or_none(stored, "pad_token")
        if pad is not None:
            self._codes[pad] = 0

    def _codes_of(self, value: Any) -> list[int]:
        if not isinstance(value, str):
            values = listed(value)
            if values is None:
                raise self._refused(value)
            # A list is one text to the dataset: a value with a splitter in it is several.
            texts = (one if type(one) is str else token(one, self.what) for one in values)
            value = self._splitter.join(text for text in texts if text is not None)
        codes, oov = self._codes, self._oov
        return [codes.get(one, oov) for one in value.split(self._splitter)]


class EncodedSequence(_Padded):
    """Codes as they are, a list or one text with the splitter between them; those outside of the vocabulary are 0."""

    def __init__(self, stored: Mapping[str, Any]) -> None:
        super().__init__(stored)
        self._size = whole(stored, "vocab_size", least=1)

    def _codes_of(self, value: Any) -> list[int]:
        values = (value.split(self._splitter) if value else ()) if isinstance(value, str) else listed(value)
        if values is None:
            raise self._refused(value)
        found = []
        for one in values:
            code = one if type(one) is int else whole_number(one, self.what)
            if code is None or code < 0:
                raise RequestError(f"{self.what}: {shown(one)} is no code; codes count from 0")
            found.append(code if code < self._size else 0)
        return found


class Number(Encoder):
    """A number, scaled as in training."""

    def __init__(self, stored: Mapping[str, Any]) -> None:
        super().__init__(stored)
        self._whole = text(stored, "dtype") == "int"
        self._standard = (real(stored, "subtract"), real(stored, "divide")) if "divide" in stored else None
        self._range = (real(stored, "multiply"), real(stored, "add")) if "multiply" in stored else None

    def encode_many(self, values: Sequence[Any]) -> NDArray[np.float32]:
        """Numbers, (n,)."""
        # In float64 until the end, as the dataset's scalers.
        found = np.fromiter(map(self._scaled, values), np.float64, len(values))
        with np.errstate(over="ignore"):
            single = found.astype(np.float32)
        if not np.isfinite(single).all():
            wrong = values[int(np.argmax(~np.isfinite(single)))]
            raise RequestError(f"{self.what}: {shown(wrong)} is too large: it is no finite float32 number")
        return single

    def _scaled(self, value: Any) -> float:
        found = whole_number(value, self.what) if self._whole else number(value, self.what)
        if found is None:
            return self._if_missing()
        if self._standard is not None:
            return (found - self._standard[0]) / self._standard[1]
        if self._range is not None:
            return found * self._range[0] + self._range[1]
        return found


class QuantileBins(Encoder):
    """The bin of a number: a value that equals a boundary is above it."""

    def __init__(self, stored: Mapping[str, Any]) -> None:
        super().__init__(stored)
        self._whole = text(stored, "dtype") == "int"
        self._boundaries = reals(stored, "boundaries")

    def encode_many(self, values: Sequence[Any]) -> NDArray[np.int64]:
        """Codes, (n,)."""
        return np.fromiter(map(self._code, values), np.int64, len(values))

    def _code(self, value: Any) -> int:
        found = whole_number(value, self.what) if self._whole else number(value, self.what)
        return self._if_missing() if found is None else bisect_right(self._boundaries, float(found)) + 1


class HashBuckets(Encoder):
    """CRC-32 of the UTF-8 text."""

    def __init__(self, stored: Mapping[str, Any]) -> None:
        super().__init__(stored)
        self._whole = text(stored, "dtype") == "int"
        self._buckets = whole(stored, "num_buckets", least=1)

    def encode_many(self, values: Sequence[Any]) -> NDArray[np.int64]:
        """Codes, (n,)."""
        return np.fromiter(map(self._code, values), np.int64, len(values))

    def _code(self, value: Any) -> int:
        key = whole_number(value, self.what) if self._whole else token(value, self.what, whole=True)
        if key is None:
            return self._if_missing()
        return 1 + zlib.crc32(str(key).encode("utf-8", "surrogatepass")) % self._buckets


class Embedding(Encoder):
    """A pretrained vector: a list of numbers, or a text of them; an empty one is zero."""

    def __init__(self, stored: Mapping[str, Any]) -> None:
        super().__init__(stored)
        self._width = whole(stored, "width", least=1, most=MOST_SLOTS)

    def encode_many(self, values: Sequence[Any]) -> NDArray[np.float32]:
        """Vectors, (n, d)."""
        found = np.zeros((len(values), self._width), np.float32)
        for row, value in zip(found, values, strict=True):
            if value is None:
                self._if_missing()
                continue
            numbers = self._numbers(value)
            if len(numbers):
                row[:] = numbers
        return found

    def _numbers(self, value: Any) -> NDArray[np.float32]:
        values = _NUMBERS.findall(value) if isinstance(value, str) else listed(value)
        if values is None:
            raise RequestError(f"{self.what}: {shown(value)} is no list of numbers")
        if len(values) not in (0, self._width):
            raise RequestError(f"{self.what}: a vector of {len(values)} numbers, but the model reads {self._width}")
        if set(map(type, values)) <= {float, int}:
            try:
                found = np.array(values, np.float64)
            except OverflowError:
                found = np.array([np.inf])
        else:
            found = np.array([self._number(one) for one in values], np.float64)
        with np.errstate(over="ignore"):
            single = found.astype(np.float32)
        if not np.isfinite(single).all():
            wrong = values[int(np.argmax(~np.isfinite(single)))]
            raise RequestError(f"{self.what}: the vector holds {shown(wrong)}, which is no finite float32 number")
        return single

    def _number(self, value: Any) -> float:
        found = number(value, self.what)
        if found is None:
            raise RequestError(f"{self.what}: the vector holds {shown(value)}, which is no number")
        return found


KINDS: Mapping[str, type[Encoder]] = {
    "category": Category,
    "encoded_category": EncodedCategory,
    "sequence": CategorySequence,
    "encoded_sequence": EncodedSequence,
    "number": Number,
    "quantile_bins": QuantileBins,
    "hash": HashBuckets,
    "embedding": Embedding,
}


def encoder_of(stored: Mapping[str, Any]) -> Encoder:
    """The encoder of a JSON object.

    Raises:
        ValueError: its kind is unknown, it lacks a key, or the value of one is wrong.

    >>> city = {"name": "city", "kind": "category", "dtype": "str", "tokens": ["rome", "oslo"], "oov": 3, "missing": 3}
    >>> encoder_of(city).encode_many(["oslo", "atlantis", None]).tolist()
    [2, 3, 3]
    """
    found = KINDS[text(stored, "kind", KINDS)](stored)
    if not found.needed:
        try:
            found.encode(None)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(
                f"'missing' of {found.name!r} must be a value that the model can read, but it is {shown(found.missing)}"
            ) from None
    return found


def codes_of(stored: Mapping[str, Any]) -> dict[Any, int]:
    """The vocabulary of an encoder: tokens with their codes.

    The dataset's vocabularies of texts hold two tokens of its own.
    """
    own = tokens(stored, "tokens")
    numbers = listed_of(stored, "codes", int) if stored.get("codes") else range(1, len(own) + 1)
    if len(numbers) != len(own):
        raise ValueError(f"'codes' of {stored['name']!r} must be as many as its tokens")
    codes = dict(zip(own, numbers, strict=True))
    if stored["dtype"] == "str" or stored.get("text"):
        codes |= {PAD_TOKEN: 0, OOV_TOKEN: whole(stored, "oov")}
    return codes
