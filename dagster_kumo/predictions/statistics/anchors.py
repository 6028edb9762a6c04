"""The anchor times in an output's data."""

from __future__ import annotations

from datetime import date, datetime, timezone

import pyarrow as pa

from dagster_kumo.api.records import in_utc
from dagster_kumo.predictions.columns import ANCHOR_TIMESTAMP
from dagster_kumo.predictions.statistics.arrays import extremes_of, present

TimeRange = tuple[datetime, datetime]

# An integer is unix time. Its size tells the unit, because the possible years are close together.
_UNITS = ((1e11, 1), (1e14, 1_000), (1e17, 1_000_000), (float("inf"), 1_000_000_000))


def anchor_range(batch: pa.RecordBatch) -> TimeRange | None:
    """The earliest and the latest anchor time in some rows; None if there are none."""
    if ANCHOR_TIMESTAMP not in batch.schema.names:
        return None
    low, high = map(_as_time, extremes_of(present(batch.column(ANCHOR_TIMESTAMP))))
    return (low, high) if low is not None and high is not None else None


def merge_ranges(one: TimeRange | None, other: TimeRange | None) -> TimeRange | None:
    """The earliest and the latest time of both ranges."""
    if one is None or other is None:
        return one or other
    return min(one[0], other[0]), max(one[1], other[1])


def _as_time(value: object) -> datetime | None:
    if isinstance(value, datetime):
        return in_utc(value)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=timezone.utc)
    if isinstance(value, int):
        per_second = next(unit for limit, unit in _UNITS if abs(value) < limit)
        return datetime.fromtimestamp(value / per_second, tz=timezone.utc)
    return None
