"""A run whose machine died is continued by one run, if its user says so to the sensor."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import dagster as dg
import pytest

from dagster_kumo import KumoClient, KumoResource, KumoRunConfig, build_kumo_sensor
from tests.support import PURCHASE, wait_until
from tests.system.runs.definitions import JOBS, defs
from tests.system.runs.processes import (
    IN_PROCESS,
    JOB_ID,
    LOOK,
    POST_JOB,
    World,
    last_days,
    of_day,
)

pytestmark = pytest.mark.scale

SUCCESS = dg.DagsterRunStatus.SUCCESS
CONTINUES = "dagster-kumo/continues"
FILES = ("GET", "/get_prediction_df_urls$")
OLDER = "trainingjob-cdnow-purchase-old"


class Sensor:
    """The sensor of a job's assets, tick by tick. What ran before its first tick is not looked at."""

    def __init__(self, world: World, job: str, after: timedelta = timedelta(0)) -> None:
        self._world = world
        self._cursor: str | None = None
        self._kumo = KumoResource(url=world.gate.url, api_key=world.kumo.api_key, poll_interval=0.2)
        self._sensor = build_kumo_sensor(
            JOBS[job], continue_runs_after=after, lookback=timedelta(0)
        )
        self.tick()

    def tick(self) -> Sequence[dg.RunRequest]:
        """The runs that a tick requests."""
        context = dg.build_sensor_context(
            instance=self._world.instance,
            cursor=self._cursor,
            resources={"kumo": self._kumo},
            definitions=defs,
        )
        ticked = self._sensor.evaluate_tick(context)
        self._cursor = ticked.cursor
        return ticked.run_requests or []

    def request(self) -> dg.RunRequest:
        """The one run that is requested sooner or later."""
        (request,) = wait_until(self.tick)
        assert self.tick() == []
        return request


def job_of(materialization: dg.AssetMaterialization) -> str:
    return str(materialization.metadata[JOB_ID].value)


def all_done(world: World, number: int) -> None:
    wait_until(lambda: world.statuses == ["DONE"] * number)


def test_one_run_continues_a_run_whose_machine_died(world: World) -> None:
    sensor = Sensor(world, "daily")
    launching, accepted, polling, last = days = last_days(4)
    held = [
        world.gate.hold(*POST_JOB, about=of_day(launching), way="there"),
        world.gate.hold(*POST_JOB, about=of_day(accepted)),
        world.gate.hold(*LOOK, about=of_day(polling)),
        world.gate.hold(*FILES, about=of_day(last)),
    ]
    config = {"ops": {"daily__predictions": {"config": {"binary_classification_threshold": 0.25}}}}
    run = world.start("daily", partitions=days, config={**IN_PROCESS, **config})
    for one in held:
        one.wait()
    run.kill()
    world.gate.release_all()
    all_done(world, len(days))

    request = sensor.request()
    again = world.start("daily", requested=request)

    assert again.end() == SUCCESS
    assert again.tags[CONTINUES] == run.id
    launched = {job["tags"]["dagster.partition"]: job["job_id"] for job in world.jobs}
    assert len(world.jobs) == len(days)
    delivered = {m.partition: job_of(m) for m in world.materialized("daily", "predictions")}
    assert delivered == launched
    assert sensor.tick() == []


def test_the_model_is_that_of_the_job_also_if_there_is_a_newer_one(world: World) -> None:
    client = KumoClient(world.kumo.url, world.kumo.api_key)
    client.update_training_job_tags(OLDER, {"use": "tagged"})
    try:
        sensor = Sensor(world, "tagged")
        looking = world.gate.hold(*LOOK, about='"tagged/predictions"')
        run = world.start("tagged")
        looking.wait()
        run.kill()
        client.update_training_job_tags(PURCHASE, {"use": "tagged"})
        world.gate.release_all()
        all_done(world, 1)
        assert world.start("tagged", requested=sensor.request()).end() == SUCCESS
    finally:
        for training_job_id in (OLDER, PURCHASE):
            client.update_training_job_tags(training_job_id, {"use": None})
    (job,) = world.jobs
    assert job["config"]["model_training_job_id"] == OLDER
    assert [job_of(m) for m in world.materialized("tagged", "predictions")] == [job["job_id"]]


def test_a_run_that_lives_is_left_alone(world: World) -> None:
    sensor = Sensor(world, "both", timedelta(hours=1))
    files = world.gate.hold(*FILES)
    run = world.start("both")
    files.wait()
    assert sensor.tick() == []
    files.release()
    assert run.end() == SUCCESS
    assert sensor.tick() == []


def test_a_run_that_is_retried_or_re_executed_is_left_to_that(world: World) -> None:
    retried, executed = (Sensor(world, "both") for _ in range(2))
    files = world.gate.hold(*FILES)
    run = world.start("both")
    files.wait()
    run.kill()
    # What Dagster writes when its run monitoring finds the run, and retries it a little later.
    world.instance.report_run_failed(run.stored)
    world.instance.add_run_tags(run.id, {"dagster/will_retry": "true"})
    assert retried.tick() == []
    world.gate.release_all()
    again = world.start("both", again=run)
    assert again.end() == SUCCESS
    assert retried.tick() == executed.tick() == []
    assert len(world.jobs) == 1


def test_a_run_that_failed_with_an_error_is_left_to_a_person(world: World) -> None:
    sensor = Sensor(world, "both")
    refused = world.kumo.faults.answer(400, path="get_prediction_df_urls")
    run = world.start("both")
    assert run.end() == dg.DagsterRunStatus.FAILURE
    assert refused.hits
    assert sensor.tick() == []


def test_a_continued_run_that_was_to_launch_anew_launches_nothing_more(world: World) -> None:
    sensor = Sensor(world, "both")
    first = world.start("both")
    assert first.end() == SUCCESS
    looking = world.gate.hold(*LOOK, about='"both/predictions"')
    anew: Any = dg.RunConfig(ops={"both__predictions": KumoRunConfig(launch_anew=True)})
    run = world.start("both", again=first, config={**IN_PROCESS, **anew.to_config_dict()})
    looking.wait()
    run.kill()
    world.gate.release_all()
    all_done(world, 2)
    assert world.start("both", requested=sensor.request()).end() == SUCCESS
    assert len(world.jobs) == 2
    newest = world.materialized("both", "predictions")[-1]
    assert job_of(newest) == world.jobs[-1]["job_id"]
