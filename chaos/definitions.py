"""The code location of a chaos run: the example project, an export that appends, and assets for backfills.

`KUMO_API_KEY` and `KUMO_API_ENDPOINT` lead to the proxy, `EXAMPLE_DATA` says where files are kept.
"""

import dagster as dg
from example_project.partitions import daily

from chaos.clock import follow_clock
from chaos.scratch import separate_scratch
from dagster_kumo import (
    BatchPrediction,
    KumoResource,
    SnowflakeConnector,
    build_kumo_export_asset,
    build_kumo_hold_sensor,
    kumo_assets,
)
from example_project import definitions as example

follow_clock()
separate_scratch()

PURCHASES = dg.AssetKey(["purchase", "predictions"])
EMBEDDINGS = dg.AssetKey(["purchase", "embeddings"])
SPEND = dg.AssetKey(["spend", "predictions"])
REPLACED = dg.AssetKey(["purchase", "predictions_in_snowflake"])
APPENDED = dg.AssetKey(["purchase_history", "predictions_in_snowflake"])
CALL_LIST = dg.AssetKey("call_list")
# As the example's own job, but for the source tables, which are the same for all days.
DAILY_ASSETS = (PURCHASES, EMBEDDINGS, SPEND, REPLACED, APPENDED, CALL_LIST)

history = build_kumo_export_asset(
    name="purchase_history",
    predictions=PURCHASES,
    connector=SnowflakeConnector("warehouse"),
    table_name="PURCHASE_HISTORY",
    write_mode="APPEND",
    partitions_def=daily,
)


def _for_backfills(name: str, policy: dg.BackfillPolicy) -> dg.AssetsDefinition:
    @kumo_assets(
        name=name,
        prediction=BatchPrediction(
            training_job_id="trainingjob-cdnow-purchase", outputs=("predictions", "embeddings")
        ),
        partitions_def=daily,
        backfill_policy=policy,
        pool="kumo",
    )
    def assets(context: dg.AssetExecutionContext, kumo: KumoResource):
        yield from kumo.predict(context)

    return assets


# Backfills of one go on in a run for all days, of the other in a run for each.
BACKFILLED = ("single_run", "many_runs")
backfilled = [
    _for_backfills("single_run", dg.BackfillPolicy.single_run()),
    _for_backfills("many_runs", dg.BackfillPolicy.multi_run()),
]

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
EXECUTORS = {
    "in_process": dg.in_process_executor,
    # A process for each step, to be killed.
    "multiprocess": dg.multiprocess_executor.configured(
        {
            "max_concurrent": 3,
            "start_method": {"forkserver": {"preload_modules": ["chaos.definitions"]}},
        }
    ),
}
jobs = [
    dg.define_asset_job(
        f"day_{name}", config=QUIET, selection=list(DAILY_ASSETS), executor_def=executor
    )
    for name, executor in EXECUTORS.items()
]


def _definitions() -> dg.Definitions:
    """The example's, but for its jobs, which are of all assets that there are."""
    given = example.defs()
    return dg.Definitions(
        assets=[*(given.assets or []), history, *backfilled],
        asset_checks=given.asset_checks,
        resources=given.resources,
        executor=given.executor,
        jobs=jobs,
        sensors=[build_kumo_hold_sensor(minimum_interval_seconds=2)],
    )


# The example's own `defs`, a function, must not be a name of this module: Dagster would take it for this
# code location's.
defs = _definitions()
