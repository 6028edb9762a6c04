"""One launch, one job: whatever is killed in the middle of it, what comes after attaches."""

import os
import signal
from collections import Counter
from pathlib import Path

import dagster as dg
import duckdb
import pytest

from dagster_kumo.local import LocalKumo
from tests.support import wait_until
from tests.system.runs.definitions import MOMENTS
from tests.system.runs.processes import (
    EXPORT_ID,
    JOB_ID,
    LOOK,
    MULTIPROCESS,
    POST_EXPORT,
    POST_JOB,
    POST_TABLE,
    ROWS,
    Run,
    World,
    last_days,
    of_day,
    world_of,
)

pytestmark = pytest.mark.scale

SUCCESS = dg.DagsterRunStatus.SUCCESS
FAILURE = dg.DagsterRunStatus.FAILURE


def job_of(materialization: dg.AssetMaterialization, entry: str = JOB_ID) -> str:
    return str(materialization.metadata[entry].value)


def rows_of(world: World, table: str) -> int:
    """How many rows an export's table has."""
    (where,) = {e["written_to"] for e in world.exports if table in str(e["written_to"])}
    path, _, name = where.partition(": ")
    with duckdb.connect(path, read_only=True) as connection:
        return connection.sql(f"SELECT count(*) FROM {name}").fetchall()[0][0]


# The machine is gone, with all processes of the run. Each partition is at another moment.


@pytest.mark.parametrize(
    "last_moment", [("GET", "/get_prediction_df_urls$"), ("GET", "^/files/.*part-00002")]
)
def test_predictions_are_attached_to_whenever_the_machine_died(
    last_moment: tuple[str, str], world: World
) -> None:
    launching, accepted, polling, _, last = days = last_days(5)
    hold = world.gate.hold
    held = [
        hold(*POST_JOB, about=of_day(launching), way="there"),
        hold(*POST_JOB, about=of_day(accepted)),
        hold(*LOOK, about=of_day(polling)),
        hold(*last_moment, about=of_day(last)),
    ]
    after_stored = hold(*LOOK, about=of_day(last))
    run = world.start("daily", partitions=days)
    wait_until(lambda: any("Stored" in line for line in run.lines()))
    after_stored.release()
    for one in held:
        one.wait()
    run.kill()
    world.gate.release_all()  # what is on its way arrives
    wait_until(lambda: len(world.jobs) == len(days))
    assert world.materialized("daily", "predictions") == []

    again = world.start("daily", again=run)

    assert again.end() == SUCCESS
    launched = {job["tags"]["dagster.partition"]: job["job_id"] for job in world.jobs}
    assert sorted(launched) == days
    assert len(world.jobs) == len(days)
    delivered = {m.partition: job_of(m) for m in world.materialized("daily", "predictions")}
    assert delivered == launched
    assert world.noted("daily", "predictions") == {day: [launched[day]] for day in days}
    assert again.tags["dagster/kumo_job.daily__predictions"] in launched.values()


def test_tables_are_attached_to_whenever_the_machine_died(world: World) -> None:
    launching, accepted, polling, done = days = last_days(4)
    held = [
        world.gate.hold(*POST_TABLE, about=of_day(launching), way="there"),
        world.gate.hold(*POST_TABLE, about=of_day(accepted)),
        world.gate.hold(*LOOK, about=of_day(polling)),
    ]
    run = world.start("daily_tables", partitions=days)
    for one in held:
        one.wait()
    run.kill()
    world.gate.release_all()
    wait_until(lambda: len(world.tables) == len(days))

    again = world.start("daily_tables", again=run)

    assert again.end() == SUCCESS
    launched = {job.tags["dagster.partition"]: job.job_id for job in world.tables}
    assert sorted(launched) == [*days[:-1], done]
    assert len(world.tables) == len(world.jobs) == len(days)
    materialized = world.materialized("daily_tables", "prediction_table")
    assert {m.partition: job_of(m) for m in materialized} == launched
    for m in world.materialized("daily_tables", "predictions"):
        assert job_of(m, "dagster-kumo/prediction_table_job_id") == launched[m.partition or ""]


