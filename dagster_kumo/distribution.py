"""The distribution of an output's scores, as a picture or as a bar of block characters."""

from __future__ import annotations

import base64
import importlib.util
import io
from typing import TYPE_CHECKING, Any

import numpy as np

from dagster_kumo.api.errors import KumoDataError

if TYPE_CHECKING:
    from dagster_kumo.predictions.statistics import ColumnSummary, OutputSummary

SCORE_COLUMNS = ("True_PROB", "SCORE", "TARGET_PRED")
BLOCKS = " ▁▂▃▄▅▆▇█"
TEXT_BINS = 32
PICTURE_BINS = 48
MAX_PICTURE_BYTES = (
    40_000  # it is stored in the event log, and loaded with every page that shows it
)


def score_column(summary: OutputSummary) -> ColumnSummary | None:
    """The column whose distribution says most of an output; None when there is none, as of embeddings."""
    for name in SCORE_COLUMNS:
        column = summary.columns.get(name)
        if column is not None and column.distribution is not None and column.count:
            return column
    return None


def distribution_as_text(column: ColumnSummary) -> str:
    """The distribution as a bar of block characters, in Markdown."""
    edges = _edges(column, TEXT_BINS)
    counts = _histogram(column, edges)
    top = max(counts) or 1.0
    # A bin that holds anything shows at least the lowest block: the tail is what people look for.
    bar = "".join(
        BLOCKS[0 if c <= 0 else max(1, round(c / top * (len(BLOCKS) - 1)))] for c in counts
    )
    return f"`{_number(edges[0])} {bar} {_number(edges[-1])}`\n\n{column.name} of {column.count:,} rows"


def distribution_as_picture(column: ColumnSummary, *, title: str) -> str | None:
    """The distribution as a picture, in Markdown; None without matplotlib (the extra `plots`)."""
    if importlib.util.find_spec("matplotlib") is None:
        return None
    png = _draw(column, title)
    if len(png) > MAX_PICTURE_BYTES:
        raise KumoDataError(
            f"The picture has {len(png)} bytes, which is too much for an event log."
        )
    return f"![{title}](data:image/png;base64,{base64.b64encode(png).decode()})"


def _draw(column: ColumnSummary, title: str) -> bytes:
    # The object-oriented interface: pyplot keeps global state and may look for a screen.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    edges = _edges(column, PICTURE_BINS)
    counts = _histogram(column, edges)
    figure = Figure(figsize=(6.4, 2.8), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.bar(edges[:-1], counts, width=np.diff(edges), align="edge", color="#4f43dd", linewidth=0)
    median = column.distribution.quantiles([0.5])[0] if column.distribution else 0.0
    axes.axvline(median, color="#d1495b", linewidth=1.2, label=f"median {_number(median)}")
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel(column.name, fontsize=9)
    axes.set_ylabel("rows", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _edges(column: ColumnSummary, bins: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The borders of the bins; of an amount with a long tail up to where nearly all of it lies."""
    low, high = float(column.min), float(column.max)
    if column.distribution is not None and not column.name.endswith("_PROB"):
        high = min(high, column.distribution.quantiles([0.995])[0])
    if high <= low:
        low, high = low - 0.5, low + 0.5
    return np.linspace(low, high, bins + 1)


def _histogram(column: ColumnSummary, edges: np.ndarray[Any, np.dtype[np.float64]]) -> list[float]:
    assert column.distribution is not None
    return column.distribution.histogram(edges)


def _number(value: float) -> str:
    return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
