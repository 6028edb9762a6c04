"""How an output's scores and classes are spread, as a few words with block characters and as a picture."""

from __future__ import annotations

import base64
import importlib.util
import io
from typing import TYPE_CHECKING, Any

import numpy as np

from dagster_kumo.api.errors import KumoDataError
from dagster_kumo.predictions.statistics.summary import CLASS_COLUMNS, SCORE_COLUMNS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from dagster_kumo.predictions.statistics.summary import ColumnSummary, OutputSummary

BLOCKS = " ▁▂▃▄▅▆▇█"
TEXT_BINS = 32
TEXT_CLASSES = 8
PICTURE_BINS = 48
PICTURE_CLASSES = 10
MAX_LABEL = 24
# It is stored in the event log, and loaded with every page that shows it.
MAX_PICTURE_BYTES = 40_000
# The Dagster UI has a light theme and a dark one. These colours have a contrast of 3 or more with both.
BARS, WORDS, MARK = "#7468f0", "#808791", "#d97706"


def score_column(summary: OutputSummary) -> ColumnSummary | None:
    """The column whose distribution says most of an output; None when there is none, as of embeddings."""
    for name in SCORE_COLUMNS:
        column = summary.columns.get(name)
        if column is not None and column.distribution is not None and column.count:
            return column
    return None


def class_column(summary: OutputSummary) -> ColumnSummary | None:
    """The column of classes or items; None when there is none, or more of them than are counted.

    Yes and no are no classes: of these the probabilities say more.
    """
    if "True_PROB" in summary.columns:
        return None
    for name in CLASS_COLUMNS:
        column = summary.columns.get(name)
        if column is not None and column.values:
            return column
    return None


def distribution_as_text(summary: OutputSummary, *, threshold: float | None = None) -> str | None:
    """The distribution in Markdown, short enough for Dagit to show it in place; None without scores.

    Args:
        summary: of the output.
        threshold: from which probability on the answer is yes, where that is known.
    """
    scores, classes = score_column(summary), class_column(summary)
    parts: list[str] = []
    if scores is not None:
        parts.append(_scores_as_text(scores, _yes(summary, threshold)))
    if classes is not None:
        parts.append(_classes_as_text(classes))
    return "\n\n".join(parts) if parts else None


def distribution_as_picture(
    summary: OutputSummary, *, threshold: float | None = None
) -> str | None:
    """The distribution as a picture in Markdown; None without scores, or without matplotlib.

    Raises:
        KumoDataError: the picture is too large for an event log.
    """
    scores, classes = score_column(summary), class_column(summary)
    drawn = [column for column in (scores, classes) if column is not None]
    if not drawn or importlib.util.find_spec("matplotlib") is None:
        return None
    png = _draw(scores, classes, threshold if _has_threshold(scores) else None)
    if len(png) > MAX_PICTURE_BYTES:
        raise KumoDataError(
            f"The picture has {len(png)} bytes, which is too much for an event log."
        )
    title = " and ".join(f"{column.name} of {column.count:,} rows" for column in drawn)
    return f"![{title}](data:image/png;base64,{base64.b64encode(png).decode()})"


# Text


def _scores_as_text(column: ColumnSummary, yes: list[str]) -> str:
    edges = _edges(column, TEXT_BINS)
    counts = _histogram(column, edges)
    top = max(counts) or 1.0
    # A bin that holds anything shows at least the lowest block: the tail is what people look for.
    bar = "".join(
        BLOCKS[0 if c <= 0 else max(1, round(c / top * (len(BLOCKS) - 1)))] for c in counts
    )
    low, median, high = _quantiles(column, [0.05, 0.5, 0.95])
    # A paragraph each: Dagit cuts off a line that is longer than its cell.
    lines = [
        f"`{_number(edges[0])} {bar} {_number(edges[-1])}`",
        f"{column.name} of {column.count:,} rows: half are below {_number(median)}",
        f"nine of ten are from {_number(low)} to {_number(high)}",
    ]
    return "\n\n".join([*lines, *yes])


def _classes_as_text(column: ColumnSummary) -> str:
    labels, counts = _commonest(column, TEXT_CLASSES)
    width = max(map(len, labels))
    top = max(counts)
    lines = [
        f"{label:<{width}} {'█' * max(1, round(count / top * 20)):<20} {count / column.count:.1%}"
        for label, count in zip(labels, counts, strict=True)
    ]
    block = "\n".join(lines)
    return (
        f"```\n{block}\n```\n\n{column.name} of {column.count:,} rows, {column.distinct} classes."
    )