def test_exports_that_append_are_attached_to_or_left_to_a_person(
    world: World, done_job_id: str
) -> None:
    """One whose id is known is attached to; one that was announced alone may be there or not."""
    announced, launching, accepted, noting, polling = days = last_days(5)
    world.note_predictions(done_job_id, *days)

    def table(day: str) -> str:
        return f"daily_appended_{day}_predictions"

    # Which tag of the prediction job is whose cannot be seen on the wire: one after the other.
    held = [world.gate.hold("PATCH", "/tags$", about="announced", times=1)]
    runs = [world.start("daily_appended", partitions=[announced])]
    held[0].wait()
    held += [
        world.gate.hold(*POST_EXPORT, about=table(launching), way="there"),
        world.gate.hold(*POST_EXPORT, about=table(accepted)),
        world.gate.hold("PATCH", "/tags$", about="=export-job", way="there", times=1),
    ]
    first = world.gate.hold(*POST_EXPORT, about=table(polling), way="there")
    runs.append(world.start("daily_appended", partitions=days[1:]))
    held[-1].wait()
    held.append(world.gate.hold(*LOOK, about=table(polling)))
    first.release()
    for one in held:
        one.wait()
    for run in runs:
        run.kill()
    world.gate.release_all()
    wait_until(lambda: len(world.exports) == 4)

    again = [world.start("daily_appended", again=run) for run in runs]

    assert [run.end() for run in again] == [FAILURE, FAILURE]
    assert len(world.exports) == 4
    assert [rows_of(world, table(day)) for day in days[1:]] == [ROWS] * 4
    messages = [failure_of(run) for run in again]
    asked = {day for day in days if any(f"rows are in {table(day)}" in m for m in messages)}
    assert asked == {announced, launching, accepted}
    made = {e["output"]["table_name"]: e["id"] for e in world.exports}
    delivered = world.materialized("daily_appended", "predictions_in_snowflake")
    assert {m.partition: job_of(m, EXPORT_ID) for m in delivered} == {
        day: made[table(day)] for day in (noting, polling)
    }
    noted = world.noted("daily_appended", "predictions_in_snowflake", entry=EXPORT_ID)
    assert noted == {
        **{day: ["announced"] for day in (announced, launching, accepted)},
        **{day: [made[table(day)], "announced"] for day in (noting, polling)},
    }


def failure_of(run: Run) -> str:
    """The words of the error that ended the run's step."""
    (entry,) = run.instance.all_logs(run.id, of_type=dg.DagsterEventType.STEP_FAILURE)
    assert entry.dagster_event
    return str(entry.dagster_event.step_failure_data.error)


def test_exports_that_replace_are_attached_to_or_made_again(world: World, done_job_id: str) -> None:
    accepted, polling = days = last_days(2)
    world.note_predictions(done_job_id, *days)
    held = [
        world.gate.hold(*POST_EXPORT, about=accepted),
        world.gate.hold(*LOOK, about=polling),
    ]
    run = world.start("daily_replaced", partitions=days)
    for one in held:
        one.wait()
    run.kill()
    world.gate.release_all()

    again = world.start("daily_replaced", again=run)

    assert again.end() == SUCCESS
    tables = Counter(e["output"]["table_name"] for e in world.exports)
    assert tables == {
        f"daily_replaced_{accepted}_predictions": 2,
        f"daily_replaced_{polling}_predictions": 1,
    }


def test_an_output_that_was_not_delivered_is_taken_from_the_same_job(world: World) -> None:
    """Predictions are materialized when the machine dies, embeddings are not."""
    held = world.gate.hold("GET", "^/files/.*/embeddings/.*part-00002")
    run = world.start("both")
    held.wait()
    wait_until(lambda: len(world.materialized("both", "predictions")) == 1)
    run.kill()
    world.gate.release_all()

    again = world.start("both", again=run)

    assert again.end() == SUCCESS
    assert len(world.jobs) == 1
    (job,) = world.jobs
    delivered = [job_of(m) for m in world.materialized("both", "embeddings")]
    assert delivered == [job["job_id"]]


