"""How an output's scores are distributed, or its classes: in words and block characters, and as a picture."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from dagster_kumo.io_manager.figure import (
    BARS,
    MARK,
    WORDS,
    as_label,
    as_markdown,
    new_figure,
)
from dagster_kumo.predictions.columns import CLASS_COLUMNS, SCORE_COLUMNS, TARGET_PRED, TRUE_PROB

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from dagster_kumo.predictions.statistics.quantiles import Distribution
    from dagster_kumo.predictions.statistics.summary import ColumnSummary, OutputSummary

MAX_CLASS_BARS = 10  # that have a bar; the others share one
MAX_RANGES = 11
BAR = 20  # characters of the longest bar in the text
MAX_LABEL = 24

# Edges for the scores of a rare event, of a frequent one, and of one that is neither.
_RARE = (0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)
_FREQUENT = (0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 1)
_EVEN = (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)
_VERY_RARE = (0, 1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 1)


@dataclass
class Bar:
    """A range of scores or a class, and its share of the output.

    Attributes:
        label: What it stands for.
        share: 0 to 1.
        start: Where its range begins; None for a class and for a single value.
        end: Where its range ends.
        is_marked: Whether it is at or above the threshold.
        best: Of a class, the share of the entities that it is the best for.
        stands_for_others: Whether it is all that has no bar of its own; then it is not drawn.
    """

    label: str
    share: float
    start: float | None = None
    end: float | None = None
    is_marked: bool = False
    best: float | None = None
    stands_for_others: bool = False


@dataclass
class Chart:
    """What is drawn of an output: its bars, and the lines of text above them."""

    title: str
    lines: list[str]
    bars: list[Bar]


def chart_of(
    summary: OutputSummary, *, threshold: float | None = None, entities: int | None = None
) -> Chart | None:
    """What to draw of an output; None when it has neither scores nor classes nor vectors.

    From the `threshold` on, the answer is yes; `entities` is how many its job predicted for. Both may not be known.
    """
    classes = _class_bars(summary, entities)
    if classes is not None:
        return classes
    for name in SCORE_COLUMNS:
        column = summary.columns.get(name)
        if column is not None and column.distribution is not None:
            return _score_chart(column, summary, threshold if name == TRUE_PROB else None)
    vectors = next((column for column in summary.columns.values() if column.is_vector), None)
    return None if vectors is None else _score_chart(vectors, summary, None)


def distribution_as_text(chart: Chart) -> str:
    """The distribution in Markdown, short enough for the Dagster UI to show it in place."""
    width = max((len(bar.label) for bar in chart.bars), default=0)
    longest = max((bar.share for bar in chart.bars if not bar.stands_for_others), default=0) or 1
    block: list[str] = []
    for bar in chart.bars:
        drawn = "█" * round(bar.share / longest * BAR) or ("▏" if bar.share else "")
        drawn = "" if bar.stands_for_others else drawn
        line = f"{bar.label:<{width}} {drawn:<{BAR}} {_percent(bar.share):>7}"
        block.append(line + (f" {_percent(bar.best):>7}" if bar.best is not None else ""))
    # One paragraph each: the Dagster UI cuts off lines that are longer than the cell.
    text = "\n\n".join(chart.lines)
    return text + ("\n\n```\n{}\n```".format("\n".join(block)) if block else "")


def distribution_as_picture(chart: Chart) -> str | None:
    """The distribution as a picture in Markdown; None without bars, or without matplotlib.

    Raises:
        KumoDataError: The picture is too large for an event log.
    """
    if not chart.bars or importlib.util.find_spec("matplotlib") is None:
        return None
    return as_markdown(_draw(chart), chart.title)


# Classes


def _class_bars(summary: OutputSummary, entities: int | None) -> Chart | None:
    shares = summary.class_shares
    if shares is not None:
        means, best = shares.mean_scores(entities), shares.best_of(entities)
        if not means:
            return Chart("", ["No class has a score."], [])
        count = best.total() if best else 0
        bars = [
            Bar(name, mean, best=best[name] / count if best and count else None)
            for name, mean in sorted(means.items(), key=lambda item: -item[1])
        ]
        title = f"{len(bars):,} classes: mean score"
        line = f"{title}, share of entities for which it is the best" if best else title
        if best:
            title += f"; orange: share of {count:,} entities for which it is the best"
        return Chart(title, [line], _others(bars))
    if TRUE_PROB in summary.columns:
        return None  # of yes and no the probabilities say more
    for name in CLASS_COLUMNS:
        column = summary.columns.get(name)
        if column is not None and column.values:
            bars = [Bar(str(c), n / column.count) for c, n in column.values.most_common()]
            title = f"{name}: {len(bars):,} classes, share of {_rows(column.count)}"
            return Chart(title, [title], _others(bars))
    return None


def _others(bars: list[Bar]) -> list[Bar]:
    """The first bars, and one for all others if the shares add up to one."""
    if sum(bar.share for bar in bars) > 1.001:
        bars = bars[:MAX_CLASS_BARS]
    if len(bars) > MAX_CLASS_BARS:
        rest = bars[MAX_CLASS_BARS - 1 :]
        best = [bar.best for bar in rest if bar.best is not None]
        together = Bar(
            f"{len(rest):,} others",
            sum(bar.share for bar in rest),
            best=sum(best) if best else None,
            stands_for_others=True,
        )
        bars = [*bars[: MAX_CLASS_BARS - 1], together]
    for bar in bars:
        bar.label = as_label(bar.label, MAX_LABEL)
    return bars


# Scores


def _score_chart(column: ColumnSummary, summary: OutputSummary, threshold: float | None) -> Chart:
    assert column.distribution is not None
    name = column.name
    lines: list[str] = []
    if column.is_vector:
        size = f"{column.dimension} dimensions" if column.dimension else "several dimensions"
        lines, name = [f"{name}: {size}"], f"Norm of {name}"
    if not column.count:
        return Chart("", [f"{column.name} has no value in any of {_rows(column.rows)}."], [])
    number = _probability if _is_probability(column) else _number
    low, median, high = map(number, column.quantiles() or (0.0, 0.0, 0.0))
    said = f"{name}: median {median}"
    if column.max > column.min:
        said += f", 90 % between {low} and {high}" if low != high else f", 95 % {high}"
    lines.append(said)
    if number is _number:
        lines.append(f"Largest: {number(float(column.max))}")
    title = f"{name}, share of {_rows(column.count)}"
    target = summary.columns.get(TARGET_PRED)
    if column.name == TRUE_PROB and target is not None and target.values:
        yes, rows = target.values[True], target.count
        known = f"at or above the threshold {threshold:g}" if threshold is not None else "get a yes"
        lines.append(f"{yes:,} of {rows:,} ({_percent(yes / rows)}) {known}")
        if threshold is not None:
            title += f"; orange: {known} ({_percent(yes / rows)})"
    return Chart(title, lines, _score_bars(column, threshold))


def _score_bars(column: ColumnSummary, threshold: float | None) -> list[Bar]:
    distribution = column.distribution
    assert distribution is not None
    low, high = float(column.min), float(column.max)
    zeros = 0
    # Whole numbers have bins that begin and end with one.
    whole = pa.types.is_integer(column.type)
    if _is_probability(column):
        known = [] if threshold is None else [threshold]
        edges: list[float] = sorted({*_probability_edges(distribution), *known})
    elif high == low:
        return [Bar(_number(low), 1.0)]
    else:
        if low == 0:
            zeros = int(distribution.below(np.array([np.nextafter(0, 1)]))[0])
        edges = _amount_edges(distribution, low, high, zeros / column.count, whole=whole)
    below = distribution.below(np.array(edges, dtype=float))
    below[0], below[-1] = zeros, column.count
    bars: list[Bar] = [Bar("0", zeros / column.count)] if zeros else []
    for start, end, rows in zip(edges, edges[1:], np.diff(below).tolist(), strict=False):
        first, last = _number(start), _number(end)
        if whole:
            first = _number(1) if zeros and not start else first
            last = last if end == high else _number(end - 1)
        label = f"{first} to {last}" if first != last else first
        if zeros and not start and not whole:
            label = f"up to {last}"
        is_marked = threshold is not None and start >= threshold
        bars.append(Bar(label, rows / column.count, start, end, is_marked))
    return bars


def _is_probability(column: ColumnSummary) -> bool:
    known = column.name.endswith("_PROB") or column.name == "SCORE"
    return known and column.count > 0 and column.min >= 0 and column.max <= 1


def _probability_edges(distribution: Distribution) -> Sequence[float]:
    """The same from day to day, as long as the scores stay where they are."""
    median, high = distribution.quantiles([0.5, 0.9])
    if high < _RARE[1]:
        return _VERY_RARE
    if median < 0.1:
        return _RARE
    return _FREQUENT if median > 0.9 else _EVEN


def _amount_edges(
    distribution: Distribution, low: float, high: float, zeros: float, *, whole: bool
) -> list[float]:
    """Round numbers, evenly spaced or, of amounts with a long tail, as 1, 2, 5, 10; up to the true ends."""
    shares = zeros + np.array([0.05, 0.25, 0.98]) * (1 - zeros)
    start, lower, end = distribution.quantiles(shares)
    if low >= 0 and high > 20 * start > 0:
        powers = range(math.floor(math.log10(start)), math.ceil(math.log10(high)) + 1)
        inner = [step * 10.0**power for power in powers for step in (1, 2, 5)]
        inner = [edge for edge in inner if start / 2 < edge < high and (edge > 1 or not whole)]
        if len(inner) > MAX_RANGES and inner[-MAX_RANGES] > lower:
            inner = [edge for edge in inner if math.log10(edge).is_integer()]
        inner = inner[-MAX_RANGES:]
    else:
        step = _round_up((end - start) / (MAX_RANGES - 4)) if end > start else (high - low) / 4
        step = max(step, 1.0) if whole else step
        first = math.floor(start / step) + 1
        inner = [step * (first + n) for n in range(MAX_RANGES - 1)]
    return [low, *(edge for edge in inner if low < edge < high), high]


def _round_up(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * 0.999)


# Picture


def _draw(chart: Chart) -> Figure:
    if all(bar.start is None for bar in chart.bars):  # they stand for classes
        height = 0.8 + 0.3 * len(chart.bars)
        figure, axes = new_figure(7.2, height, (0.26, 0.04, 0.62, 1 - 0.55 / height))
        axes.spines["bottom"].set_visible(False)
        _draw_classes(axes, chart.bars)
    else:
        figure, axes = new_figure(7.2, 2.6, (0.05, 0.13, 0.9, 0.72))
        _draw_ranges(axes, chart.bars)
    return figure


def _draw_ranges(axes: Axes, bars: list[Bar]) -> None:
    places = np.arange(len(bars))
    shares = [bar.share for bar in bars]
    top = max(shares)
    colors = [MARK if bar.is_marked else BARS for bar in bars]
    drawn = axes.bar(places, shares, width=0.92, color=colors, linewidth=0)
    size = 9 if len(bars) <= 10 else 8
    axes.bar_label(drawn, list(map(_percent, shares)), padding=2, fontsize=size, color=WORDS)
    if any(bar.label == _number(bar.start) for bar in bars if bar.start is not None):
        axes.set_xticks(places, [bar.label for bar in bars])  # whole numbers
    else:
        # The numbers stand between the bars; a single value stands below its own.
        ranges = [(place, bar) for place, bar in enumerate(bars) if bar.start is not None]
        ticks = {place + 0.5: bar.end or 0.0 for place, bar in ranges}
        first, bar = ranges[0]
        ticks[first - 0.5 if first == 0 else 0.0] = bar.start or 0.0
        axes.set_xticks(list(ticks), [_number(value) for value in ticks.values()])
    axes.set_yticks([])
    axes.set_ylim(0, top * 1.15)
    axes.set_xlim(-0.6, len(bars) - 0.4)


def _draw_classes(axes: Axes, bars: list[Bar]) -> None:
    places = np.arange(len(bars))
    has_best = any(bar.best is not None for bar in bars)
    longest = max(max(b.share, b.best or 0) for b in bars if not b.stands_for_others) or 1
    series: list[tuple[float, float, str, list[float]]] = [
        (-0.2 if has_best else 0.0, 0.38 if has_best else 0.8, BARS, [bar.share for bar in bars])
    ]
    if has_best:
        series.append((0.2, 0.38, MARK, [bar.best or 0.0 for bar in bars]))
    for offset, height, color, shares in series:
        drawn = [0.0 if b.stands_for_others else s for b, s in zip(bars, shares, strict=True)]
        rows = axes.barh(places + offset, drawn, height=height, color=color, linewidth=0)
        labels = list(map(_percent, shares))
        axes.bar_label(rows, labels, padding=3, fontsize=8 if has_best else 9, color=WORDS)
    axes.set_yticks(places, [bar.label for bar in bars], parse_math=False)
    axes.invert_yaxis()
    axes.set_xticks([])
    axes.set_xlim(0, longest * 1.12)


# Text


def _rows(count: int) -> str:
    return f"{count:,} row{'s' * (count != 1)}"


def _percent(share: float) -> str:
    if not share:
        return "0 %"
    return "< 0.1 %" if share < 0.0005 else f"{100 * share:.1f} %"


def _probability(value: float) -> str:
    if 0 < value < 0.001:
        return "below 0.001"
    return "above 0.99" if 0.99 < value < 1 else f"{value:.2g}"


def _number(value: float) -> str:
    if abs(value) >= 1e9:
        return f"{value:.2e}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return np.format_float_positional(float(f"{value:.4g}"), trim="-")
