"""Runs that are held in the queue while Kumo works: what is launched for them, and when they are released."""

import logging
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_kumo import (
    BatchPrediction,
    BatchPredictionJob,
    KumoClient,
    KumoResource,
    KumoTraining,
    build_kumo_assets_definitions,
    build_kumo_hold_sensor,
    kumo_assets,
)
from dagster_kumo.local import LocalKumo
from dagster_kumo.sensor.call_budget import CallBudget
from dagster_kumo.sensor.hold.held_jobs import HeldJobs
from dagster_kumo.sensor.hold.queue import HoldQueue
from dagster_kumo.sensor.hold.run_steps import RunSteps
from dagster_kumo.sensor.hold.tick import HoldTick
from tests.sensor.hold.queued_runs import HOLD, PROGRESS, QueuedRuns
from tests.support import (
    DAYS,
    PURCHASE,
    day,
    instance_in,
    predict_all,
    purchase_assets,
    wait_until,
)

DAY = day(4)
SUCCESS, FAILURE = dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE
POST_JOB = {"method": "POST", "path": "/prediction_jobs$"}
LIST_JOBS = {"method": "GET", "path": "/prediction_jobs$"}

Queue = Callable[..., QueuedRuns]


@pytest.fixture(scope="module")
def _instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    with instance_in(tmp_path_factory.mktemp("dagster")) as instance:
        yield instance


@pytest.fixture
def instance(_instance: dg.DagsterInstance) -> Iterator[dg.DagsterInstance]:
    """A queue without the runs of other tests."""
    yield _instance
    for run in _instance.get_runs():
        _instance.delete_run(run.run_id)


@pytest.fixture(scope="module")
def slow() -> Iterator[LocalKumo]:
    """A server that takes some seconds for a job."""
    with LocalKumo(run_seconds=4) as kumo:
        yield kumo


@pytest.fixture
def queue(kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path) -> Queue:
    def queue(*assets: Any, **options: Any) -> QueuedRuns:
        server: LocalKumo = options.pop("kumo", kumo)
        about = {"url": server.url, "api_key": server.api_key, "store": tmp_path}
        return QueuedRuns(list(assets), instance=instance, **about, **options)

    return queue


@pytest.fixture
def launched(kumo: LocalKumo) -> Callable[[], list[dict[str, Any]]]:
    """The prediction jobs that the test has launched."""
    if not kumo.jobs:
        predict_all(kumo)  # the stand-in's first job takes seconds
    before = len(kumo.jobs)
    return lambda: kumo.jobs[before:]


def model(name: str, **options: Any) -> dg.AssetsDefinition:
    prediction = options.pop("prediction", None) or BatchPrediction(training_job_id=PURCHASE)

    @kumo_assets(name=name, prediction=prediction, partitions_def=DAYS, **options)
    def assets(context: dg.AssetExecutionContext, kumo: KumoResource) -> Iterator[Any]:
        yield from kumo.predict(context)

    return assets


def posted(kumo: LocalKumo, what: str) -> int:
    return sum(r.method == "POST" and r.path.endswith(what) for r in kumo.requests)


# What is launched, and delivered ############################################################


@pytest.mark.parametrize("outputs", [("predictions",), ("predictions", "embeddings")])
def test_a_held_run_delivers_the_job_that_was_launched_for_it(
    outputs: Any, queue: Queue, launched: Any
) -> None:
    held = queue(purchase_assets(outputs=outputs))
    run_id = held.add(DAY)

    assert held.tick() == "1 held runs have no job yet. Launched 1 jobs."
    (job,) = launched()
    tags = held.run(run_id).tags
    assert tags["dagster/kumo_job.purchase__predictions"] == job["job_id"]
    assert job["tags"]["dagster.run_id"] == run_id
    held.tick_until_released(run_id)

    assert held.execute(run_id).status == SUCCESS
    assert held.run(run_id).tags[PROGRESS] == "DONE"
    assert len(launched()) == 1
    assert any(f"Attached to prediction job {job['job_id']}" in line for line in held.lines(run_id))


def test_it_does_so_on_the_api_of_sdk_3(queue: Queue) -> None:
    with LocalKumo(api="3") as kumo:
        held = queue(purchase_assets(), kumo=kumo)
        run_id = held.add(DAY)
        held.tick_until_released(run_id)

        assert held.execute(run_id).status == SUCCESS
        assert len(kumo.jobs) == 1


