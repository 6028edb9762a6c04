"""A run that Dagster ends by its own limit is no person's terminate."""

import dagster as dg
import pytest

from tests.system.production.deployment import Deployment

pytestmark = [pytest.mark.production, pytest.mark.timeout(400)]

SUCCESS = dg.DagsterRunStatus.SUCCESS


@pytest.mark.parametrize(
    "executor", ["in_process", pytest.param("multiprocess", marks=pytest.mark.slow)]
)
def test_a_run_over_its_time_leaves_the_job_for_its_retry(
    executor: str, production: Deployment
) -> None:
    (partition,) = production.new_days("one")
    run_id = production.launch(
        f"one_{executor}", partition, tags={"dagster/max_runtime": "12", "dagster/max_retries": "6"}
    )

    last = production.wait_for_end(run_id)

    assert last.status == SUCCESS
    (job,) = [j for j in production.jobs("one") if j["tags"]["dagster.partition"] == partition]
    assert job["job_status_report"]["status"] == "DONE"
    assert production.materialized("one", "predictions")[partition] == {job["job_id"]}
    assert any("time limit" in line for line in production.lines(run_id))
