"""Columns in a form that can be computed with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def plain(column: pa.Array[Any]) -> pa.Array[Any]:
    """A column in a type that Arrow's functions take."""
    if isinstance(column, pa.DictionaryArray):
        column = column.dictionary_decode()
    if pa.types.is_string_view(column.type):  # polars writes it
        column = column.cast(pa.string())
    return column


def present(column: pa.Array[Any]) -> pa.Array[Any]:
    """The values, without nulls, NaN and infinities."""
    column = plain(column)
    if column.null_count:
        column = column.drop_null()
    if pa.types.is_floating(column.type):
        finite = np.isfinite(as_numpy(column))
        if not finite.all():
            column = column.filter(pa.array(finite))
    return column


def as_numpy(column: pa.Array[Any]) -> np.ndarray[Any, Any]:
    """Numbers without nulls. Arrow's own `to_numpy` would import pandas, half a second of a short run."""
    return np.from_dlpack(column) if len(column) else np.empty(0)


def extremes_of(column: pa.Array[Any]) -> tuple[Any, Any]:
    """The minimum and the maximum; None for both if there are no values, or if they have no order."""
    if pa.types.is_floating(column.type) and len(column):  # numpy is ten times as fast at these
        numbers = as_numpy(column)
        return numbers.min().item(), numbers.max().item()
    try:
        both: Any = pc.min_max(column).as_py()
    except pa.ArrowNotImplementedError:  # a type that has no order, a struct for example
        return None, None
    return both["min"], both["max"]