def _yes(summary: OutputSummary, threshold: float | None) -> list[str]:
    """How many are taken for a yes, as the output itself has it."""
    target = summary.columns.get("TARGET_PRED")
    if "True_PROB" not in summary.columns or target is None or not target.values:
        return []
    rows = target.values[True]
    known = f", the threshold being {threshold:g}" if threshold is not None else ""
    return [f"{rows:,} ({rows / target.count:.1%}) get a yes{known}"]


# Picture


def _draw(
    scores: ColumnSummary | None, classes: ColumnSummary | None, threshold: float | None
) -> bytes:
    # The object-oriented interface: pyplot keeps global state and may look for a screen.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 2.6), dpi=100)
    canvas = FigureCanvasAgg(figure)
    figure.patch.set_alpha(0)
    # Places are given: to have them computed would draw everything twice.
    beside = scores is not None and classes is not None
    if scores is not None:
        width = 0.4 if beside else 0.87
        _draw_scores(figure.add_axes((0.1, 0.12, width, 0.76)), scores, threshold)
    if classes is not None:
        at = (0.72, 0.12, 0.24, 0.76) if beside else (0.3, 0.12, 0.66, 0.76)
        _draw_classes(figure.add_axes(at), classes)
    buffer = io.BytesIO()
    canvas.print_png(buffer)
    return buffer.getvalue()


def _draw_scores(axes: Axes, column: ColumnSummary, threshold: float | None) -> None:
    edges = _edges(column, PICTURE_BINS)
    counts = np.array(_histogram(column, edges))
    # A bin that holds anything is to be seen.
    heights = np.where(counts > 0, np.maximum(counts, counts.max() / 120), 0)
    axes.stairs(heights, edges, fill=True, color=BARS, linewidth=0)
    (median,) = _quantiles(column, [0.5])
    title = f"{column.name}: median {_number(median)}"
    if threshold is not None and edges[0] <= threshold <= edges[-1]:
        axes.axvline(threshold, color=MARK, linewidth=1.5)
        title += f", threshold {threshold:g}"
    _dress(axes, title)
    axes.set_ylim(0, heights.max() * 1.05)
    axes.set_xlim(edges[0], edges[-1])
    axes.locator_params(axis="y", nbins=4)
    axes.yaxis.set_major_formatter(lambda value, _: _number(value))


def _draw_classes(axes: Axes, column: ColumnSummary) -> None:
    labels, counts = _commonest(column, PICTURE_CLASSES)
    places = np.arange(len(labels))
    axes.barh(places, counts, height=0.8, color=BARS, linewidth=0)
    axes.set_yticks(places, labels, parse_math=False)
    axes.invert_yaxis()
    _dress(axes, f"{column.name}: {column.distinct} classes")
    axes.locator_params(axis="x", nbins=3)
    axes.xaxis.set_major_formatter(lambda value, _: _number(value))


def _dress(axes: Axes, title: str) -> None:
    axes.patch.set_alpha(0)
    axes.set_title(title, fontsize=9, loc="left", color=WORDS, parse_math=False)
    axes.tick_params(labelsize=8, colors=WORDS)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(WORDS)


# Numbers


def _has_threshold(column: ColumnSummary | None) -> bool:
    return column is not None and column.name == "True_PROB"


def _edges(column: ColumnSummary, bins: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The borders of the bins; of an amount with a long tail up to where nearly all of it lies."""
    low, high = float(column.min), float(column.max)
    if not column.name.endswith("_PROB"):
        high = min(high, *_quantiles(column, [0.995]))
    if 0 <= low < high / 20:
        low = 0.0
    if high <= low:
        low, high = low - 0.5, low + 0.5
    return np.linspace(low, high, bins + 1)


def _histogram(column: ColumnSummary, edges: np.ndarray[Any, np.dtype[np.float64]]) -> list[float]:
    assert column.distribution is not None
    return column.distribution.histogram(edges)


def _quantiles(column: ColumnSummary, probabilities: list[float]) -> list[float]:
    assert column.distribution is not None
    return column.distribution.quantiles(probabilities)


def _commonest(column: ColumnSummary, at_most: int) -> tuple[list[str], list[int]]:
    """The commonest classes with their rows, and the others as one."""
    assert column.values
    found = column.values.most_common()
    if len(found) > at_most:
        rest = found[at_most - 1 :]
        found = [
            *found[: at_most - 1],
            (f"{len(rest)} others", sum(rows for _, rows in rest)),
        ]
    return [_label(name) for name, _ in found], [rows for _, rows in found]


def _label(name: object) -> str:
    """A class in a few characters of one line, without what Markdown would take for its own."""
    text = " ".join(str(name).replace("`", "'").split())
    return text if len(text) <= MAX_LABEL else f"{text[: MAX_LABEL - 1]}…"


def _number(value: float) -> str:
    return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
