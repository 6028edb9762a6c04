"""The code location of a chaos run: the example project, an export that appends, and what asks for days.

`KUMO_API_KEY` and `KUMO_API_ENDPOINT` lead to the proxy, `EXAMPLE_DATA` says where files are kept and
`CHAOS_DAYS` which days are made.
"""

import os
from collections.abc import Iterator

import dagster as dg
from example_project.partitions import daily

from dagster_kumo import SnowflakeConnector, build_kumo_export_asset
from example_project import definitions as example

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

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
day = dg.define_asset_job(
    "day",
    config=QUIET,
    selection=list(DAILY_ASSETS),
    # A process for each step, to be killed.
    executor_def=dg.multiprocess_executor.configured(
        {"max_concurrent": 3, "start_method": {"forkserver": {}}}
    ),
)


@dg.sensor(job=day, minimum_interval_seconds=1, default_status=dg.DefaultSensorStatus.RUNNING)
def days_to_make() -> Iterator[dg.RunRequest]:
    """Ask for each day once."""
    for key in os.environ["CHAOS_DAYS"].split(","):
        yield dg.RunRequest(run_key=key, partition_key=key)


# The example's own `defs`, a function, must not be a name of this module: Dagster would take it for this
# code location's.
defs = dg.Definitions.merge(
    example.defs(), dg.Definitions(assets=[history], jobs=[day], sensors=[days_to_make])
)


def day_job() -> dg.JobDefinition:
    """The job as Dagster runs it, for `dg.reconstructable`."""
    return defs.resolve_job_def("day")
