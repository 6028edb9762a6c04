"""How far the values of a column have moved from one output to another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dagster_kumo.predictions.statistics.stored_statistics import StoredColumn, StoredStatistics
from dagster_kumo.predictions.statistics.summary import CLASS_COLUMNS, SCORE_COLUMNS

BINS = 10
LEAST_SHARE = 1e-4  # of a bin that is empty: its share stands in a logarithm

FloatArray = np.ndarray[Any, np.dtype[np.float64]]


def compared_columns(statistics: StoredStatistics) -> list[str]:
    """The columns with the most informative drift: scores and classes."""
    there = statistics.columns
    scores = [name for name in SCORE_COLUMNS if name in there and there[name].values]
    labels = [name for name in CLASS_COLUMNS if name in there and there[name].classes]
    # For a yes or no question, the classes say no more than the probabilities.
    return scores[:1] + ([] if "True_PROB" in scores else labels[:1])


def psi(before: StoredColumn, now: StoredColumn) -> float | None:
    """The population stability index: 0 when nothing moved; from 0.1 on a little has, from 0.25 on much.

    Numbers are counted in ten bins with as many rows each in `before`, classes one by one. None when
    the columns cannot be compared. Of n and m rows that differ by chance alone it is about
    9 · (1/n + 1/m): below some hundred rows it says little.
    """
    if before.classes and now.classes:
        return _index(*_shares_by_class(before, now))
    if before.values and now.values and before.weights and now.weights:
        edges = _edges(before.values, before.weights)
        return _index(
            _shares(edges, before.values, before.weights), _shares(edges, now.values, now.weights)
        )
    return None


def mean_shift(before: StoredColumn, now: StoredColumn) -> float | None:
    """By how much the mean has grown; None for classes, which have none."""
    if before.mean is None or now.mean is None or now.classes:
        return None
    return now.mean - before.mean


def _index(before: FloatArray, now: FloatArray) -> float:
    before, now = np.maximum(before, LEAST_SHARE), np.maximum(now, LEAST_SHARE)
    return float(((now - before) * np.log(now / before)).sum())


def _edges(values: list[float], weights: list[int]) -> FloatArray:
    """The upper edges of the bins but for the last one, which has none."""
    points = np.array(values)
    below = np.cumsum(weights)
    at = np.searchsorted(below, np.arange(1, BINS) / BINS * below[-1])
    edges, times = np.unique(points[at], return_counts=True)
    # A value that fills more than a bin has one to itself: what falls below it counts as moved.
    alone = np.nextafter(edges[times > 1], -np.inf)
    return np.unique(np.concatenate([edges, alone]))


def _shares(edges: FloatArray, values: list[float], weights: list[int]) -> FloatArray:
    bins = np.searchsorted(edges, np.array(values), side="left")
    rows = np.bincount(bins, np.array(weights, dtype=float), minlength=len(edges) + 1)
    return rows / rows.sum()


def _shares_by_class(before: StoredColumn, now: StoredColumn) -> tuple[FloatArray, FloatArray]:
    a, b = before.classes or {}, now.classes or {}

    def known(name: str) -> bool:
        """Whether it is known of both how many rows have the class."""
        return (name in a or not before.other_classes) and (name in b or not now.other_classes)

    names = [name for name in {**a, **b} if known(name)]

    def shares(classes: Mapping[str, int], others: int) -> FloatArray:
        total = sum(classes.values()) + others
        counted = [classes.get(name, 0) for name in names]
        return np.array([*counted, total - sum(counted)]) / total

    return shares(a, before.other_classes), shares(b, now.other_classes)