def test_a_run_waits_for_the_jobs_of_all_its_models(queue: Queue, launched: Any) -> None:
    held = queue(model("first"), model("second"))
    run_id = held.add(DAY)

    held.tick()
    assert sorted(job["tags"]["dagster.asset"] for job in launched()) == [
        "first/predictions",
        "second/predictions",
    ]
    held.tick_until_released(run_id)

    assert held.execute(run_id).status == SUCCESS
    assert len(launched()) == 2


def purchase_candidate() -> Any:
    purchase = build_kumo_assets_definitions(
        name="purchase",
        prediction=BatchPrediction(training_job_id=PURCHASE),
        training=KumoTraining(query="pquery-cdnow-purchase"),
    )
    return purchase.candidate


def config_of_candidate(**fields: str) -> dict[str, Any]:
    return {"ops": {"purchase__candidate": {"config": fields}}}


def test_a_held_run_that_delivers_a_training_job_waits_for_nothing(
    queue: Queue, kumo: LocalKumo
) -> None:
    held = queue(purchase_candidate())
    run_id = held.add(run_config=config_of_candidate(deliver_job=PURCHASE))
    held.tick_until_released(run_id)

    assert held.execute(run_id).status == SUCCESS
    assert posted(kumo, "/training_jobs") == 0


def test_a_training_is_waited_for_in_the_queue_too(
    queue: Queue, kumo: LocalKumo, client: KumoClient
) -> None:
    held = queue(purchase_candidate())
    run_id = held.add(run_config=config_of_candidate(run_mode="debug"))

    assert held.tick() == "1 held runs have no job yet. Launched 1 jobs."
    job_id = held.run(run_id).tags["dagster/kumo_training_job.purchase__candidate"]
    assert client.get_training_job(job_id).tags["dagster.run_id"] == run_id
    held.tick_until_released(run_id)

    assert held.execute(run_id).status == SUCCESS
    assert posted(kumo, "/training_jobs") == posted(kumo, "/graphsnapshots") == 1
    plan = client.get_training_job(job_id).config.model_plan
    assert plan["optimization"]["max_epochs"] == 1  # as the run asks for
    lines = held.lines(run_id)
    assert any(f"Attached to training job {job_id}" in line for line in lines), lines


def test_a_training_that_is_terminated_while_it_is_held_is_cancelled(
    queue: Queue, slow: LocalKumo, instance: dg.DagsterInstance
) -> None:
    purchase = build_kumo_assets_definitions(
        name="purchase",
        prediction=BatchPrediction(training_job_id=PURCHASE),
        training=KumoTraining(query="pquery-cdnow-purchase", run_mode="debug"),
    )
    held = queue(purchase.candidate, kumo=slow)
    run_id = held.add()
    held.tick()
    job_id = held.run(run_id).tags["dagster/kumo_training_job.purchase__candidate"]
    instance.report_run_canceled(held.run(run_id))
    held.tick()

    job = KumoClient(slow.url, slow.api_key).get_training_job(job_id)
    assert job.job_status_report.status == "CANCELLED"


def test_a_generated_table_comes_before_its_predictions(
    queue: Queue, launched: Any, kumo: LocalKumo
) -> None:
    prediction = BatchPrediction(training_job_id=PURCHASE, prediction_table="generate")
    held = queue(model("tables", prediction=prediction))
    run_id = held.add(DAY)

    held.tick()
    assert "dagster/kumo_prediction_table_job.tables__predictions" in held.run(run_id).tags
    held.tick_until_released(run_id)

    assert held.execute(run_id).status == SUCCESS
    assert (posted(kumo, "/genpredtable_jobs"), len(launched())) == (1, 1)


def test_a_job_that_failed_fails_the_run_with_its_reason_and_a_retry_launches_again(
    queue: Queue, launched: Any, kumo: LocalKumo
) -> None:
    kumo.faults.fail_job("no such column", times=1)
    held = queue(purchase_assets())
    run_id = held.add(DAY)

    held.tick_until_released(run_id)
    assert held.run(run_id).tags[PROGRESS] == "FAILED"
    assert held.execute(run_id).status == FAILURE
    assert "no such column" in held.failure(run_id)
    assert len(launched()) == 1

    released = {HOLD: "released", PROGRESS: "FAILED"}
    again = held.add(DAY, released, parent_run_id=run_id, root_run_id=run_id)
    assert held.execute(again).status == SUCCESS
    assert len(launched()) == 2


