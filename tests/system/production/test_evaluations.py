"""Evaluations by a schedule, on a Dagster as it is run in production."""

import time

import dagster as dg
import pytest

from tests.support import wait_until
from tests.system.production.deployment import Deployment

pytestmark = [pytest.mark.production, pytest.mark.slow, pytest.mark.timeout(400)]


def test_a_schedule_evaluates_each_day_whose_window_has_closed_also_those_that_it_missed(
    quick: Deployment,
) -> None:
    # Two days ago to five days ago: a window of three days after the end of the day.
    *closed, three_ago, two_ago = quick.new_days("judged", 4)
    is_open = (three_ago, two_ago)
    for run_id in [quick.launch("judged_in_process", key) for key in (*closed, *is_open)]:
        assert quick.wait_for_end(run_id).status == dg.DagsterRunStatus.SUCCESS

    quick.web.start_schedule("judge_every_minute")
    quick.services.kill("daemon")
    missed = time.time() // 60 * 60 + 60
    wait_until(lambda: time.time() > missed, seconds=70, pause=0.5)
    quick.services.start("daemon")

    key = dg.AssetKey(["judged", "evaluation"])
    wait_until(lambda: quick.instance.get_materialized_partitions(key) >= {*closed}, seconds=200)
    assert quick.instance.get_materialized_partitions(key) == {*closed}
    # Each by one run, and nothing more is due.
    runs = quick.instance.get_runs(dg.RunsFilter(job_name="judge"))
    assert sorted(run.tags["dagster/partition"] for run in runs) == closed
