"""Validate the data of an output before its new version becomes the current one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from dagster_kumo.api.errors import KumoDataError
from dagster_kumo.execution.anchor_check import check_data

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
    """Compare the data of an output with what its job states.

    Args:
        output: The output, with its job.
        transferred: Its files.
        row_count_check: What to do about too few rows.
        warn: Called with a message if too few rows are stored anyway.

    Raises:
        KumoDataError: There are too few rows, or they are for another time than the partition's.
    """
    _check_row_count(output, transferred, row_count_check, warn)
    check_data(output, transferred.anchors)


def _check_row_count(
    output: Predictions,
    transferred: Transferred,
    row_count_check: RowCountCheck,
    warn: Callable[[str], None],
) -> None:
    """Refuse predictions with fewer rows than entities: some entities would have none.

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