def test_a_held_re_execution_attaches_to_the_job_of_the_run_before(
    queue: Queue, launched: Any, kumo: LocalKumo
) -> None:
    held = queue(purchase_assets())
    first = held.add(DAY, {HOLD: "released"})
    broken = kumo.faults.answer(410, path="^/files/", times=None)
    assert held.execute(first).status == FAILURE
    assert broken.hits
    kumo.faults.clear()

    again = held.add(DAY, parent_run_id=first, root_run_id=first)
    held.tick_until_released(again)

    assert held.execute(again).status == SUCCESS
    assert len(launched()) == 1


@pytest.mark.parametrize("hold", ["until_done", "released"])
def test_a_re_execution_that_launches_anew_is_a_launch_of_its_own_and_its_retry_is_not(
    hold: str, queue: Queue, launched: Any, kumo: LocalKumo
) -> None:
    anew = {"ops": {"purchase__predictions": {"config": {"launch_anew": True}}}}
    held = queue(purchase_assets())
    first = held.add(DAY, {HOLD: "released"})
    kumo.faults.answer(410, path="^/files/", times=None)
    assert held.execute(first).status == FAILURE

    again = held.add(DAY, {HOLD: hold}, parent_run_id=first, root_run_id=first, run_config=anew)
    held.tick_until_released(again)
    assert held.execute(again).status == FAILURE
    assert len(launched()) == 2

    kumo.faults.clear()
    tags = {HOLD: hold, "dagster/retry_number": "1"}
    retry = held.add(DAY, tags, parent_run_id=again, root_run_id=first, run_config=anew)
    held.tick_until_released(retry)
    assert held.execute(retry).status == SUCCESS
    assert len(launched()) == 2


def test_the_run_configuration_of_a_held_run_is_that_of_its_job(
    queue: Queue, launched: Any
) -> None:
    config = {
        "training_job_id": "trainingjob-cdnow-purchase-old",
        "binary_classification_threshold": 0.25,
    }
    held = queue(purchase_assets())
    run_id = held.add(DAY, run_config={"ops": {"purchase__predictions": {"config": config}}})
    held.tick_until_released(run_id)

    assert held.execute(run_id).status == SUCCESS
    (job,) = launched()
    assert job["config"]["model_training_job_id"] == config["training_job_id"]
    assert job["config"]["predict_options"]["binary_classification_threshold"] == 0.25


def test_a_held_run_whose_configuration_is_wrong_is_released_and_says_why(
    queue: Queue, launched: Any
) -> None:
    config = {"binary_classification_threshold": 2.0}
    held = queue(purchase_assets())
    run_id = held.add(DAY, run_config={"ops": {"purchase__predictions": {"config": config}}})
    held.tick_until_released(run_id)

    assert held.execute(run_id).status == FAILURE
    assert "a probability, 0 to 1, not 2.0" in held.failure(run_id)
    assert launched() == []


def test_the_model_of_the_launch_is_the_model_of_the_run(
    queue: Queue, launched: Any, kumo: LocalKumo
) -> None:
    tags = KumoClient(kumo.url, kumo.api_key).get_training_job(PURCHASE).tags
    held = queue(model("newest", prediction=BatchPrediction(training_job_tags=tags)))
    run_id = held.add(DAY)
    held.tick_until_released(run_id)
    # No model has the tags any more; a run that looked for it would fail.
    kumo.faults.answer(200, method="GET", path="/training_jobs$", body=[], times=None)

    assert held.execute(run_id).status == SUCCESS
    assert len(launched()) == 1


# What is released at once ###################################################################


@dg.asset(partitions_def=DAYS)
def orders() -> None: ...


