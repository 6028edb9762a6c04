"""How far the scores and classes of an output have moved from those of another one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dagster_kumo.predictions.columns import CLASS_COLUMNS, SCORE_COLUMNS, TRUE_PROB
from dagster_kumo.predictions.statistics.quantiles import Bins, FloatArray
from dagster_kumo.predictions.statistics.stored_statistics import StoredColumn, StoredStatistics

BINS = 10
LEAST_SHARE = 1e-4  # of an empty bin, because the logarithm of its share is taken
BEST_CLASS = "best_class"
"""What is compared beside the column CLASS: the entities that each class is the best for."""


def compared_columns(statistics: StoredStatistics) -> list[str]:
    """The columns with the most informative drift: scores and classes."""
    there = statistics.columns
    scores = [
        name for name in SCORE_COLUMNS if name in there and there[name].distribution is not None
    ]
    labels = [name for name in CLASS_COLUMNS if name in there and there[name].classes]
    # For a yes or no question, the classes say no more than the probabilities.
    return scores[:1] + ([] if TRUE_PROB in scores else labels[:1])


def drift(
    before: StoredStatistics, now: StoredStatistics, columns: Sequence[str]
) -> dict[str, float]:
    """The population stability index of columns, as far as both outputs have them.

    It is 0 when nothing moved; from 0.1 on a little has, from 0.25 on much. Of n and m rows that differ
    by chance alone it is about 9 · (1/n + 1/m): below some hundred rows it says little.
    """
    found: dict[str, float | None] = {}
    for name in columns:
        if name in before.columns and name in now.columns:
            pair = before.columns[name], now.columns[name]
            found[name] = psi(*pair)
            if pair[0].best and pair[1].best:
                found[BEST_CLASS] = _index(*_shares_by_class(*map(_best, pair)))
    return {name: value for name, value in found.items() if value is not None}


def psi(before: StoredColumn, now: StoredColumn) -> float | None:
    """The population stability index of one column; None when the two cannot be compared.

    Numbers are counted in ten bins with as many rows each in `before`. Classes are bins themselves: their
    shares are those of the scores where the output has scores, else those of the rows.
    """
    if before.scores and now.scores:
        return _index(*_shares_by_class(_scores(before), _scores(now)))
    if before.classes and now.classes:
        return _index(*_shares_by_class(_rows(before), _rows(now)))
    a, b = before.distribution, now.distribution
    return None if a is None or b is None else _index(*_shares_by_bin(a, b))


def _index(before: FloatArray, now: FloatArray) -> float:
    before, now = np.maximum(before, LEAST_SHARE), np.maximum(now, LEAST_SHARE)
    return float(((now - before) * np.log(now / before)).sum())


# Numbers


def _shares_by_bin(before: Bins, now: Bins) -> tuple[FloatArray, FloatArray]:
    """The rows between nine edges, which divide those of `before` into tenths."""
    at, inside = before.at(np.arange(1, BINS) / BINS)
    widths = np.ceil(inside * (np.int64(1) << before.shifts[at])).astype(np.int64)
    # A value that fills more than a tenth has a bin to itself: what is below it counts as moved.
    alone = np.unique(at[1:][at[1:] == at[:-1]])
    edges = np.sort(np.concatenate([before.keys[alone], before.keys[at] + widths]))

    def between(bins: Bins) -> FloatArray:
        total = bins.rows.sum()
        return np.diff(bins.below(edges), prepend=0, append=total) / total

    return between(before), between(now)


# Classes

Shares = tuple[Mapping[str, float], float]
"""What belongs to each class, and what belongs to others."""


def _rows(column: StoredColumn) -> Shares:
    return column.classes or {}, column.other_classes


def _scores(column: StoredColumn) -> Shares:
    return column.scores or {}, column.other_scores or 0.0


def _best(column: StoredColumn) -> Shares:
    return column.best or {}, column.other_best or 0.0


def _shares_by_class(before: Shares, now: Shares) -> tuple[FloatArray, FloatArray]:
    (a, other_a), (b, other_b) = before, now

    def is_known(name: str) -> bool:
        """Whether it is known of both how much the class has."""
        return (name in a or not other_a) and (name in b or not other_b)

    names = [name for name in {**a, **b} if is_known(name)]

    def shares(classes: Mapping[str, float], other: float) -> FloatArray:
        total = sum(classes.values()) + other
        counted = [classes.get(name, 0) for name in names]
        return np.array([*counted, total - sum(counted)]) / (total or 1)

    return shares(a, other_a), shares(b, other_b)
