"""The daily run: from the source tables to the call list of yesterday."""

import dagster as dg

from dagster_kumo import HOLD_UNTIL_DONE

everything_daily = dg.AssetSelection.all() - dg.AssetSelection.assets("purchase_drift")
shop_tables = dg.AssetSelection.assets("customers").upstream()

# Everything but the weekly table.
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
early_morning = dg.ScheduleDefinition(
    name="early_morning", job=source_tables, cron_schedule="30 5 * * *"
)
every_morning = dg.build_schedule_from_partitioned_job(
    held_call_list,
    name="every_morning",
    hour_of_day=6,
    description="Makes the call list of the day that has ended, at six in the morning (UTC).",
)
