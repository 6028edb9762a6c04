"""Runs over several partitions: what fails one of them, a kill in the middle, and hundreds of them."""

from collections import Counter

import dagster as dg
import pytest

from tests.support import wait_until
from tests.system.production.definitions import KEYS
from tests.system.production.deployment import Deployment

pytestmark = [pytest.mark.production, pytest.mark.timeout(400)]

SUCCESS = dg.DagsterRunStatus.SUCCESS
OUTPUTS = ("predictions", "embeddings")


def stored(production: Deployment, model: str) -> set[str]:
    """The days of a model that are stored whole."""
    folders = [production.home / "store" / model / output for output in OUTPUTS]
    return set.intersection(
        *({file.parent.name for file in one.glob("*/manifest.json")} for one in folders)
    )


def test_a_day_that_kumo_refuses_holds_up_no_other_and_is_made_by_the_retry(
    quick: Deployment,
) -> None:
    partitions = quick.new_days("both", 4)
    refused = quick.gate.open_to.faults.refuse_launch("Time", "That time has no data yet.", after=1)

    run_id = quick.launch("both_in_process", *partitions)
    last = quick.wait_for_end(run_id)

    assert last.status == SUCCESS
    assert refused.hits == 1
    first, second = quick.attempts(run_id)
    made = {run.run_id: partitions_made(quick, run, "both") for run in (first, second)}
    (refused_day,) = set(partitions) - set(made[first.run_id])
    (error,) = quick.errors(first)
    assert f"{refused_day}: " in error
    assert "That time has no data yet." in error
    assert [len(ids) for ids in quick.launched("both", *partitions).values()] == [1] * 4
    for output in OUTPUTS:
        delivered = quick.materialized("both", output)
        assert {key: delivered[key] for key in partitions} == {
            key: {*ids} for key, ids in quick.launched("both", *partitions).items()
        }


def partitions_made(production: Deployment, run: dg.DagsterRun, model: str) -> list[str | None]:
    """The days that a run itself has recorded predictions for."""
    wanted = dg.DagsterEventType.ASSET_MATERIALIZATION
    made = [
        e.asset_materialization for e in production.instance.all_logs(run.run_id, of_type=wanted)
    ]
    key = dg.AssetKey([model, "predictions"])
    return [one.partition for one in made if one is not None and one.asset_key == key]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "enough"), [(6, 2), (60, 50)])
def test_a_run_that_is_killed_between_its_days_pays_for_none_twice_and_fetches_no_stored_one_again(
    number: int, enough: int, quick: Deployment
) -> None:
    partitions = quick.new_days("year", number)
    kumo = quick.gate.open_to
    kumo.clear_requests()
    # The last jobs are not done before the run is killed.
    held = quick.gate.hold("GET", "/prediction_jobs/[^/]+$", about=partitions[-1], way="there")
    run_id = quick.launch("year_in_process", *partitions)
    wait_until(lambda: len(stored(quick, "year") & {*partitions}) >= enough, seconds=300)
    before = stored(quick, "year") & {*partitions}
    quick.kill(run_id)
    first = fetched(quick)
    held.release()

    last = quick.wait_for_end(run_id)

    assert last.status == SUCCESS
    assert last.parent_run_id == run_id
    jobs = quick.launched("year", *partitions)
    assert [len(ids) for ids in jobs.values()] == [1] * number
    both = fetched(quick)
    print(f"files fetched before the kill: {first.total()}, after: {(both - first).total()}")
    for key, (job_id,) in jobs.items():
        times = [n for path, n in both.items() if job_id in path]
        assert len(times) == 4  # two files of each output
        assert key not in before or times == [1] * 4
    for output in OUTPUTS:
        assert quick.instance.get_materialized_partitions(dg.AssetKey(["year", output])) >= {
            *partitions
        }


def fetched(production: Deployment) -> Counter[str]:
    """How often each file has been fetched."""
    requests = production.gate.open_to.requests
    return Counter(r.path for r in requests if r.method == "GET" and r.path.startswith("/files/"))


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_a_run_over_three_hundred_partitions_has_few_tags_and_a_note_for_each_job(
    quick: Deployment,
) -> None:
    partitions = KEYS.get_partition_keys()
    backfill = quick.backfill([["hundreds", "predictions"]], *partitions)

    assert quick.wait_for_backfill(backfill, seconds=900).value == "COMPLETED_SUCCESS"

    (run,) = quick.runs_of_backfill(backfill)
    tags = {key: value for key, value in run.tags.items() if "kumo" in key}
    assert list(tags) == ["dagster/kumo_job.hundreds__predictions"]
    jobs = {key: {*ids} for key, ids in quick.launched("hundreds", *partitions).items()}
    noted = quick.noted("hundreds", "predictions")
    assert {key: noted[key] for key in partitions} == jobs
    delivered = quick.materialized("hundreds", "predictions")
    assert {key: delivered[key] for key in partitions} == jobs