RELEASED_AT_ONCE = {
    "several partitions": (
        [model("several", backfill_policy=dg.BackfillPolicy.single_run())],
        {
            "dagster/asset_partition_range_start": day(6),
            "dagster/asset_partition_range_end": day(5),
        },
        {},
    ),
    "upstream in the same run": ([orders, model("after", deps=["orders"])], {}, {}),
    "nothing of Kumo": ([orders], {}, {}),
    "a job to deliver": ([model("adopted")], {"dagster-kumo/deliver_job": "bp-job-1"}, {}),
    "a connection of its own": (
        [model("connected")],
        {},
        {"run_config": {"resources": {"kumo": {"config": {"poll_interval": 1.0}}}}},
    ),
}


@pytest.mark.parametrize("what", RELEASED_AT_ONCE)
def test_a_run_without_a_job_to_launch_ahead_is_released_at_once(
    what: str, queue: Queue, launched: Any
) -> None:
    assets, tags, options = RELEASED_AT_ONCE[what]
    held = queue(*assets)
    partition = None if what == "several partitions" else DAY
    run_id = held.add(partition, tags, **options)

    assert held.tick() == "Released 1 runs."
    assert not held.is_held(run_id)
    assert PROGRESS not in held.run(run_id).tags
    assert launched() == []


def test_a_run_of_another_code_location_is_left_alone(queue: Queue) -> None:
    held = queue(orders)
    run_id = held.add(DAY)

    assert HoldQueue(held.instance, "elsewhere").held() == []
    assert [r.dagster_run.run_id for r in HoldQueue(held.instance, "here").held()] == [run_id]


def test_only_what_does_not_depend_on_the_run_is_launched_ahead(
    queue: Queue, launched: Any
) -> None:
    held = queue(orders, model("after", deps=["orders"]), model("free"))
    run_id = held.add(DAY)
    held.tick_until_released(run_id)

    assert [job["tags"]["dagster.asset"] for job in launched()] == ["free/predictions"]
    assert held.execute(run_id).status == SUCCESS
    assert len(launched()) == 2


# Errors #####################################################################################


@pytest.mark.parametrize("path", [POST_JOB, LIST_JOBS])
def test_an_error_that_may_pass_is_left_to_the_next_tick(
    path: dict[str, str], queue: Queue, launched: Any, kumo: LocalKumo
) -> None:
    held = queue(purchase_assets(), settings={"launch_settling_time": 0})
    run_id = held.add(DAY)
    kumo.faults.answer(503, **path, times=1)

    assert "The next tick tries again" in held.tick()
    assert held.is_held(run_id)
    held.tick_until_released(run_id)
    assert held.execute(run_id).status == SUCCESS
    assert len(launched()) == 1


def test_any_other_error_is_the_run_s_own(queue: Queue, kumo: LocalKumo) -> None:
    held = queue(purchase_assets())
    run_id = held.add(DAY)
    kumo.faults.refuse_launch("No quota", "Ask for more", times=None)

    held.tick()
    assert not held.is_held(run_id)
    assert held.execute(run_id).status == FAILURE
    assert "Ask for more" in held.failure(run_id)


def test_a_launch_whose_answer_is_lost_is_not_sent_again_before_kumo_shows_it(
    queue: Queue, launched: Any, kumo: LocalKumo
) -> None:
    held = queue(purchase_assets(), settings={"launch_settling_time": 2})
    run_id = held.add(DAY)
    kumo.faults.list_late(1.5)
    kumo.faults.lose_answer(**POST_JOB)

    held.tick()
    assert len(launched()) == 1
    held.tick_until_released(run_id)
    assert held.execute(run_id).status == SUCCESS
    assert len(launched()) == 1


# A person ###################################################################################


@pytest.mark.parametrize(("policy", "ends"), [("user", "CANCELLED"), ("never", "RUNNING")])
def test_the_jobs_of_a_run_that_is_terminated_while_it_is_held_are_cancelled(
    policy: str, ends: str, queue: Queue, slow: LocalKumo
) -> None:
    held = queue(purchase_assets(), kumo=slow, settings={"cancel_on_termination": policy})
    run_id = held.add(DAY)
    held.tick()
    job_id = held.run(run_id).tags["dagster/kumo_job.purchase__predictions"]
    held.instance.report_run_canceled(held.run(run_id))

    said = held.tick()

    assert ("Cancelled 1 jobs" in said) == (policy == "user")
    assert BatchPredictionJob(job_id, held.resource.get_client()).status().status == ends
    assert held.tick() == "No run is held."


