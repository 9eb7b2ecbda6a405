"""Mutates the bytes of a file: flips, cuts, insertions, repeated blocks, splices of two files, odd numbers."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

# What parsers trip over: marks, halves of characters, control characters, quotes, brackets, odd numbers and words.
PIECES = (
    b"\x00", b"\xff", b"\xfe\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\xc3", b"\xed\xa0\x80", b"\xe2\x80\xae", b"\x85",
    b"\xe2\x80\xa8", b"\r", b"\r\n", b"\n\n", b"\t", b"\x1b[31m", b"\x7f", b'"', b"'", b"\\", b"{", b"}", b"[", b"]",
    b",", b":", b"::", b"|", b"#", b"&a ", b"*a", b"!!python/none", b"!!binary ", b"<<: ", b"? ", b"- ", b"---\n",
    b"...\n", b"null", b"~", b"NaN", b".nan", b"inf", b"-.inf", b"1e999", b"-1", b"0", b"9" * 40, b"1" * 5000,
    b"0x7fffffffffffffff", b"9223372036854775808", b"-9223372036854775809", b"1e-400", b"2025-13-01", b"2025-01-01",
    b"true", b"\xf0\x9f\x98\x80", "\u200f\u0661".encode(), b"A" * 70_000, b"[" * 300, b"{" * 300, b"%", b"`", b"@",
)  # fmt: skip
NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF)


def mutated(content: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """The content with one to eight changes, most often one.

    Args:
        content: of a file.
        others: files of the same kind, to splice with.
        rng: decides.
    """
    data = bytearray(content)
    for _ in range(min(8, 1 + int(rng.expovariate(0.9)))):
        data = rng.choice(_CHANGES)(data, others, rng)
    return bytes(data)


def smaller(content: bytes) -> Iterator[bytes]:
    """The content without a part of it, larger parts first."""
    size = len(content)
    parts = 2
    while parts <= 64 and parts <= size:
        step = size // parts
        for start in range(0, size, step):
            yield content[:start] + content[start + step :]
        parts *= 2


def _span(data: bytearray, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + int(rng.expovariate(1 / 30)) + 1)


def _flip(data: bytearray, others: Sequence[bytes], rng: random.Random) -> bytearray:
    for _ in range(rng.choice((1, 1, 1, 4, 16))):
        if data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def _set(data: bytearray, others: Sequence[bytes], rng: random.Random) -> bytearray:
    if data:
        data[rng.randrange(len(data))] = rng.choice((0, 10, 32, 34, 48, 127, 128, 255, rng.randrange(256)))
    return data


def _cut(data: bytearray, others: Sequence[bytes], rng: random.Random) -> bytearray:
    return data[: rng.randrange(len(data) + 1)] if data else data


def _delete(data: bytearray, others: Sequence[bytes], rng: random.Random) -> bytearray:
    start, stop = _span(data, rng)
    del data[start:stop]
    return data


def _insert(data: bytearray, others: Sequence[bytes], rng: random.Random) -> bytearray:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.choice(PIECES) if rng.random() < 0.8 else rng.randbytes(rng.randrange(1, 20))
    return data


def _replace(data: bytearray, others: Sequence[bytes], rng: random.Random) -> bytearray:
    start, stop = _span(data, rng)
    data[start:stop] = rng.choice(PIECES)
    return data


def _repeat(data: bytearray, others: Sequence[bytes], rng: random.Random) -> bytearray:
    start, stop = _span(data, rng)
    data[start:start] = data[start:stop] * rng.choice((1, 1, 2, 50))
    return data


def _splice(data: bytearray, others: Sequence[bytes], rng: random.Random) -> bytearray:
    other = rng.choice(others) if others else bytes(data)
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


def _number(data: bytearray, others: Sequence[bytes], rng: random.Random) -> bytearray:
    width = rng.choice((1, 2, 4, 8))
    if len(data) >= width:
        at = rng.randrange(len(data) - width + 1)
        number = rng.choice(NUMBERS) & ((1 << 8 * width) - 1)
        data[at : at + width] = number.to_bytes(width, rng.choice(("little", "big")))
    return data


def _swap_lines(data: bytearray, others: Sequence[bytes], rng: random.Random) -> bytearray:
    lines = data.split(b"\n")
    one, two = rng.randrange(len(lines)), rng.randrange(len(lines))
    if rng.random() < 0.5:
        lines[one], lines[two] = lines[two], lines[one]
    else:
        lines[one] = lines[two]
    return bytearray(b"\n".join(lines))


_CHANGES = (_flip, _flip, _set, _cut, _delete, _insert, _insert, _replace, _repeat, _splice, _number, _swap_lines)