# A process of the run is killed


def assert_made_once(world: World) -> None:
    """What the job `steps` makes was launched once, and delivered from that."""
    launched = {job["tags"]["dagster.asset"]: job["job_id"] for job in world.jobs}
    assert sorted(launched) == [f"{name}/predictions" for name in sorted([*MOMENTS, "table"])]
    assert len(world.jobs) == len(launched)
    for name, job_id in launched.items():
        assert {job_of(m) for m in world.materialized(*name.split("/"))} == {job_id}
    (table,) = world.tables
    assert {job_of(m) for m in world.materialized("table", "prediction_table")} == {table.job_id}
    assert len(world.exports) == 1


def test_steps_that_are_killed_and_steps_that_outlive_their_run_keep_their_jobs(
    world: World, done_job_id: str
) -> None:
    """First some steps' processes are killed, then the run's own, of which the others know nothing."""
    world.note_predictions(done_job_id, None)
    held = world.hold_each_step()
    run = world.start("steps", config=MULTIPROCESS)
    for one in held.values():
        one.wait()
    processes = run.step_processes()
    assert sorted(processes) == sorted(held)

    killed = {f"{moment}__predictions" for moment in ("accepted", "asking", "writing")}
    for step in killed:
        os.kill(processes[step], signal.SIGKILL)
    wait_until(lambda: killed <= run.steps_done())  # by their retry policy
    restarted = run.instance.all_logs(run.id, of_type=dg.DagsterEventType.STEP_RESTARTED)
    assert {entry.step_key for entry in restarted} == killed

    run.signal(signal.SIGKILL)
    run.process.join(30)
    run.instance.report_run_failed(run.stored)  # as Dagster's monitoring does
    # Of those that are left over, some deliver before the re-execution starts, others after it.
    before = {"launching__predictions", "polling__predictions"}
    for step in before:
        held[step].release()
    wait_until(lambda: before <= run.steps_done())
    again = world.start("steps", again=run, from_failure=True)
    assert again.end() == SUCCESS
    assert again.steps_done() == set(held) - killed - before
    world.gate.release_all()
    wait_until(lambda: run.steps_done() == set(held))

    assert_made_once(world)


def test_of_two_that_launch_at_the_same_moment_one_job_stays(tmp_path: Path) -> None:
    data = tmp_path / "kumo"
    with LocalKumo(data, run_seconds=600) as slow, world_of(slow, tmp_path / "home") as world:
        (day,) = last_days(1)
        launches = world.gate.hold(*POST_JOB, way="there")
        left_over = world.start("daily", partitions=[day])
        launches.wait()
        run = world.start("daily", again=left_over)
        launches.wait(2)
        launches.release()
        wait_until(lambda: "CANCELLED" in world.statuses)
        slow.stop()
        with LocalKumo(data) as quick:  # goes on where the slow one stopped
            world.gate.open_to = quick
            assert [left_over.end(), run.end()] == [SUCCESS, SUCCESS]

            assert sorted(world.statuses) == ["CANCELLED", "DONE"]
            (stays,) = [j for j in world.jobs if j["job_status_report"]["status"] == "DONE"]
            delivered = world.materialized("daily", "predictions")
            assert [job_of(m) for m in delivered] == [stays["job_id"]] * 2


# Re-execution


def test_what_failed_is_attached_to_and_what_was_delivered_is_made_anew(world: World) -> None:
    world.kumo.faults.answer(404, path="/embeddings/.*part-00000", times=None)
    failed = world.start("both")
    assert failed.end() == FAILURE
    world.kumo.faults.clear()

    from_failure = world.start("both", again=failed, from_failure=True)
    assert from_failure.end() == SUCCESS
    assert len(world.jobs) == 1

    all_steps = world.start("both", again=from_failure)
    assert all_steps.end() == SUCCESS
    assert len(world.jobs) == 2
    delivered = [job_of(m) for m in world.materialized("both", "embeddings")]
    assert delivered == [job["job_id"] for job in world.jobs]