def test_a_run_that_is_not_held_is_told_of_once(
    queue: Queue,
) -> None:
    held = queue(purchase_assets())
    run_id = held.add(DAY)
    assert held.execute(run_id).status == SUCCESS

    assert "does not hold runs" in held.tick()
    assert held.tick() == "No run is held."
    (line,) = [line for line in held.lines(run_id) if "tag_concurrency_limits" in line]
    assert "{key: dagster-kumo/hold, value: until_done, limit: 0}" in line


# Limits #####################################################################################


def test_no_more_jobs_go_on_than_the_limit_says_and_priorities_come_first(
    queue: Queue, slow: LocalKumo
) -> None:
    held = queue(purchase_assets(), kumo=slow, max_jobs_in_flight=2)
    before = len(slow.jobs)
    for days_ago in (10, 11, 12):
        held.add(day(days_ago))
    urgent = held.add(day(13), {"dagster/priority": "5"})

    def asked_for() -> set[str]:
        return {job["tags"]["dagster.partition"] for job in slow.jobs[before:]}

    held.tick()
    assert asked_for() == {day(13), day(10)}
    assert "2 held runs have no job yet" in held.tick()
    assert asked_for() == {day(13), day(10)}
    held.tick_until_released(urgent)
    held.tick()
    assert day(11) in asked_for()


def test_jobs_that_kumo_does_not_list_for_the_moment_count_towards_the_limit(
    queue: Queue, slow: LocalKumo
) -> None:
    held = queue(purchase_assets(), kumo=slow, max_jobs_in_flight=1)
    before = len(slow.jobs)
    held.add(day(10))
    held.tick()
    held.add(day(11))
    slow.faults.answer(503, **LIST_JOBS, times=1)

    assert "The next tick tries again" in held.tick()
    assert len(slow.jobs) == before + 1


def test_a_tick_whose_time_is_over_leaves_launches_and_progress_to_the_next(
    queue: Queue, slow: LocalKumo
) -> None:
    held = queue(purchase_assets(), kumo=slow)
    before = len(slow.jobs)
    first, second = held.add(day(10)), held.add(day(11))
    held.tick()
    held.add(day(12))
    all_runs = HoldQueue(held.instance, None)
    tick = HoldTick(
        held.instance,
        held.repository,
        all_runs,
        RunSteps("kumo"),
        held.resource.get_client(),
        HeldJobs(held.resource.get_client(), None),
        logging.getLogger(),
        budget=CallBudget(60, calls=4),  # to look at each run, and to show the progress of one
        launch_budget=CallBudget(0),
        max_jobs_in_flight=None,
        cancels=True,
    )

    said = str(tick.run(all_runs.held(), []))

    assert "The next tick tries again" in said
    assert len(slow.jobs) == before + 2
    shown = [held.run(run_id).tags[PROGRESS][:7] for run_id in (first, second)]
    assert sorted(shown) == ["RUNNING", "launchi"]
    held.tick()
    assert len(slow.jobs) == before + 3
    assert held.run(second).tags[PROGRESS].startswith("RUNNING")


@pytest.mark.parametrize(
    ("deadline", "is_late"), [(timedelta(seconds=1), True), (timedelta(hours=1), False)]
)
def test_a_held_run_shows_while_it_waits_that_its_job_will_be_late(
    deadline: timedelta,
    is_late: bool,
    queue: Queue,
    slow: LocalKumo,
    capfd: pytest.CaptureFixture[str],
) -> None:
    held = queue(purchase_assets(partitions_def=None, deadline=deadline), kumo=slow)
    run_id = held.add()

    def progress() -> str:
        held.tick()
        return held.run(run_id).tags.get(PROGRESS, "")

    shown = wait_until(lambda: "until about" in (said := progress()) and said)
    held.tick()

    assert ("after the deadline" in shown) == is_late
    said = f"The job of the held run {run_id} is late"
    assert capfd.readouterr().err.count(said) == int(is_late)


def test_a_limit_is_at_least_one() -> None:
    with pytest.raises(ValueError, match="max_jobs_in_flight is 1 or more"):
        build_kumo_hold_sensor(max_jobs_in_flight=0)
