"""The statistics of an output in their stored form: small, but enough to compare two outputs.

They lie beside the files of a version. A few kilobytes stand for any number of rows: a check that asks
how the scores are distributed, or how many are missing, reads them instead of the rows.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from dagster_kumo.api.records import UTCDatetime
from dagster_kumo.predictions.statistics.anchors import TimeRange
from dagster_kumo.predictions.statistics.summary import ColumnSummary, OutputSummary

MAX_CLASSES = 100
MAX_OUTLINES = 30
POINTS = np.linspace(0.0, 1.0, 201)


class StoredColumn(BaseModel):
    """The stored statistics of one column.

    `nulls` counts nulls, NaN and infinities. `values` outline the distribution of a column of numbers:
    about two hundred of them in ascending order, each for as many rows as `weights` says. `classes`
    are the commonest classes, and `other_classes` the rows of all others.
    """

    model_config = ConfigDict(extra="ignore")

    rows: int
    nulls: int = 0
    min: float | None = None
    max: float | None = None
    mean: float | None = None
    values: list[float] | None = None
    weights: list[int] | None = None
    classes: dict[str, int] | None = None
    other_classes: int = 0

    @classmethod
    def of(cls, column: ColumnSummary, *, outlined: bool = True) -> StoredColumn:
        """What is to be kept of a column."""
        known = cls(rows=column.rows, nulls=column.nulls, mean=column.mean)
        if not column.count:
            return known
        if column.distribution is not None:
            known.min, known.max = float(column.min), float(column.max)
            if outlined:
                outline = column.distribution.outline(POINTS)
                rounded = np.array([float(f"{value:.6g}") for value in outline.values])
                values, which = np.unique(rounded, return_inverse=True)
                known.values = values.tolist()
                known.weights = np.bincount(which, outline.rows).astype(int).tolist()
        if column.values is not None:
            commonest = Counter(column.values).most_common(MAX_CLASSES)
            known.classes = {str(name): rows for name, rows in commonest}
            known.other_classes = column.values.total() - sum(known.classes.values())
        return known

    @property
    def null_fraction(self) -> float:
        """The share of nulls, 0 to 1."""
        return self.nulls / self.rows if self.rows else 0.0


class StoredStatistics(BaseModel):
    """The stored statistics of an output."""

    model_config = ConfigDict(extra="ignore")

    num_rows: int
    anchors: tuple[UTCDatetime, UTCDatetime] | None = None
    """The earliest and the latest anchor time in the data."""
    columns: dict[str, StoredColumn] = Field(default_factory=dict[str, StoredColumn])

    @classmethod
    def of(cls, summary: OutputSummary, anchors: TimeRange | None = None) -> StoredStatistics:
        """What is to be kept of an output."""
        return cls(
            num_rows=summary.num_rows,
            anchors=anchors,
            columns={
                name: StoredColumn.of(column, outlined=index < MAX_OUTLINES)
                for index, (name, column) in enumerate(summary.columns.items())
            },
        )
