"""Statistics of an output in one pass and bounded memory, mergeable between files.

Counts and means merge exactly. Quantiles are those of bins: see `quantiles`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dagster_kumo.predictions.columns import CLASS, ENTITY, SCORE
from dagster_kumo.predictions.statistics.arrays import as_numpy, extremes_of, present
from dagster_kumo.predictions.statistics.class_shares import ClassShares
from dagster_kumo.predictions.statistics.quantiles import Distribution

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence

QUANTILES = (0.05, 0.5, 0.95)
MAX_VALUES = 1_000  # distinct values that are counted; a column with more has "many"


@dataclass
class ColumnSummary:
    """The statistics of one column.

    `nulls` counts nulls, NaN and infinities, `count` the values that are left. A column of vectors is described
    by their norms, an identifier by its extremes alone.
    """

    name: str
    type: pa.DataType
    rows: int = 0
    count: int = 0
    nulls: int = 0
    min: Any = None
    max: Any = None
    mean: float | None = None
    dimensions: tuple[int, int] | None = None
    """The least and the greatest length of the vectors."""
    distribution: Distribution | None = None
    values: Counter[Any] | None = None

    def __post_init__(self) -> None:
        if self.name != ENTITY and (_is_number(self.type) or self.is_vector):
            self.distribution = Distribution()
        if self.name != ENTITY and (_is_label(self.type) or self.name == CLASS):
            self.values = Counter()

    @property
    def is_vector(self) -> bool:
        """Whether it holds lists of numbers, as embeddings are."""
        return _is_list(self.type) and _is_number(getattr(self.type, "value_type", self.type))

    @property
    def dimension(self) -> int | None:
        """The length of the vectors; None when they have several."""
        low, high = self.dimensions or (None, None)
        return low if low == high else None

    @property
    def null_fraction(self) -> float:
        """The share of nulls, 0 to 1."""
        return self.nulls / self.rows if self.rows else 0.0

    @property
    def distinct(self) -> int | None:
        """The number of distinct values, for columns of classes; None if it would be expensive to count."""
        return len(self.values) if self.values is not None else None

    def update(self, column: pa.Array[Any]) -> None:
        """Add one batch of the column."""
        self.rows += len(column)
        rows = len(column)
        if self.is_vector:
            self._extend_dimensions(_dimensions(column))
            column = _norms(column)
        column = present(column)
        self.nulls += rows - len(column)
        if not len(column):
            return
        self._extend(extremes_of(column))
        self._count_values(column)
        if self.distribution is not None or pa.types.is_boolean(column.type):
            numbers = column
            if column.type != pa.float64():
                numbers = column.cast(pa.float64(), safe=False)  # large integers lose some digits
            self._combine(len(column), pc.mean(numbers).as_py())
            if self.distribution is not None:
                self.distribution.add(as_numpy(numbers))
        else:
            self.count += len(column)

    def merge(self, other: ColumnSummary) -> None:
        """Add the statistics of another part of the same column."""
        self.rows += other.rows
        self.nulls += other.nulls
        if not other.count:
            return
        self._extend((other.min, other.max))
        self._extend_dimensions(other.dimensions)
        if self.values is not None:
            self.values = None if other.values is None else self.values + other.values
            self._limit_values()
        if other.mean is not None:
            self._combine(other.count, other.mean)
        else:
            self.count += other.count
        if self.distribution is not None and other.distribution is not None:
            self.distribution.merge(other.distribution)

    def quantiles(self) -> list[float] | None:
        """The values at `QUANTILES`."""
        if self.distribution is None or not self.count:
            return None
        low, high = float(self.min), float(self.max)
        return [min(max(q, low), high) for q in self.distribution.quantiles(QUANTILES)]

    def _combine(self, count: int, mean: float) -> None:
        """The mean of two parts."""
        if self.mean is None or not self.count:
            self.count, self.mean = count, mean
            return
        self.count += count
        self.mean += (mean - self.mean) * count / self.count

    def _extend_dimensions(self, dimensions: tuple[int, int] | None) -> None:
        if dimensions is not None:
            low, high = self.dimensions or dimensions
            self.dimensions = min(low, dimensions[0]), max(high, dimensions[1])

    def _extend(self, extremes: tuple[Any, Any]) -> None:
        low, high = extremes
        if low is not None:
            self.min = low if self.min is None else min(self.min, low)
            self.max = high if self.max is None else max(self.max, high)

    def _count_values(self, column: pa.Array[Any]) -> None:
        if self.values is not None and isinstance(column, pa.BooleanArray):
            self.values += Counter({True: column.true_count, False: column.false_count})
        elif self.values is not None:
            counts: Any = pc.value_counts(column)
            for item in counts.to_pylist():
                self.values[item["values"]] += item["counts"]
            self._limit_values()

    def _limit_values(self) -> None:
        if self.values is not None and len(self.values) > MAX_VALUES:
            self.values = None


class OutputSummary:
    """The statistics of an output's columns: of all, or of the `wanted` ones."""

    def __init__(self, schema: pa.Schema, wanted: Container[str] | None = None) -> None:
        self.columns = {
            f.name: ColumnSummary(f.name, f.type)
            for f in schema
            if wanted is None or f.name in wanted
        }
        self.num_rows = 0
        self.failed: dict[str, str] = {}
        """Columns that could not be summarised, and why. They are not in `columns`."""
        self.class_shares: ClassShares | None = None
        """How the scores divide among the classes; None if there are no scores of classes."""
        if CLASS in self.columns and _is_number(getattr(self.columns.get(SCORE), "type", None)):
            self.class_shares = ClassShares()
            self.columns[CLASS].values = None  # they are counted there

    @classmethod
    def merged(cls, schema: pa.Schema, summaries: Sequence[OutputSummary]) -> OutputSummary:
        """Merge the summaries of an output's files; `schema` is that of all files."""
        whole = cls(schema, {name for part in summaries for name in (*part.columns, *part.failed)})
        for part in summaries:
            whole.merge(part)
        return whole

    def update(self, batch: pa.RecordBatch) -> None:
        """Add a batch of rows."""
        self.num_rows += batch.num_rows
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            self._try(name, ColumnSummary.update, column)
        self._try_shares(batch)

    def compact(self) -> None:
        """Take less memory, once all of a file has been taken in."""
        for column in self.columns.values():
            if column.distribution is not None:
                column.distribution.compact()

    def merge(self, part: OutputSummary) -> None:
        """Add the statistics of the rows that follow."""
        self.num_rows += part.num_rows
        for name, why in part.failed.items():
            self._give_up(name, why)
        rows = part.num_rows
        for name in list(self.columns):
            nulls = ColumnSummary(name, pa.null(), rows=rows, nulls=rows)
            self._try(name, ColumnSummary.merge, part.columns.get(name, nulls))
        self._try_shares(part)

    def _try_shares(self, more: pa.RecordBatch | OutputSummary) -> None:
        if self.class_shares is None:
            return
        try:
            if isinstance(more, pa.RecordBatch):
                self.class_shares.update(more)
            elif more.class_shares is not None:
                self.class_shares.merge(more.class_shares)
            elif more.num_rows:  # they were given up, or the file has no classes
                self.class_shares = None
        except Exception as error:  # noqa: BLE001 - statistics are optional: never fail the asset over them
            self.class_shares = None
            self.failed["shares of CLASS"] = str(error)

    def _try(self, name: str, step: Callable[[ColumnSummary, Any], None], more: Any) -> None:
        if name in self.columns:
            try:
                step(self.columns[name], more)
            except Exception as error:  # noqa: BLE001 - statistics are optional: never fail the asset over them
                self._give_up(name, str(error))

    def _give_up(self, name: str, why: str) -> None:
        self.columns.pop(name, None)
        self.failed[name] = why


