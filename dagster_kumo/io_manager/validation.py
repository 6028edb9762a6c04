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

    Predictions with fewer rows than entities are refused: some entities would have none. More rows are normal: a
    multiclass model has one for each entity and class. Embeddings are only counted.

    Raises:
        KumoDataError: There are too few rows, or they are for another time than the partition's.
    """
    expected = output.provenance.num_entities if output.provenance else None
    is_counted = output.output_type == "predictions" and row_count_check != "off"
    if is_counted and expected is not None and transferred.num_rows < expected:
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
    check_data(output, transferred.anchors)
