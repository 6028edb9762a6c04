"""The statistics of an output in their stored form: small, but enough to compare two outputs.

They lie beside the files of a version. Some ten kilobytes stand for any number of rows: a check that asks
how the scores are distributed, or how many are missing, reads them instead of the rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, Field

from dagster_kumo.api.records import UTCDatetime
from dagster_kumo.predictions.columns import CLASS, SCORE_COLUMNS
from dagster_kumo.predictions.statistics.anchors import TimeRange
from dagster_kumo.predictions.statistics.class_shares import ClassShares
from dagster_kumo.predictions.statistics.quantiles import Bins, values_of
from dagster_kumo.predictions.statistics.summary import ColumnSummary, OutputSummary

MAX_STORED_CLASSES = 100
MAX_VALUES, MAX_SCORES = 2_000, 5_000  # that are kept one by one, of any column and of scores
MAX_STORED_BINS = 3_600
MAX_FINE = 3  # columns whose distribution is kept as that of scores is, where there are none
MAX_COARSE = 30
COARSE_BINS = 256
MAX_RUNS = 2_000
_GAP = 8  # empty bins that are not worth a new run

Run = tuple[int, int, list[int]]
"""Bins of one width that lie beside each other: how many bits they pass over, the leading bits of the first
one's key, and the rows of each."""


def _runs_of(bins: Bins) -> list[Run]:
    """Bins as runs, of which there are few: narrow bins that lie apart become wider ones."""
    shifts = sorted(set(bins.shifts.tolist()))
    runs = [run for shift in shifts for run in _runs_of_shift(bins.of_shift(shift), shift)]
    return runs if len(runs) <= MAX_RUNS else _runs_of(bins.limited(len(bins.keys) * 3 // 4))


def _runs_of_shift(bins: Bins, shift: int) -> Iterator[Run]:
    keys = bins.keys >> shift
    starts = np.flatnonzero(np.append(True, np.diff(keys) > _GAP))
    for start, end in zip(starts, [*starts[1:], len(keys)], strict=True):
        rows = np.zeros(keys[end - 1] - keys[start] + 1, np.int64)
        rows[keys[start:end] - keys[start]] = bins.rows[start:end]
        yield shift, int(keys[start]), rows.tolist()


def _bins_of(runs: Sequence[Run]) -> Bins:
    keys = [np.arange(first, first + len(rows)) << shift for shift, first, rows in runs]
    shifts = [np.full(len(rows), shift) for shift, _, rows in runs]
    rows = np.concatenate([np.array(rows) for _, _, rows in runs])
    found = rows > 0
    return Bins.merge(
        [Bins(np.concatenate(keys)[found], np.concatenate(shifts)[found], rows[found])]
    )


class StoredColumn(BaseModel):
    """The stored statistics of one column.

    `nulls` counts nulls, NaN and infinities.

    The distribution of a column of numbers is `bins`, see `quantiles.Bins`; with few different numbers it
    is `values`, each of which has as many rows as `weights` says. (Statistics without `bins` are two hundred
    values of a column.)

    `classes` are the most frequent classes with their rows, `scores` the sums of their scores, `best` the
    entities that each of them is the best for. The fields `other_...` are the same of all other classes.
    """

    rows: int
    nulls: int = 0
    min: float | None = None
    max: float | None = None
    mean: float | None = None
    dimension: int | None = None
    values: list[float] | None = None
    weights: list[int] | None = None
    bins: list[Run] | None = None
    classes: dict[str, int] | None = None
    other_classes: int = 0
    scores: dict[str, float] | None = None
    other_scores: float | None = None
    best: dict[str, int] | None = None
    other_best: int | None = None

    @classmethod
    def of(cls, column: ColumnSummary, max_bins: int, max_values: int) -> StoredColumn:
        """What is to be kept of a column: its distribution in so many bins, or as so many values."""
        known = cls(rows=column.rows, nulls=column.nulls, mean=column.mean)
        known.dimension = column.dimension
        if not column.count:
            return known
        if column.distribution is not None:
            known.min, known.max = float(column.min), float(column.max)
            bins = column.distribution.bins()
            if not bins.shifts.any() and len(bins.keys) <= max_values:
                known.values, known.weights = values_of(bins.keys).tolist(), bins.rows.tolist()
            elif max_bins:
                known.bins = _runs_of(bins.limited(max_bins))
        if column.values is not None:
            known.classes, known.other_classes = _most_frequent(column.values)
        return known

    @property
    def null_fraction(self) -> float:
        """The share of nulls, 0 to 1."""
        return self.nulls / self.rows if self.rows else 0.0

    @property
    def distribution(self) -> Bins | None:
        """The distribution of the numbers; None if it is not known."""
        if self.bins is not None:
            return _bins_of(self.bins)
        if self.values and self.weights:
            return Bins.from_counts(self.values, self.weights)
        return None

    def divide(self, shares: ClassShares, entities: int | None) -> None:
        """Keep how an output divides among its classes."""
        self.classes, self.other_classes = _most_frequent(shares.rows)
        names = self.classes
        self.scores = {name: round(shares.scores[name], 6) for name in names}
        self.other_scores = round(sum(shares.scores.values()) - sum(self.scores.values()), 6)
        best = shares.best_of(entities)
        if best is not None:
            self.best = {name: best[name] for name in names}
            self.other_best = best.total() - sum(self.best.values())


class StoredStatistics(BaseModel):
    """The stored statistics of an output."""

    num_rows: int
    anchors: tuple[UTCDatetime, UTCDatetime] | None = None
    """The earliest and the latest anchor time in the data."""
    columns: dict[str, StoredColumn] = Field(default_factory=dict[str, StoredColumn])

    @classmethod
    def of(
        cls,
        summary: OutputSummary,
        anchors: TimeRange | None = None,
        *,
        entities: int | None = None,
    ) -> StoredStatistics:
        """The statistics to store for an output. `entities` is for how many its job says that it predicted."""
        columns: dict[str, StoredColumn] = {}
        scores = [name for name in SCORE_COLUMNS if name in summary.columns]
        numeric = 0
        for name, column in summary.columns.items():
            if name in scores[:1]:
                limits = MAX_STORED_BINS, MAX_SCORES
            elif numeric < MAX_FINE and not scores:
                limits = MAX_STORED_BINS, MAX_VALUES
            else:
                limits = (COARSE_BINS, COARSE_BINS) if numeric < MAX_COARSE else (0, 0)
            columns[name] = StoredColumn.of(column, *limits)
            numeric += column.distribution is not None
        if summary.class_shares is not None and CLASS in columns:
            columns[CLASS].divide(summary.class_shares, entities)
        return cls(num_rows=summary.num_rows, anchors=anchors, columns=columns)


def _most_frequent(rows: Counter[Any]) -> tuple[dict[str, int], int]:
    """The most frequent classes with their rows, and the rows of all others."""
    most_frequent = {str(name): count for name, count in rows.most_common(MAX_STORED_CLASSES)}
    return most_frequent, rows.total() - sum(most_frequent.values())