def _dimensions(vectors: pa.Array[Any]) -> tuple[int, int] | None:
    """The least and the greatest length."""
    lengths: Any = pc.min_max(pc.list_value_length(vectors)).as_py()
    return None if lengths["min"] is None else (lengths["min"], lengths["max"])


def _norms(vectors: pa.Array[Any]) -> pa.Array[Any]:
    """The length of each vector in space; null for one that is null, empty or has a value that is no number."""
    flat: Any = pc.list_flatten(vectors)
    parents: Any = pc.list_parent_indices(vectors)
    numbers = flat.cast(pa.float64(), safe=False).fill_null(np.nan)
    squares = np.square(as_numpy(numbers))
    of_vector = as_numpy(parents.cast(pa.int64())).astype(np.int64)
    sums = np.bincount(of_vector, squares, minlength=len(vectors))
    lengths: Any = pc.list_value_length(vectors)
    has_values = lengths.fill_null(0).cast(pa.bool_(), safe=False)
    return pc.if_else(has_values, pa.array(np.sqrt(sums)), pa.scalar(None, pa.float64()))


def _is_list(type_: pa.DataType) -> bool:
    kinds = pa.types
    return kinds.is_list(type_) or kinds.is_large_list(type_) or kinds.is_fixed_size_list(type_)


def _is_number(type_: pa.DataType | None) -> bool:
    if type_ is None:
        return False
    kinds = pa.types
    return kinds.is_integer(type_) or kinds.is_floating(type_) or kinds.is_decimal(type_)


def _is_label(type_: pa.DataType) -> bool:
    kinds = pa.types
    return (
        kinds.is_boolean(type_)
        or kinds.is_string(type_)
        or kinds.is_large_string(type_)
        or kinds.is_string_view(type_)
        or kinds.is_dictionary(type_)
    )
