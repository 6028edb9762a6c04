"""Backfills, in a single run and in many: one paid job for each day, and what can be delivered is."""

from collections.abc import Sequence

import dagster as dg
import pytest

from tests.support import wait_until
from tests.system.production.deployment import Deployment

pytestmark = [pytest.mark.production, pytest.mark.timeout(400)]

SLOW = pytest.mark.slow
# The models whose backfills go on in one run for all days, and in a run for each.
ONE_OUTPUT = {"single run": "many", "many runs": "one"}
TWO_OUTPUTS = {"single run": "both", "many runs": "pair"}
NOT_RETRIED = {"dagster/max_retries": "0"}


def jobs_of(production: Deployment, model: str, partitions: Sequence[str]) -> dict[str, list[str]]:
    """The statuses of the jobs that the server has for each day."""
    found: dict[str, list[str]] = {key: [] for key in partitions}
    for job in production.jobs(model):
        if (key := job["tags"]["dagster.partition"]) in found:
            found[key].append(job["job_status_report"]["status"])
    return found


def delivered(production: Deployment, model: str, output: str, partitions: Sequence[str]) -> bool:
    """Whether each day is materialized, and from its one job that is done."""
    done = {
        job["tags"]["dagster.partition"]: {job["job_id"]}
        for job in production.jobs(model)
        if job["job_status_report"]["status"] == "DONE"
    }
    made = production.materialized(model, output)
    return all(made.get(key) == done[key] for key in partitions)


@pytest.mark.parametrize(
    "how", ["single run", pytest.param("many runs", marks=SLOW), pytest.param("a job", marks=SLOW)]
)
def test_a_backfill_re_executed_from_failure_delivers_the_jobs_that_are_paid(
    how: str, quick: Deployment
) -> None:
    model = ONE_OUTPUT.get(how, "tables")
    partitions = quick.new_days(model, 3)
    faults = quick.gate.open_to.faults
    faults.show_late(4, path="/prediction_jobs/")
    broken = faults.answer(410, path="^/files/", times=None)
    if how == "a job":
        backfill = quick.backfill_of_job(f"{model}_in_process", *partitions, tags=NOT_RETRIED)
    else:
        backfill = quick.backfill([[model, "predictions"]], *partitions, tags=NOT_RETRIED)
    quick.wait_for_backfill(backfill)
    assert jobs_of(quick, model, partitions) == {key: ["DONE"] for key in partitions}
    assert broken.hits

    # Also when it fails once more.
    again = quick.web.re_execute_backfill(backfill)
    assert quick.wait_for_backfill(again).value == "COMPLETED_FAILED"
    faults.clear()
    last = quick.web.re_execute_backfill(again)

    assert quick.wait_for_backfill(last).value == "COMPLETED_SUCCESS"
    assert jobs_of(quick, model, partitions) == {key: ["DONE"] for key in partitions}
    assert delivered(quick, model, "predictions", partitions)


@SLOW
def test_a_backfill_re_executed_from_failure_pays_for_no_day_that_a_run_of_it_delivered_later(
    quick: Deployment,
) -> None:
    partitions = quick.new_days("one", 2)
    quick.gate.open_to.faults.answer(410, path="^/files/", times=None)
    backfill = quick.backfill([["one", "predictions"]], *partitions, tags=NOT_RETRIED)
    assert quick.wait_for_backfill(backfill).value == "COMPLETED_FAILED"
    quick.gate.open_to.faults.clear()
    # A person re-executes one of its runs. Dagster does not know that the backfill needs this day no more.
    (failed,) = [
        run
        for run in quick.runs_of_backfill(backfill)
        if run.tags["dagster/partition"] == partitions[0]
    ]
    later = quick.wait_for_end(quick.web.re_execute(failed.run_id))
    assert (later.is_success, later.tags.get("dagster/backfill")) == (True, None)

    again = quick.web.re_execute_backfill(backfill)

    assert quick.wait_for_backfill(again).value == "COMPLETED_SUCCESS"
    asked_for = {run.tags["dagster/partition"] for run in quick.runs_of_backfill(again)}
    assert asked_for == {*partitions}
    assert jobs_of(quick, "one", partitions) == {key: ["DONE"] for key in partitions}
    assert delivered(quick, "one", "predictions", partitions)


