"""The runs of each day and week: the call list of yesterday, what became of the predictions of a month ago, and
the training of a newer model."""

from collections.abc import Iterator

import dagster as dg

from dagster_kumo import HOLD_UNTIL_DONE, evaluation_partitions_due

# Modules and not their assets: Dagster would find an asset that is imported in both places.
from example_project.defs import models, outcomes

EVALUATION = dg.AssetSelection.assets(outcomes.purchase_outcomes, models.purchase.evaluation)

TRAINING = dg.AssetSelection.assets(models.purchase.candidate, models.purchase.model)

everything_daily = (
    dg.AssetSelection.all() - dg.AssetSelection.assets("purchase_drift") - EVALUATION - TRAINING
)
shop_tables = dg.AssetSelection.assets("customers").upstream()

# Everything but what is made each week, and what is known only a month later.
daily_call_list = dg.define_asset_job(
    "daily_call_list",
    selection=everything_daily,
    description="Source tables, predictions, embeddings, export and call list of one day.",
)

# Kumo reads the source tables. They are made first, so that the run of the morning can wait for Kumo in
# Dagster's queue, without a worker (see `dagster.yaml`).
source_tables = dg.define_asset_job("source_tables", selection=shop_tables)
held_call_list = dg.define_asset_job(
    "held_call_list",
    selection=everything_daily - shop_tables,
    tags=HOLD_UNTIL_DONE,
    description="Predictions, embeddings, export and call list of one day; held while Kumo works.",
)

# Each morning (UTC), for the day that ended at midnight.
source_tables_schedule = dg.ScheduleDefinition(
    job=source_tables,
    cron_schedule="30 5 * * *",
    description="Makes the tables that Kumo reads, half an hour before the predictions (UTC).",
)
held_call_list_schedule = dg.build_schedule_from_partitioned_job(
    held_call_list,
    hour_of_day=6,
    description="Makes the call list of the day that has ended, at six in the morning (UTC).",
)

evaluate_purchase = dg.define_asset_job(
    "evaluate_purchase",
    selection=EVALUATION,
    description="Predictions of a day whose 30 days have passed, and what happened.",
)


# Each morning at seven (UTC): the day whose 30 days have passed, and those that were missed.
@dg.schedule(
    cron_schedule="0 7 * * *",
    job=evaluate_purchase,
    description="Evaluates the days whose 30 days have passed, also those that were missed (UTC).",
)
def evaluate_purchase_schedule(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
    """Evaluates the days whose outcome is known by now."""
    for day in evaluation_partitions_due(models.purchase.evaluation, context.instance):
        # What fails today is due tomorrow again: the key tells both requests apart.
        key = f"{day} on {context.scheduled_execution_time:%Y-%m-%d}"
        yield dg.RunRequest(run_key=key, partition_key=day)


# A candidate is trained, and promoted if it passes its gate. That takes hours with Kumo, in which the run is held.
retrain_purchase = dg.define_asset_job(
    "retrain_purchase",
    selection=TRAINING,
    tags=HOLD_UNTIL_DONE,
    description="Trains a candidate of the purchase model; promotes it if it passes its gate.",
)
retrain_purchase_schedule = dg.ScheduleDefinition(
    job=retrain_purchase,
    cron_schedule="0 8 * * 0",
    description="Trains a candidate each Sunday, and promotes it if it passes its gate (UTC).",
)
purchase_rollback = models.purchase.rollback_job
