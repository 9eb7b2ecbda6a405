"""A small plotting kit: axes, and SVG that is as wide as its place while its text keeps its size.

A plot is an `<svg>` without a view box. Positions in it are percentages, so it stretches; sizes of text, dots and
strokes are pixels, so they do not. Lines live in an inner `<svg>` that is stretched, with strokes that do not scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from fuxictr_multimodal.text.escape import visible

BOX = 1000  # width and height of the inner, stretched coordinates

# Outlines around (0, 0), in pixels: dots are told apart by form as well as by colour.
SHAPES = {
    "circle": "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0",
    "square": "M-4.4-4.4h8.8v8.8h-8.8z",
    "diamond": "M0-6.2 6.2 0 0 6.2-6.2 0z",
    "up": "M0-5.8 5.6 4.4h-11.2z",
    "down": "M0 5.8 5.6-4.4h-11.2z",
    "ring": "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0",
}


@dataclass(frozen=True)
class Axis:
    """A range of values, linear or logarithmic, and its tick marks."""

    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False

    @classmethod
    def over(cls, values: Sequence[float], *, log: bool = False, count: int = 5, margin: float = 0.06) -> Axis:
        """An axis that holds all values with a margin on both sides.

        >>> Axis.over([0.71, 0.79]).ticks
        (0.72, 0.74, 0.76, 0.78)
        """
        low, high = min(values), max(values)
        if log:
            low, high = math.log10(low), math.log10(high)
        room = (high - low) * margin or max(abs(high), 1e-3) * 0.02
        low, high = low - room, high + room
        if log:
            return cls(10**low, 10**high, log_ticks(10**low, 10**high), log=True)
        return cls(low, high, round_ticks(low, high, count))

    def at(self, value: float) -> float:
        """Where a value lies, 0 at `low` and 1 at `high`."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    @property
    def digits(self) -> int:
        """Decimals that show every tick in full.

        >>> Axis(0.7, 0.8, (0.725, 0.75, 0.775)).digits
        3
        """
        return next(n for n in range(11) if all(abs(round(tick, n) - tick) < 1e-9 for tick in self.ticks))


def round_ticks(low: float, high: float, count: int = 5) -> tuple[float, ...]:
    """About `count` round numbers in [low, high].

    >>> round_ticks(-0.013, 0.031)
    (-0.01, 0.0, 0.01, 0.02, 0.03)
    """
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(round(index * step, 10) + 0.0 for index in range(first, last + 1))


def log_ticks(low: float, high: float) -> tuple[float, ...]:
    """Round numbers in [low, high], denser over fewer decades.

    >>> log_ticks(0.8, 12)
    (1.0, 2.0, 5.0, 10.0)
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors: tuple[float, ...] = ()
    for factors in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        if sum(low <= 10.0**power * factor <= high for power in powers for factor in factors) >= 4:
            break
    values = (float(f"{10.0**power * factor:.6g}") for power in powers for factor in factors)
    return tuple(value for value in values if low <= value <= high)


def tag(name: str, attributes: Mapping[str, object] | None = None, *content: str) -> str:
    """An element; attribute values are escaped, content is markup.

    >>> tag("circle", {"cx": "50%", "r": 2.50})
    '<circle cx="50%" r="2.5"/>'
    >>> tag("text", {}, text_of("a < b"))
    '<text>a &lt; b</text>'
    """
    pairs = "".join(f' {key}="{escape(visible(_short(value)))}"' for key, value in (attributes or {}).items())
    return f"<{name}{pairs}>{''.join(content)}</{name}>" if content else f"<{name}{pairs}/>"


def text_of(text: str) -> str:
    """Plain text as markup."""
    return escape(visible(text), quote=False)


def percent(share: float) -> str:
    """A position or length for an attribute.

    >>> percent(0.12345)
    '12.35%'
    """
    return f"{_short(round(share * 100, 2))}%"


def dot(x: float, y: float, shape: str, *, tip: str = "", css: str = "dot") -> str:
    """A mark at shares `x` of the width and `y` of the height (from below), with a tooltip."""
    title = (tag("title", None, text_of(tip)),) if tip else ()
    mark = tag("path", {"class": css, "d": SHAPES[shape]}, *title)
    return tag("svg", {"x": percent(x), "y": percent(1 - y), "overflow": "visible"}, mark)


def stretched(*content: str) -> str:
    """Paths in coordinates 0 to `BOX` from the lower left, stretched to the plot."""
    box = f"0 0 {BOX} {BOX}"
    attributes = {"viewBox": box, "preserveAspectRatio": "none", "width": "100%", "height": "100%"}
    return tag("svg", {**attributes, "overflow": "visible"}, *content)


def line(points: Sequence[tuple[float, float]], *, css: str, tip: str = "") -> str:
    """A polyline through shares of the plot, for use in `stretched`."""
    pairs = (f"{_short(round(x * BOX, 1))} {_short(round((1 - y) * BOX, 1))}" for x, y in points)
    title = (tag("title", None, text_of(tip)),) if tip else ()
    return tag("path", {"class": css, "d": "M" + "L".join(pairs)}, *title)


def across(x1: float, y1: float, x2: float, y2: float, *, css: str) -> str:
    """A straight line between shares of the plot."""
    ends = {"x1": percent(x1), "y1": percent(1 - y1), "x2": percent(x2), "y2": percent(1 - y2)}
    return tag("line", {"class": css, **ends})


def label(x: float, y: float, text: str, *, css: str, dx: float = 0, dy: float = 0) -> str:
    """Text at shares of the plot, moved by pixels; its anchor is set by the class."""
    return tag("text", {"class": css, "x": percent(x), "y": percent(1 - y), "dx": dx, "dy": dy}, text_of(text))


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
