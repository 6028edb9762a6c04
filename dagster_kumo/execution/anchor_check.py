"""Check that predictions are for the requested anchor time.

An older server ignores `prediction_time`, and predicts for the latest time in its data without an error. So all
stated times are compared with the requested one: those of the job, of its prediction table and of the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone

from dagster_kumo.api.errors import KumoDataError
from dagster_kumo.execution.partitions.anchor_time import said_time
from dagster_kumo.predictions.predictions import Predictions

_TOLERANCE = timedelta(seconds=1)
"""How far a stated time may be from the requested one: a server may drop fractions of a second."""
_INSTEAD_OF_INLINE = (
    "A Kumo server that is too old for this predicts for the latest time in its data. Write "
    'BatchPrediction(..., prediction_table="generate"), which every server knows.'
)


def check_launched_job(job_id: str, *, stated: datetime | None, asked: datetime | None) -> None:
    """Refuse a job that states another time. If it states none, its data must state it.

    Raises:
        KumoDataError: It predicted for another time.
    """
    if asked is not None and stated is not None and not _is_same(stated, asked):
        raise KumoDataError(
            f"Prediction job {job_id} predicted for {said_time(stated)} and not for "
            f"{said_time(asked)}, which was asked. Nothing is stored.\n{_INSTEAD_OF_INLINE}"
        )


def check_adopted_job(job_id: str, *, stated: datetime | None, asked: datetime | None) -> None:
    """Refuse a job from outside Dagster unless it states the partition's time.

    Raises:
        KumoDataError: It predicted for another time, or does not say for which.
    """
    if asked is not None and not _is_same(stated, asked):
        when = said_time(stated) if stated else "a time that is not known"
        raise KumoDataError(
            f"Prediction job {job_id} predicted for {when} "
            f"and not for {said_time(asked)}, which the partition stands for. Nothing is stored."
        )


def check_table(job_id: str, *, stated: datetime | None, asked: datetime | None) -> None:
    """Refuse a prediction table that was made for another time, or for none.

    Raises:
        KumoDataError: It was.
    """
    if asked is None or _is_same(stated, asked):
        return
    way_out = (
        "A query that is not about time has no anchor time: write BatchPrediction(..., anchor=None)."
        if stated is None
        else "Materialize the prediction table again."
    )
    raise KumoDataError(
        f"Prediction table job {job_id} was to make a table for {said_time(asked)}, but its "
        f"table is for {said_time(stated) if stated else 'no time'}. Nothing is predicted from it.\n"
        f"{way_out}"
    )


def check_data(output: Predictions, found: Sequence[datetime] | None) -> None:
    """Refuse data for another time than the requested one, or for an unknown time.

    The time may be earlier by up to the partition's window, because a server that uses the latest time in its
    data finds it a little earlier. Older data belong to another partition, and later data know the future of
    this one. Embeddings and queries that are not about time have no ANCHOR_TIMESTAMP: for them the job or its
    table must have stated the time.

    `found` are the anchor times in its data; None when it has no such column.

    Raises:
        KumoDataError: The data is for another time, or for an unknown one.
    """
    expected = output.expectation
    if expected is None or output.provenance is None:
        return
    asked = (
        f"Prediction job {output.job_id} was asked to predict for "
        f"{said_time(expected.anchor_time)}, but"
    )
    refused = "It is not stored, and what was stored before stays in force."
    if not output.provenance.prediction_table_job_id:
        refused += f"\n{_INSTEAD_OF_INLINE}"
    if found is None and not expected.is_stated:
        raise KumoDataError(
            f"{asked} neither the job nor its {output.output_type} state the time. {refused}"
        )
    time_asked = expected.anchor_time.astimezone(timezone.utc)  # a local time counts by the clock
    earliest, latest = time_asked - expected.window, time_asked + _TOLERANCE
    for time in found or ():
        if not earliest <= time <= latest:
            raise KumoDataError(f"{asked} its data is for {said_time(time)}. {refused}")


def _is_same(stated: datetime | None, asked: datetime) -> bool:
    return stated is not None and abs(stated - asked) <= _TOLERANCE
