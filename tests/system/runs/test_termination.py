"""What becomes of jobs when their run is stopped: by a user, or because its machine is wanted."""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import dagster as dg
import psutil
import pytest

from dagster_kumo import KumoRunConfig
from dagster_kumo.local import LocalKumo
from tests.support import PURCHASE, wait_until
from tests.system.runs.processes import (
    IN_PROCESS,
    JOB_ID,
    LOOK,
    MULTIPROCESS,
    POST_EXPORT,
    POST_JOB,
    POST_TABLE,
    World,
    days_of,
    last_days,
    of_day,
    world_of,
)
from tests.system.runs.webserver import LOCATION, Webserver, webserver

pytestmark = pytest.mark.scale

SUCCESS = dg.DagsterRunStatus.SUCCESS
FAILURE = dg.DagsterRunStatus.FAILURE
CANCELED = dg.DagsterRunStatus.CANCELED

POST = {"daily": POST_JOB, "daily_tables": POST_TABLE, "daily_appended": POST_EXPORT}
MADE = {
    "daily": "predictions",
    "daily_tables": "prediction_table",
    "daily_appended": "predictions_in_snowflake",
}


def statuses(world: World) -> list[str]:
    """Of all jobs that were launched, of whatever kind."""
    tables = [job.job_status_report.status for job in world.tables]
    return [*world.statuses, *tables, *(export["status"] for export in world.exports)]


@pytest.mark.parametrize(
    ("job", "moment"),
    [
        ("daily", "launching"),
        ("daily", "accepted"),
        ("daily", "polling"),
        ("daily_tables", "launching"),
        ("daily_tables", "polling"),
        ("daily_appended", "accepted"),
        ("daily_appended", "polling"),
    ],
)
@pytest.mark.parametrize("by_a_user", [True, False], ids=["user", "eviction"])
def test_a_job_ends_with_its_run_when_a_user_ends_that(
    job: str, moment: str, by_a_user: bool, slow_world: World
) -> None:
    """Also when it is not known yet that there is a job."""
    world = slow_world
    (day,) = last_days(1)
    world.note_predictions(world.kumo.jobs[0]["job_id"], day)
    hold = {
        "launching": world.gate.hold(*POST[job], way="there"),
        "accepted": world.gate.hold(*POST[job]),
        "polling": world.gate.hold(*LOOK, about=day),
    }
    for name in set(hold) - {moment}:
        hold[name].release()
    run = world.start(job, partitions=[day])
    hold[moment].wait()
    if by_a_user:
        run.terminate()
    else:
        run.signal(signal.SIGTERM)
    world.gate.release_all()

    assert run.end() == (CANCELED if by_a_user else FAILURE)
    assert statuses(world) == ["CANCELLED" if by_a_user else "RUNNING"]
    assert world.materialized(job, MADE[job]) == []
    # There is something to attach to, or the log says what became of it.
    assert world.noted(
        job, MADE[job], entry="dagster-kumo/export_job_id" if job == "daily_appended" else JOB_ID
    )
    kind = {"daily": "prediction", "daily_tables": "prediction table"}.get(job, "export")
    told = [line for line in run.lines() if line.startswith(f"Cancelled {kind} job ")]
    assert len(told) == by_a_user


@pytest.mark.parametrize("job", sorted(POST))
def test_all_jobs_are_cancelled_at_once(job: str, slow_world: World) -> None:
    """Each cancel waits for its answer; whoever ends the process grants it some seconds for all."""
    world = slow_world
    days = last_days(4)
    world.note_predictions(world.kumo.jobs[0]["job_id"], *days)
    looks = [world.gate.hold(*LOOK, about=day) for day in days]
    cancelling = world.gate.hold("POST", "/cancel$", way="there")
    run = world.start(job, partitions=days)
    for look in looks:
        look.wait()
    run.terminate()

    cancelling.wait(times=len(days))
    world.gate.release_all()
    assert run.end() == CANCELED
    assert statuses(world) == ["CANCELLED"] * len(days)


@pytest.mark.parametrize(
    "moment", [("GET", "/get_prediction_df_urls$"), ("GET", "^/files/.*00002")]
)
def test_a_job_that_is_done_is_left_for_the_next_run(moment: tuple[str, str], world: World) -> None:
    """Its output was being fetched and stored when the run was terminated."""
    held = world.gate.hold(*moment)
    run = world.start("both")
    held.wait()
    run.terminate()
    held.release()
    assert run.end() == CANCELED
    assert world.materialized("both", "predictions") == []
    assert world.stored() == []
    assert world.statuses == ["DONE"]

    again = world.start("both", again=run)
    assert again.end() == SUCCESS
    assert len(world.jobs) == 1


def test_a_second_signal_while_the_job_is_cancelled_ends_the_run_at_once(
    slow_world: World,
) -> None:
    world = slow_world
    look = world.gate.hold(*LOOK, about='"daily/predictions"', way="there")
    cancelling = world.gate.hold("POST", "/cancel$", way="there")
    run = world.start("daily", partitions=last_days(1))
    look.wait()
    run.terminate()
    cancelling.wait()
    run.signal(signal.SIGINT)

    assert run.end() == CANCELED  # the answer has not come, and never does
    assert world.materialized("daily", "predictions") == []


# In Dagster's web server

