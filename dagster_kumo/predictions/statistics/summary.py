"""Statistics of an output in one pass and bounded memory, mergeable between files.

Counts, means and deviations merge exactly. Quantiles are approximate: see `quantiles`.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dagster_kumo.predictions.statistics.quantiles import Distribution

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence

ENTITY = "ENTITY"
ANCHOR_TIMESTAMP = "ANCHOR_TIMESTAMP"
SCORE_COLUMNS = ("True_PROB", "SCORE", "False_PROB", "TARGET_PRED")
"""Where scores are, the most telling column first."""
CLASS_COLUMNS = ("CLASS", "TARGET_PRED")
"""Where classes are, the most telling column first."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
MAX_VALUES = 1_000  # distinct values that are counted; beyond it a column has "many"


@dataclass
class ColumnSummary:
    """The statistics of one column.

    `nulls` counts nulls, NaN and infinities, `count` the values that are left. A list column is described by its
    elements, an identifier by its extremes alone.
    """

    name: str
    type: pa.DataType
    rows: int = 0
    count: int = 0
    nulls: int = 0
    min: Any = None
    max: Any = None
    mean: float | None = None
    _m2: float = 0.0
    distribution: Distribution | None = None
    values: Counter[Any] | None = None

    def __post_init__(self) -> None:
        element = _element(self.type)
        if self.name != ENTITY and _is_number(element):
            self.distribution = Distribution()
        if self.name != ENTITY and (_is_label(element) or self.name == "CLASS"):
            self.values = Counter()

    @property
    def std(self) -> float | None:
        """The standard deviation of the population."""
        return math.sqrt(self._m2 / self.count) if self.mean is not None and self.count else None

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
        if _is_list(self.type):
            self.nulls += column.null_count
            column = present(pc.list_flatten(column))
        else:
            rows, column = len(column), present(column)
            self.nulls += rows - len(column)
        if not len(column):
            return
        self._extend(extremes_of(column))
        self._count_values(column)
        if self.distribution is not None or pa.types.is_boolean(column.type):
            numbers = column.cast(pa.float64(), safe=False)  # large integers lose their last digits
            mean = pc.mean(numbers).as_py()
            variance = pc.variance(numbers).as_py()
            self._combine(len(column), mean, variance * len(column))
            if self.distribution is not None:
                self.distribution.add(_as_numpy(numbers))
        else:
            self.count += len(column)

    def merge(self, other: ColumnSummary) -> None:
        """Add the statistics of another part of the same column."""
        self.rows += other.rows
        self.nulls += other.nulls
        if not other.count:
            return
        self._extend((other.min, other.max))
        if self.values is not None:
            self.values = None if other.values is None else self.values + other.values
            self._limit_values()
        if other.mean is not None:
            self._combine(other.count, other.mean, other._m2)
        else:
            self.count += other.count
        if self.distribution is not None and other.distribution is not None:
            self.distribution.merge(other.distribution)

    def quantiles(self) -> list[float] | None:
        """The values at `QUANTILES`."""
        if self.distribution is None or not self.count:
            return None
        return self.distribution.quantiles(QUANTILES)

    def _combine(self, count: int, mean: float, m2: float) -> None:
        """Chan's rule for the mean and the squared deviations of two parts."""
        if self.mean is None or not self.count:
            self.count, self.mean, self._m2 = count, mean, m2
            return
        total = self.count + count
        delta = mean - self.mean
        self._m2 += m2 + delta * delta * self.count * count / total
        self.mean += delta * count / total
        self.count = total

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

    @classmethod
    def merged(cls, schema: pa.Schema, summaries: Sequence[OutputSummary]) -> OutputSummary:
        """Merge the summaries of an output's files; `schema` is that of all files."""
        whole = cls(schema, {name for part in summaries for name in (*part.columns, *part.failed)})
        for part in summaries:
            whole._merge(part)
        return whole

    def update(self, batch: pa.RecordBatch) -> None:
        """Add a batch of rows."""
        self.num_rows += batch.num_rows
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            self._try(name, ColumnSummary.update, column)

    def _merge(self, part: OutputSummary) -> None:
        self.num_rows += part.num_rows
        for name, why in part.failed.items():
            self._give_up(name, why)
        rows = part.num_rows
        for name in list(self.columns):
            nulls = ColumnSummary(name, pa.null(), rows=rows, nulls=rows)
            self._try(name, ColumnSummary.merge, part.columns.get(name, nulls))

    def _try(self, name: str, step: Callable[[ColumnSummary, Any], None], more: Any) -> None:
        if name in self.columns:
            try:
                step(self.columns[name], more)
            except Exception as error:  # noqa: BLE001 - statistics are optional: never fail the asset over them
                self._give_up(name, str(error))

    def _give_up(self, name: str, why: str) -> None:
        self.columns.pop(name, None)
        self.failed[name] = why


def _element(type_: pa.DataType) -> pa.DataType:
    element: pa.DataType = getattr(type_, "value_type", type_)
    return element if _is_list(type_) else type_


def present(column: pa.Array[Any]) -> pa.Array[Any]:
    """The values, without nulls, NaN and infinities."""
    if isinstance(column, pa.DictionaryArray):
        column = column.dictionary_decode()
    if pa.types.is_string_view(column.type):  # polars writes it; few of Arrow's functions accept it
        column = column.cast(pa.string())
    if column.null_count:
        column = column.drop_null()
    if pa.types.is_floating(column.type):
        finite = np.isfinite(_as_numpy(column))
        if not finite.all():
            column = column.filter(pa.array(finite))
    return column


def _as_numpy(column: pa.Array[Any]) -> np.ndarray[Any, Any]:
    """Numbers without nulls. Arrow's own `to_numpy` would import pandas, half a second of a short run."""
    return np.from_dlpack(column) if len(column) else np.empty(0)


def _is_list(type_: pa.DataType) -> bool:
    kinds = pa.types
    return kinds.is_list(type_) or kinds.is_large_list(type_) or kinds.is_fixed_size_list(type_)


def _is_number(type_: pa.DataType) -> bool:
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


def extremes_of(column: pa.Array[Any]) -> tuple[Any, Any]:
    """The minimum and the maximum; None for both if there are no values, or if they have no order."""
    if pa.types.is_floating(column.type) and len(column):  # numpy is ten times as fast at these
        numbers = _as_numpy(column)
        return numbers.min().item(), numbers.max().item()
    try:
        both: Any = pc.min_max(column).as_py()
    except pa.ArrowNotImplementedError:  # a type that has no order, a struct for example
        return None, None
    return both["min"], both["max"]
