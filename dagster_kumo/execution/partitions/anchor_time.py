"""Time partitions and the anchor time that follows from them."""

from __future__ import annotations

from datetime import datetime, timedelta

import dagster as dg

from dagster_kumo.jobs.prediction_spec import Anchor, BatchPrediction


def said_time(time: datetime) -> str:
    """A time in messages."""
    return f"{time:%Y-%m-%d %H:%M %Z}"


def window_of(
    partitions_def: dg.PartitionsDefinition | None, key: str | None
) -> dg.TimeWindow | None:
    """The time window of a partition; None if it has none.

    Of a multi-dimensional partition it is the window of its time dimension.
    """
    if partitions_def is None or key is None:
        return None
    if isinstance(partitions_def, dg.TimeWindowPartitionsDefinition):
        return partitions_def.time_window_for_partition_key(key)
    if isinstance(partitions_def, dg.MultiPartitionsDefinition):
        keys = partitions_def.get_partition_key_from_str(key).keys_by_dimension
        for dimension in partitions_def.partitions_defs:
            time_def = dimension.partitions_def
            if isinstance(time_def, dg.TimeWindowPartitionsDefinition):
                return time_def.time_window_for_partition_key(keys[dimension.name])
    return None


def length_of(window: dg.TimeWindow) -> timedelta:
    """How long a window really lasts: a day on which clocks change has 23 or 25 hours.

    `window.end - window.start` is the difference of clock times.
    """
    return timedelta(seconds=window.end.timestamp() - window.start.timestamp())


def anchor_time(window: dg.TimeWindow | None, anchor: Anchor | None) -> datetime | None:
    """The point in time that predictions of a partition look ahead from."""
    if window is None or anchor is None:
        return None
    return window.end if anchor == "end" else window.start


def partition_at(
    partitions_def: dg.TimeWindowPartitionsDefinition, anchor: Anchor, time: datetime
) -> str | None:
    """The partition whose anchor time is exactly `time`; None if there is none.

    >>> days = dg.DailyPartitionsDefinition(start_date="2026-01-01", end_date="2026-02-01")
    >>> partition_at(days, "end", datetime.fromisoformat("2026-01-11T00:00:00+00:00"))
    '2026-01-10'
    """
    try:
        key = partitions_def.get_partition_key_for_timestamp(
            time.timestamp(), end_closed=anchor == "end"
        )
    except (ValueError, OverflowError):  # beyond the end of the calendar
        return None
    if not partitions_def.has_partition_key(key):
        return None
    window = partitions_def.time_window_for_partition_key(key)
    found = window.end if anchor == "end" else window.start
    # By their timestamps: a time in the hour that clocks repeat never equals a time in another zone.
    return key if found.timestamp() == time.timestamp() else None


def check_anchor(
    prediction: BatchPrediction, partitions_def: dg.PartitionsDefinition | None, *, name: str
) -> None:
    """Refuse a definition whose partitions and anchor contradict each other.

    Raises:
        ValueError: The message says what to write instead.
    """
    if partitions_def is None or prediction.anchor is None:
        return
    if not has_time(partitions_def):
        raise ValueError(
            f"{name!r} has partitions without a time, so there is no anchor time. Write "
            "BatchPrediction(..., anchor=None), or use time partitions such as "
            "DailyPartitionsDefinition(start_date=...)."
        )
    if prediction.gives_own_table:
        raise ValueError(
            f"{name!r} predicts from a prediction table of its own, which has its own anchor time, but "
            "its partitions ask for one each. Write BatchPrediction(..., anchor=None), or leave the "
            "prediction table out."
        )


def has_time(partitions_def: dg.PartitionsDefinition) -> bool:
    """Whether the partitions, or one of their dimensions, have a time."""
    if isinstance(partitions_def, dg.MultiPartitionsDefinition):
        return any(has_time(d.partitions_def) for d in partitions_def.partitions_defs)
    return isinstance(partitions_def, dg.TimeWindowPartitionsDefinition)