@SLOW
def test_a_backfill_that_is_launched_anew_is_a_new_launch(quick: Deployment) -> None:
    partitions = quick.new_days("many", 3)
    for times in (1, 2):
        backfill = quick.backfill([["many", "predictions"]], *partitions)
        assert quick.wait_for_backfill(backfill).value == "COMPLETED_SUCCESS"
        assert jobs_of(quick, "many", partitions) == {key: ["DONE"] * times for key in partitions}


@SLOW
@pytest.mark.parametrize("how", ONE_OUTPUT)
def test_a_backfill_that_is_cancelled_cancels_its_jobs_and_is_carried_on_when_asked(
    how: str, production: Deployment
) -> None:
    model = ONE_OUTPUT[how]
    partitions = production.new_days(model, 3)
    backfill = production.backfill([[model, "predictions"]], *partitions)
    wait_until(lambda: any(jobs_of(production, model, partitions).values()), seconds=120, pause=0.2)

    production.web.cancel_backfill(backfill)

    assert production.wait_for_backfill(backfill).value == "CANCELED"
    ended = [status for key in jobs_of(production, model, partitions).values() for status in key]
    assert set(ended) == {"CANCELLED"}
    assert not set(production.materialized(model, "predictions")) & set(partitions)

    again = production.web.re_execute_backfill(backfill)
    assert production.wait_for_backfill(again).value == "COMPLETED_SUCCESS"
    statuses = jobs_of(production, model, partitions)
    assert all(statuses[key].count("DONE") == 1 for key in partitions), statuses
    assert delivered(production, model, "predictions", partitions)


@SLOW
@pytest.mark.parametrize("how", ONE_OUTPUT)
def test_a_daemon_that_is_killed_in_the_middle_of_a_backfill_costs_no_second_job(
    how: str, production: Deployment
) -> None:
    model = ONE_OUTPUT[how]
    partitions = production.new_days(model, 3)
    backfill = production.backfill([[model, "predictions"]], *partitions)
    # Killed as soon as it has submitted a run, and once more when there are jobs.
    for begun in (
        lambda: production.runs_of_backfill(backfill),
        lambda: any(jobs_of(production, model, partitions).values()),
    ):
        wait_until(begun, seconds=120)
        production.services.kill("daemon")
        production.services.start("daemon")

    assert production.wait_for_backfill(backfill).value == "COMPLETED_SUCCESS"
    assert jobs_of(production, model, partitions) == {key: ["DONE"] for key in partitions}
    assert delivered(production, model, "predictions", partitions)


@SLOW
@pytest.mark.parametrize("how", TWO_OUTPUTS)
def test_a_day_that_lacks_an_output_keeps_the_others_from_nothing(
    how: str, quick: Deployment
) -> None:
    model = TWO_OUTPUTS[how]
    partitions = quick.new_days(model, 3)
    lacks, others = partitions[1], [partitions[0], *partitions[2:]]
    faults = quick.gate.open_to.faults
    assets = [[model, "predictions"], [model, "embeddings"]]
    backfill = quick.backfill(assets, *partitions, tags=NOT_RETRIED)
    wait_until(lambda: jobs_of(quick, model, partitions)[lacks], seconds=120)
    (job,) = [j for j in quick.jobs(model) if j["tags"]["dagster.partition"] == lacks]
    faults.answer(404, path=rf"{job['job_id']}/get_embedding_df_urls", times=None)

    assert quick.wait_for_backfill(backfill).value == "COMPLETED_FAILED"
    assert delivered(quick, model, "predictions", partitions)
    assert delivered(quick, model, "embeddings", others)
    assert lacks not in quick.materialized(model, "embeddings")
    (failed,) = [
        run for run in quick.runs_of_backfill(backfill) if run.status == dg.DagsterRunStatus.FAILURE
    ]
    # A run for one day is named after it; one for several names it in its error.
    (error,) = quick.errors(failed)
    assert lacks in (error if how == "single run" else failed.tags["dagster/partition"])

    faults.clear()
    again = quick.web.re_execute_backfill(backfill)
    assert quick.wait_for_backfill(again).value == "COMPLETED_SUCCESS"
    assert jobs_of(quick, model, partitions) == {key: ["DONE"] for key in partitions}
    assert delivered(quick, model, "embeddings", partitions)
