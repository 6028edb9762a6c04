"""Pictures of an evaluation, in Markdown: calibration, gains, and predicted against actual amounts."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from itertools import accumulate

from dagster_kumo.checks.evaluation.joined_rows import Task
from dagster_kumo.checks.evaluation.metrics import Group
from dagster_kumo.io_manager.figure import BARS, MARK, WORDS, as_markdown, new_figure

WIDTH, HEIGHT = 7.2, 3.6


def pictures(task: Task, groups: Sequence[Group]) -> dict[str, str]:
    """The pictures by the names of their entries; none without groups, or without matplotlib."""
    if not groups or importlib.util.find_spec("matplotlib") is None:
        return {}
    if task != "binary":
        return {"predicted_vs_actual": _by_group(groups, "mean", is_share=False)}
    drawn = {"calibration": _by_group(groups, "rate", is_share=True)}
    if any(group.total for group in groups):
        drawn["gains"] = _gains(groups)
    return drawn


def _by_group(groups: Sequence[Group], what: str, *, is_share: bool) -> str:
    """Two bars for each group: what was predicted, and what happened."""
    title = f"Ten groups, the highest predictions first. Purple: predicted {what}; orange: actual"
    figure, axes = new_figure(WIDTH, HEIGHT, (0.03, 0.16, 0.94, 0.72))
    places = range(len(groups))
    top = max(max(group.predicted, group.actual) for group in groups) or 1
    for offset, color, values in (
        (-0.21, BARS, [group.predicted for group in groups]),
        (0.21, MARK, [group.actual for group in groups]),
    ):
        at = [place + offset for place in places]
        bars = axes.bar(at, values, width=0.4, color=color, linewidth=0)
        said = [_percent(value) if is_share else f"{value:,.3g}" for value in values]
        axes.bar_label(bars, said, padding=2, fontsize=7, color=WORDS, rotation=90)
    axes.set_xticks(list(places), [f"{group.rows:,}" for group in groups])
    axes.set_xlabel("entities", fontsize=9, color=WORDS)
    axes.set_yticks([])
    axes.set_ylim(min(0, *(min(g.predicted, g.actual) for g in groups)), top * 1.3)
    return as_markdown(figure, title)


def _gains(groups: Sequence[Group]) -> str:
    """Which share of what came true is among the first so many entities."""
    title = "Of all that came true, the share among the most likely. Gray: by chance"
    figure, axes = new_figure(WIDTH, HEIGHT, (0.09, 0.16, 0.88, 0.72))
    rows = sum(group.rows for group in groups)
    total = sum(group.total for group in groups)
    asked = [0.0, *(so_far / rows for so_far in accumulate(group.rows for group in groups))]
    found = [0.0, *(so_far / total for so_far in accumulate(group.total for group in groups))]
    axes.plot([0, 1], [0, 1], color=WORDS, linewidth=1, linestyle="--")
    axes.plot(asked, found, color=BARS, linewidth=2, marker="o", markersize=4)
    for x, y in list(zip(asked, found, strict=True))[1:6]:
        axes.annotate(
            _percent(y),
            (x, y),
            xytext=(4, -11),
            textcoords="offset points",
            fontsize=8,
            color=WORDS,
        )
    ticks = [place / 5 for place in range(6)]
    axes.set_xticks(ticks, [_percent(tick) for tick in ticks])
    axes.set_yticks(ticks, [_percent(tick) for tick in ticks])
    axes.set_xlabel("entities, the most likely first", fontsize=9, color=WORDS)
    axes.spines["left"].set_visible(True)
    axes.spines["left"].set_color(WORDS)
    return as_markdown(figure, title)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.0995 or not share else f"{100 * share:.1f} %"
