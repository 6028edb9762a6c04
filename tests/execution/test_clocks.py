"""A machine whose clock is wrong: what a launch has delivered is known by its runs, and not by a time."""

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import dagster as dg
import pytest
import time_machine

from dagster_kumo import BatchPrediction, KumoIOManager, KumoResource, kumo_assets
from dagster_kumo.local import LocalKumo
from tests.support import DAYS, PREDICTIONS, PURCHASE, day


@pytest.fixture
def kumo() -> Iterator[LocalKumo]:
    """A stand-in of the test's own: it is in this process, and its clock changes too."""
    with LocalKumo(files_per_output=1) as kumo:
        yield kumo


@pytest.mark.parametrize("minutes", [-10, 10])
def test_a_retry_where_the_clock_is_wrong_launches_nothing_that_is_delivered(
    minutes: int, kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    # The run is recorded by a machine whose clock is right.
    clock = time_machine.travel(datetime.now(timezone.utc) + timedelta(minutes=minutes), tick=True)

    @kumo_assets(
        name="purchase",
        prediction=BatchPrediction(training_job_id=PURCHASE),
        partitions_def=DAYS,
        backfill_policy=dg.BackfillPolicy.single_run(),
        retry_policy=dg.RetryPolicy(max_retries=1),
    )
    def purchase(context: dg.AssetExecutionContext, kumo: KumoResource):
        if context.retry_number == 0:
            clock.start()
        yield from kumo.predict(context)

    days = [day(30 + minutes), day(29 + minutes)]
    # One of the days fails at first, after the other one has been delivered.
    kumo.faults.fail_job(after=1)
    resource = KumoResource(
        url=kumo.url, api_key=kumo.api_key, poll_interval=0.1, max_concurrent_jobs=1
    )
    try:
        run = dg.materialize(
            [purchase],
            instance=instance,
            resources={"kumo": resource, "kumo_io_manager": KumoIOManager(base_path=str(tmp_path))},
            tags={
                "dagster/asset_partition_range_start": days[0],
                "dagster/asset_partition_range_end": days[1],
            },
        )
    finally:
        clock.stop()

    assert run.success
    launched = [
        (job["tags"]["dagster.partition"], job["job_status_report"]["status"]) for job in kumo.jobs
    ]
    assert sorted(launched) == [(days[0], "DONE"), (days[1], "DONE"), (days[1], "FAILED")]
    assert instance.get_materialized_partitions(PREDICTIONS) >= {*days}