CONFIG_FIELDS = """
query ($selector: PipelineSelector!) {
  runConfigSchemaOrError(selector: $selector) { ... on RunConfigSchema {
    allConfigTypes { ... on CompositeConfigType { fields { name description isRequired } } } } }
}
"""


@dataclass
class Served:
    """A web server, and the world that its runs are in."""

    server: Webserver
    world: World

    def status(self, run_id: str) -> dg.DagsterRunStatus:
        run = self.world.instance.get_run_by_id(run_id)
        assert run is not None
        return run.status

    def wait_for_end(self, run_id: str) -> dg.DagsterRunStatus:
        wait_until(lambda: self.status(run_id) in (SUCCESS, FAILURE, CANCELED))
        return self.status(run_id)


@pytest.fixture(scope="module")
def served(endless_kumo: LocalKumo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("dagster_home")
    with (
        world_of(endless_kumo, home) as world,
        webserver(home, world.environment) as server,
    ):
        world.note_predictions(endless_kumo.jobs[0]["job_id"], None)
        yield Served(server, world)


def test_a_run_that_is_evicted_goes_on_as_another_which_a_user_terminates(served: Served) -> None:
    """Of a run over several partitions, all jobs go on, and all are cancelled."""
    world, server = served.world, served.server
    launching, accepted, polling = days = last_days(3)
    before = len(world.jobs)
    held = [
        world.gate.hold(*POST_JOB, about=of_day(launching), way="there"),
        world.gate.hold(*POST_JOB, about=of_day(accepted)),
        world.gate.hold(*LOOK, about=of_day(polling)),
    ]
    run_id = server.launch("daily", IN_PROCESS, days_of(days))
    for one in held:
        one.wait()
    (pid,) = {
        int(entry.user_message.partition("(pid: ")[2].rstrip(")."))
        for entry in world.instance.all_logs(run_id)
        if entry.user_message.startswith("Executing steps in process")
    }
    os.kill(pid, signal.SIGTERM)
    world.gate.release_all()
    assert served.wait_for_end(run_id) == FAILURE
    assert world.statuses[before:] == ["RUNNING"] * 3

    looks = [world.gate.hold(*LOOK, about=of_day(day)) for day in days]
    again = server.re_execute(run_id)
    for look in looks:
        look.wait()
    server.terminate(again)
    world.gate.release_all()
    assert served.wait_for_end(again) == CANCELED
    assert world.statuses[before:] == ["CANCELLED"] * 3
    assert world.materialized("daily", "predictions") == []


def test_terminating_a_run_on_several_processes_cancels_whatever_they_wait_for(
    served: Served,
) -> None:
    world, server = served.world, served.server
    before = len(world.jobs)
    held = world.hold_each_step()
    steps = [step for step in held if not step.startswith(("asking", "writing"))]
    run_id = server.launch("steps", MULTIPROCESS, {}, steps)
    for step in steps:
        held[step].wait()
    server.terminate(run_id)
    world.gate.release_all()

    assert served.wait_for_end(run_id) == CANCELED
    assert world.statuses[before:] == ["CANCELLED"] * 3
    assert [job.job_status_report.status for job in world.tables] == ["CANCELLED"]
    assert [export["status"] for export in world.exports] == ["CANCELLED"]
    for name in ("launching", "accepted", "polling"):
        assert world.materialized(name, "predictions") == []
    assert world.materialized("table", "prediction_table") == []
    assert world.materialized("appended", "predictions_in_snowflake") == []


def test_the_launchpad_has_the_options_of_a_run_which_takes_them(served: Served) -> None:
    world, server = served.world, served.server
    (day,) = last_days(1)
    selector = {
        "repositoryLocationName": LOCATION,
        "repositoryName": "__repository__",
        "pipelineName": "make_daily",
    }
    schema = server.ask(CONFIG_FIELDS, selector=selector)["runConfigSchemaOrError"]
    shown = {
        field["name"]: field
        for kind in schema["allConfigTypes"]
        for field in kind.get("fields", [])
    }
    for name, field in KumoRunConfig.model_fields.items():
        assert shown[name]["description"] == field.description
        assert not shown[name]["isRequired"]

    options = {"training_job_id": f"{PURCHASE}-old", "binary_classification_threshold": 0.25}
    config = {**IN_PROCESS, "ops": {"daily__predictions": {"config": options}}}
    polling = world.gate.hold(*LOOK, about=of_day(day))
    run_id = server.launch("daily", config, {"dagster/partition": day})
    polling.wait()
    server.terminate(run_id)
    world.gate.release_all()
    assert served.wait_for_end(run_id) == CANCELED
    asked = world.jobs[-1]["config"]
    assert asked["model_training_job_id"] == options["training_job_id"]
    assert asked["predict_options"]["binary_classification_threshold"] == 0.25


def test_no_process_shows_the_key(served: Served) -> None:
    """The arguments of a process are there for everybody on the machine to see."""
    world = served.world
    held = world.gate.hold(*LOOK)
    a_day_of_its_own = last_days(9)[:1]  # whose job, left running, no other test attaches to
    run = world.start("daily", config=MULTIPROCESS, partitions=a_day_of_its_own)
    held.wait()
    (step,) = run.step_processes().values()
    shown: dict[int, list[str]] = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            shown[process.pid] = process.cmdline()
    run.kill()
    world.gate.release_all()

    assert shown[step]
    assert any("webserver" in word for words in shown.values() for word in words)
    assert [words for words in shown.values() if world.kumo.api_key in " ".join(words)] == []
