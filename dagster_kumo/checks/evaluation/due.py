"""Which partitions can be evaluated and are not yet."""

from __future__ import annotations

from datetime import datetime, timezone

import dagster as dg

from dagster_kumo.checks.evaluation.evaluation_run import (
    PREDICTIONS,
    EvaluationSettings,
    PredictedPartition,
)
from dagster_kumo.io_manager.partition_order import in_order
from dagster_kumo.resource import KumoResource


def evaluation_partitions_due(
    evaluation: dg.AssetsDefinition,
    instance: dg.DagsterInstance,
    *,
    kumo: KumoResource | None = None,
) -> list[str]:
    """The partitions whose predictions are stored and whose outcome window has closed, and that are not evaluated.

    A schedule that runs every day evaluates each partition on the day on which its window has closed, and catches up
    on those that it missed.

    Args:
        evaluation: What `build_kumo_evaluation_asset` made.
        instance: Where Dagster records materializations: `context.instance`.
        kumo: The connection, if the window is read from the predictive query.

    Raises:
        ValueError: The asset is no evaluation, or has no partitions, or the connection is needed.
        KumoError: The window cannot be read from the query.

    Examples:
        >>> @dg.schedule(cron_schedule="0 7 * * *", target=[outcomes, churn.evaluation])  # doctest: +SKIP
        ... def evaluate_churn(context: dg.ScheduleEvaluationContext):
        ...     for key in evaluation_partitions_due(churn.evaluation, context.instance):
        ...         run_key = f"{key} on {context.scheduled_execution_time:%Y-%m-%d}"
        ...         yield dg.RunRequest(run_key=run_key, partition_key=key)
    """
    settings = EvaluationSettings.of(evaluation)
    partitions_def = evaluation.partitions_def
    if settings is None or partitions_def is None:
        raise ValueError(
            "evaluation_partitions_due is for an asset of build_kumo_evaluation_asset with partitions."
        )
    if settings.window is None and kumo is None:
        raise ValueError(
            "The outcome window is read from the predictive query, for which the connection is needed.\n"
            "Write evaluation_partitions_due(..., kumo=kumo), or give the evaluation its window."
        )
    predictions = evaluation.keys_by_input_name[PREDICTIONS]
    missing = instance.get_materialized_partitions(predictions) - (
        instance.get_materialized_partitions(evaluation.key)
    )
    now = datetime.now(timezone.utc)
    due: list[str] = []
    for key in in_order(sorted(missing), partitions_def, instance):
        predicted = PredictedPartition(instance, predictions, partitions_def, key, settings, kumo)
        closes_at = predicted.closes_at()
        if closes_at is None or closes_at <= now:
            due.append(key)
    return due
