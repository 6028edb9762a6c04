"""The daily run: from the source tables to the call list of yesterday."""

import dagster as dg

# Everything but the weekly table.
daily_call_list = dg.define_asset_job(
    "daily_call_list",
    selection=dg.AssetSelection.all() - dg.AssetSelection.assets("purchase_drift"),
    description="Source tables, predictions, embeddings, export and call list of one day.",
)

# Each morning at six (UTC), for the day that ended at midnight.
every_morning = dg.build_schedule_from_partitioned_job(
    daily_call_list, name="every_morning", hour_of_day=6
)
