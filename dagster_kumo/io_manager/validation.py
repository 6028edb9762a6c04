"""What the data of an output must fulfil before its new version comes into force."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from dagster_kumo.api.errors import KumoDataError
from dagster_kumo.execution.partitions.anchor_time import INSTEAD_OF_INLINE, said_time

if TYPE_CHECKING:
    from dagster_kumo.predictions.predictions import Predictions
    from dagster_kumo.predictions.store.transfer import Transferred

RowCountCheck = Literal["error", "warn", "off"]


def validate(
    output: Predictions,
    transferred: Transferred,
    *,
    row_count_check: RowCountCheck,
    warn: Callable[[str], None],
) -> None:
    """Hold the data of an output against what its job promised.

    Args:
        output: the output, with what is known of its job.
        transferred: what its files hold.
        row_count_check: what to do about too few rows.
        warn: told of too few rows when they are stored all the same.

    Raises:
        KumoDataError: there are too few rows, or they are for another time than the partition's.
    """
    _check_row_count(output, transferred, row_count_check, warn)
    _check_anchor_time(output, transferred)


def _check_row_count(
    output: Predictions,
    transferred: Transferred,
    row_count_check: RowCountCheck,
    warn: Callable[[str], None],
) -> None:
    """Refuse predictions with fewer rows than entities: some entities have none.

    More rows are normal: a multiclass model has one for each entity and class. Embeddings are only counted.
    """
    expected = output.provenance.num_entities if output.provenance else None
    if expected is None or output.output_type != "predictions" or row_count_check == "off":
        return
    if transferred.num_rows >= expected:
        return
    message = (
        f"Prediction job {output.job_id} says that it predicted for {expected:,} entities, but its "
        f"files hold {transferred.num_rows:,} rows."
    )
    if row_count_check == "error":
        raise KumoDataError(
            f"{message} They are not stored, and what was stored before stays in force.\n"
            "Materialize again, or set row_count_check='warn' to store them all the same."
        )
    warn(message)


def _check_anchor_time(output: Predictions, transferred: Transferred) -> None:
    """Refuse predictions for another time than the one that was asked for, and for an unknown time.

    A server that does not know `prediction_time` predicts for the latest time in its data. The data
    says for when it is; more than the partition's own window apart is another partition's data.
    Embeddings and queries that are not about time have no such column: for them the server itself
    must have said which time it used.
    """
    provenance = output.provenance
    if provenance is None or provenance.prediction_time is None or provenance.window is None:
        return
    asked = (
        f"Prediction job {provenance.job_id} was asked to predict for "
        f"{said_time(provenance.prediction_time)}, but"
    )
    refused = "It is not stored, and what was stored before stays in force."
    way_out = "" if provenance.prediction_table_job_id else f"\n{INSTEAD_OF_INLINE}"
    if transferred.anchors is None and provenance.time_stated_by is None:
        raise KumoDataError(
            f"{asked} neither the job nor its {provenance.output_type} say for when it did. "
            f"{refused}{way_out}"
        )
    for found in transferred.anchors or ():
        if abs(found - provenance.prediction_time) > provenance.window:
            raise KumoDataError(f"{asked} its data is for {said_time(found)}. {refused}{way_out}")
