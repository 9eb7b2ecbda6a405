"""Explanations as text with bars, and as pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Column, Table
from rich.text import Text

from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.explain.attention import RowExplanation, Sparsity
from fuxictr_multimodal.explain.block_importance import CONTEXT, ITEM, BlockImportance
from fuxictr_multimodal.explain.layer_scales import LayerScale, Scales
from fuxictr_multimodal.system.files import replace_atomically
from fuxictr_multimodal.text.escape import label, one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BAR = 24  # characters of the longest bar
INK, SOFT = "#0b63c5", "#c4500a"


def row_table(found: RowExplanation, name: Callable[[int], str], *, top: int | None = None) -> Table:
    """The history of a row as a table, the item with the greatest weight first; `age` 1 is the newest item.

    Args:
        found: the row.
        name: what to call an item.
        top: rows of the table at most.
    """
    title = _plain(_title(found, name), style="table.title")
    table = Table("age", "history item", "weight", "", title=title, title_justify="left")
    largest = max(map(abs, found.weights), default=0) or 1
    for place in _by_weight(found)[:top]:
        weight = found.weights[place]
        bar = Text("█" * round(BAR * abs(weight) / largest), style="blue" if weight > 0 else "red")
        table.add_row(str(len(found.items) - place), _plain(name(found.items[place])), _number(weight), bar)
    zeros = sum(weight == 0 for weight in found.weights)
    left_out = "" if top is None or top >= len(found.items) else f"; {len(found.items) - top} more not shown"
    table.caption = f"{len(found.items)} history items, {zeros} with a weight of exactly 0{left_out}"
    return table


def sparsity_table(rows: Sequence[Sparsity]) -> Table:
    """Fraction of exact zeros by length of the history, and over all rows."""
    table = Table("history length", "rows", "items", "weight 0", "rows with no weight at all")
    for row in rows:
        span = str(row.longest) if row.shortest == row.longest else f"{row.shortest} to {row.longest}"
        table.add_row(span, *_counts(row.rows, row.items, row.zeros, row.rows_all_zero))
    table.add_section()
    totals = [sum(getattr(row, key) for row in rows) for key in ("rows", "items", "zeros", "rows_all_zero")]
    table.add_row("all", *_counts(*totals))
    return table


def blocks_table(found: BlockImportance) -> Table:
    """The fall of AUC without each block, the greatest first; a red bar is a rise."""
    repeats = len(found.blocks[0].falls)
    title = f"{found.split}, {found.rows:,} rows: AUC {found.auc:.4f}"
    table = Table("block", "kind", "drop in AUC", "spread", "", title=title, title_justify="left")
    largest = max((abs(block.mean) for block in found.blocks), default=0) or 1
    for block in found.blocks:
        bar = Text("█" * round(BAR * abs(block.mean) / largest), style="blue" if block.mean > 0 else "red")
        spread = "" if block.spread is None else f"{block.spread:.4f}"
        table.add_row(_plain(block.block), block.kind, f"{block.mean:.4f}", spread, bar)
    times = "once" if repeats == 1 else f"{repeats} times; spread: standard deviation over these"
    table.caption = f"each block shuffled {times}"
    return table


def scales_table(found: Scales) -> Table:
    """Sizes of outputs, weights and gradients of each layer, in the order in which layers are done."""
    start = "weights as initialised" if found.fresh else "trained weights"
    loss = "a prediction is not a number" if found.loss is None else f"mean loss {found.loss:.4f}"
    title = f"{start}, {found.batches} batches of train, {loss}"
    headings = ("output", "zeros", "d output", "weights", "d weights", "ratio")
    table = Table(Column("layer", overflow="fold"), title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading, no_wrap=True, justify="right")
    for layer in found.layers:
        table.add_row(_plain(layer.name), *_scales(layer))
    table.caption = "root mean squares; d: gradient of the loss; zeros: fraction of outputs; ratio: d weights / weights"
    return table


def draw_rows(found: Sequence[RowExplanation], name: Callable[[int], str], path: Path, *, top: int = 20) -> None:
    """Draw the weights of one or several rows as bars, a panel a row, and write a picture (PNG, SVG or PDF).

    Raises:
        ConfigError: matplotlib is missing, or cannot write such a file.
    """
    heights = [1.3 + 0.28 * max(min(top, len(row.items)), 1) for row in found]
    figure, panels = _figure((9, sum(heights)), len(found), heights)
    for row, axes in zip(found, panels, strict=True):
        places = _by_weight(row)[:top][::-1]
        weights = [row.weights[place] for place in places]
        axes.barh(range(len(places)), weights, color=[INK if weight > 0 else SOFT for weight in weights], height=0.7)
        labels = [f"{_short(name(row.items[place]))}  · {len(row.items) - place}" for place in places]
        axes.set_yticks(range(len(places)), labels, fontsize=8)
        axes.set_title(_short(_title(row, name), 110), fontsize=9, loc="left")
        axes.set_xlabel("weight (behind the name: 1 = the newest item)", fontsize=8)
        if not places:
            axes.text(0.5, 0.5, "no history", ha="center", va="center", transform=axes.transAxes)
    _save(figure, path)


def draw_sparsity(rows: Sequence[Sparsity], title: str, path: Path) -> None:
    """Draw the fraction of exact zeros by length of the history.

    Raises:
        ConfigError: matplotlib is missing, or cannot write such a file.
    """
    figure, (axes,) = _figure((6.4, 3.8), 1, [1])
    spans = [str(r.longest) if r.shortest == r.longest else f"{r.shortest}-{r.longest}" for r in rows]
    bars = axes.bar(spans, [100 * row.share_of_zeros for row in rows], color=INK, width=0.7)
    axes.bar_label(bars, [f"{100 * row.share_of_zeros:.0f}%" for row in rows], fontsize=8)
    axes.set_ylim(0, 105)
    axes.set_xlabel("history length")
    axes.set_ylabel("weights of exactly 0, %")
    axes.set_title(_short(title, 110), fontsize=10)
    _save(figure, path)


def draw_blocks(found: BlockImportance, title: str, path: Path) -> None:
    """Draw the fall of AUC without each block as bars, the greatest on top, with the spread over repeats.

    Raises:
        ConfigError: matplotlib is missing, or cannot write such a file.
    """
    blocks = found.blocks[::-1]
    figure, (axes,) = _figure((8, 1.3 + 0.3 * len(blocks)), 1, [1])
    falls = [block.mean for block in blocks]
    spreads = [block.spread or 0 for block in blocks]
    colors = [INK if fall > 0 else SOFT for fall in falls]
    axes.barh(range(len(blocks)), falls, xerr=spreads, color=colors, height=0.7, ecolor="0.35", capsize=3)
    named = [f"{block.block}  · {block.kind}" if block.kind in (CONTEXT, ITEM) else block.block for block in blocks]
    labels = [_short(name) for name in named]
    axes.set_yticks(range(len(blocks)), labels, fontsize=8)
    axes.axvline(0, color="0.35", linewidth=0.8)
    axes.set_xlabel(f"drop in AUC with the block shuffled (AUC {found.auc:.4f})", fontsize=8)
    axes.set_title(_short(title, 110), fontsize=9, loc="left")
    _save(figure, path)


def check_picture(path: Path) -> None:
    """Refuse a picture that cannot be written before the work for it is done.

    Raises:
        ConfigError: matplotlib is missing, or cannot write such a file.
    """
    _picture_kind(path)
    _figure_class()


def _figure(size: tuple[float, float], panels: int, heights: Sequence[float]) -> tuple[Figure, list[Axes]]:
    figure = _figure_class()(figsize=size, dpi=110, layout="constrained")
    axes: list[Axes] = list(figure.subplots(panels, 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0])
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=8)
    return figure, axes


def _figure_class() -> type[Figure]:
    try:
        # Not pyplot: it keeps global state and may look for a screen.
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise ConfigError("drawing needs matplotlib: pip install matplotlib; text output needs no --out") from None
    return Figure


def _picture_kind(path: Path) -> str:
    kind = path.suffix.lstrip(".").lower()
    if kind not in ("png", "svg", "pdf"):
        raise ConfigError(f"--out {path}: pictures must be .png, .svg or .pdf")
    return kind


def _save(figure: Figure, path: Path) -> None:
    kind = _picture_kind(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_atomically(path) as temporary:
        figure.savefig(temporary, format=kind)


def _by_weight(found: RowExplanation) -> list[int]:
    """Places in the history, greatest weight first, newest first among equals."""
    return sorted(range(len(found.items)), key=lambda place: (-found.weights[place], -place))


def _title(found: RowExplanation, name: Callable[[int], str]) -> str:
    who = "" if found.group is None else f", user {found.group}"
    label = "" if found.label is None else f", label {found.label:g}"
    return f"row {found.row}{who}: {name(found.target)}, score {found.score:.4f}{label}"


def _plain(text: str, *, style: str = "") -> Text:
    """The text in one line, in which rich reads no markup."""
    return Text(one_line(text), style=style)


def _counts(rows: int, items: int, zeros: int, empty: int) -> list[str]:
    share = f"{zeros / items:.1%}" if items else ""
    return [f"{rows:,}", f"{items:,}", share, f"{empty / rows:.1%}" if rows else ""]


def _scales(layer: LayerScale) -> list[str]:
    columns = (layer.output_gradient, layer.weights, layer.weight_gradient, layer.ratio)
    return [
        _number(layer.output),
        f"{layer.zeros:.1%}",
        *("" if value is None else _number(value) for value in columns),
    ]


def _number(weight: float) -> str:
    return "0" if weight == 0 else f"{weight:.3g}"


def _short(text: str, length: int = 48) -> str:
    """The text as a label of a picture, its end left out where it is too long."""
    line = one_line(text)
    return label(line if len(line) <= length else line[: length - 1] + "…")
