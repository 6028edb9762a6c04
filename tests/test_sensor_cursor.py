"""What the sensor's cursor has to survive: jobs that end in any order, many of them, and long waits.

The server is one whose list of jobs the test writes, since no real one can be told when to end a job.
"""

import datetime as dt
import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import dagster as dg
import pytest

from dagster_kumo import KumoResource, build_kumo_sensor
from tests.api.scripted_server import Answer, Request, ScriptedServer
from tests.support import DAYS, day, purchase_assets

NOW = dt.datetime.now(dt.timezone.utc)


class Jobs:
    """A server's prediction jobs, newest first, as many as are asked for."""

    def __init__(self, server: ScriptedServer) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.tables: dict[str, str] = {}
        self.most_listed = 100_000
        server.answer_by(self._answer)

    def add(
        self,
        job_id: str,
        *,
        created: dt.datetime = NOW,
        status: str = "DONE",
        days_ago: int = 5,
        table: bool = False,
        model: str = "trainingjob-cdnow-purchase",
    ) -> str:
        """A job that predicted for the end of a day; with `table`, that must be asked for."""
        time = f"{day(days_ago - 1)}T00:00:00"
        config: dict[str, Any] = {"model_training_job_id": model}
        config |= {"pred_table_job_id": f"table-{job_id}"} if table else {"prediction_time": time}
        self.tables[f"table-{job_id}"] = time
        self.jobs[job_id] = {
            "job_id": job_id,
            "job_status_report": {"status": status},
            "created_at": created.isoformat(),
            "config": config,
        }
        return job_id

    def end(self, job_id: str) -> None:
        self.jobs[job_id]["job_status_report"]["status"] = "DONE"

    def _answer(self, request: Request) -> Answer:
        parts = urlsplit(request.path)
        last = parts.path.split("/")[-1]
        if last == "config":
            value: Any = {}
        elif last == "prediction_jobs":
            newest = sorted(self.jobs.values(), key=lambda job: job["created_at"], reverse=True)
            limit = int(parse_qs(parts.query)["limit"][0])
            value = newest[: min(limit, self.most_listed)]
        elif last == "get_anchor_time":
            value = self.tables[parts.path.split("/")[-2]]
        elif last in self.jobs:
            value = self.jobs[last]
        else:
            return Answer(b'{"detail": "There is no such job."}', status=404)
        return Answer(json.dumps(value).encode())


class Watch:
    """The sensor, tick by tick."""

    def __init__(self, server: ScriptedServer, **options: Any) -> None:
        self.server = server
        self.cursor: str | None = None
        self.recorded: list[str] = []
        self.kumo = KumoResource(url=server.url, api_key="acme:secret")
        # Without partitions one asset takes all jobs.
        assets = purchase_assets(partitions_def=options.pop("partitions_def", None))
        self.sensor = build_kumo_sensor([assets], **options)

    def tick(self) -> list[str]:
        """The jobs that a tick records."""
        self.server.requests.clear()
        # Nothing is kept in the instance: what is told twice is seen to be.
        with dg.DagsterInstance.ephemeral() as instance:
            context = dg.build_sensor_context(
                instance=instance, cursor=self.cursor, resources={"kumo": self.kumo}
            )
            result = self.sensor.evaluate_tick(context)
        self.cursor = result.cursor
        self.said = result.skip_message
        found = [event.metadata["dagster-kumo/job_id"].value for event in result.asset_events]
        self.recorded += found
        return found


@pytest.fixture
def jobs(server: ScriptedServer) -> Jobs:
    return Jobs(server)


def ago(**time: float) -> dt.datetime:
    return NOW - dt.timedelta(**time)


def test_jobs_that_end_in_another_order_are_each_found_once(
    server: ScriptedServer, jobs: Jobs
) -> None:
    watch = Watch(server)
    slow = jobs.add("slow", created=ago(hours=9), status="RUNNING")
    slower = jobs.add("slower", created=ago(hours=8), status="QUEUED")
    quick = jobs.add("quick", created=ago(hours=1))
    assert watch.tick() == [quick]
    assert watch.tick() == []
    jobs.end(slower)
    later = jobs.add("later", created=NOW)
    assert watch.tick() == [later, slower]
    jobs.end(slow)
    assert watch.tick() == [slow]
    assert watch.tick() == []


def test_a_job_that_comes_late_into_the_list_is_found(server: ScriptedServer, jobs: Jobs) -> None:
    watch = Watch(server)
    first = jobs.add("first", created=ago(hours=1))
    assert watch.tick() == [first]
    same = jobs.add("a-same", created=ago(hours=1))
    earlier = jobs.add("earlier", created=ago(hours=1, minutes=2))
    assert sorted(watch.tick()) == [same, earlier]
    assert watch.tick() == []


def test_the_first_tick_looks_back_as_far_as_it_is_told(server: ScriptedServer, jobs: Jobs) -> None:
    jobs.add("old", created=ago(days=3))
    recent = jobs.add("recent", created=ago(days=1))
    assert Watch(server, lookback=dt.timedelta(days=2)).tick() == [recent]


def test_many_jobs_are_worked_through_over_several_ticks(
    server: ScriptedServer, jobs: Jobs
) -> None:
    watch = Watch(server)
    added = [jobs.add(f"job-{n:03}", created=ago(minutes=300 - n / 10)) for n in range(330)]
    per_tick = []
    while found := watch.tick():
        per_tick.append(len(found))
        assert watch.cursor is not None
        assert len(watch.cursor) < 50_000
    assert watch.recorded == added
    assert per_tick == [100, 100, 100, 30]


def test_a_tick_makes_no_more_calls_than_it_may(server: ScriptedServer, jobs: Jobs) -> None:
    watch = Watch(server, partitions_def=DAYS, max_calls_per_tick=10)
    added = [
        jobs.add(f"job-{n:02}", created=ago(minutes=60 - n), days_ago=5 + n, table=True)
        for n in range(20)
    ]
    ticks = 0
    while len(watch.recorded) < len(added):
        watch.tick()
        assert len(server.requests) <= 10
        assert watch.recorded
        ticks += 1
    assert watch.recorded == added
    assert ticks == 3  # two calls of each go to the feature flags and the list
    assert "The next tick goes on." not in watch.said


def test_jobs_too_old_for_the_list_are_asked_for_one_by_one(
    server: ScriptedServer, jobs: Jobs
) -> None:
    watch = Watch(server)
    slow = jobs.add("slow", created=ago(hours=9), status="RUNNING")
    gone = jobs.add("gone", created=ago(hours=9), status="RUNNING")
    watch.tick()
    for n in range(100):
        jobs.add(f"other-{n}", model="trainingjob-other", created=NOW)
    jobs.end(slow)
    del jobs.jobs[gone]
    assert watch.tick() == [slow]
    assert json.loads(watch.cursor or "")["waiting"] == []


def test_so_many_jobs_are_waited_for_and_no_more(server: ScriptedServer, jobs: Jobs) -> None:
    watch = Watch(server)
    running = [
        jobs.add(f"job-{n:03}", created=ago(hours=9 - n / 100), status="RUNNING")
        for n in range(250)
    ]
    done = jobs.add("done", created=ago(hours=1))
    assert watch.tick() == []  # first those that are waited for must become fewer
    assert json.loads(watch.cursor or "")["waiting"] == running[:200]
    for job_id in running:
        jobs.end(job_id)
    while watch.tick():
        pass
    assert sorted(watch.recorded) == sorted([*running, done])


def test_a_job_that_never_ends_is_given_up(
    server: ScriptedServer, jobs: Jobs, capfd: pytest.CaptureFixture[str]
) -> None:
    watch = Watch(server, lookback=dt.timedelta(days=60))
    jobs.add("stuck", created=ago(days=31), status="LOST")
    slow = jobs.add("slow", created=ago(days=29), status="RUNNING")
    assert watch.tick() == []
    assert "stuck has not ended in 30 days" in capfd.readouterr().err
    assert json.loads(watch.cursor or "")["waiting"] == [slow]
    assert watch.tick() == []
    assert "stuck" not in capfd.readouterr().err


def test_the_list_is_asked_for_as_far_back_as_the_cursor(
    server: ScriptedServer, jobs: Jobs
) -> None:
    watch = Watch(server)
    jobs.add("before", created=ago(days=2))
    ours = jobs.add("ours", created=ago(hours=9))
    for n in range(450):
        jobs.add(f"other-{n}", model="trainingjob-other", created=ago(hours=8))
    assert watch.tick() == [ours]
    limits = [parse_qs(urlsplit(r.path).query)["limit"] for r in server.calls]
    assert limits == [["100"], ["400"], ["1600"]]


def test_a_list_that_ends_too_soon_is_told_of(
    server: ScriptedServer, jobs: Jobs, capfd: pytest.CaptureFixture[str]
) -> None:
    watch = Watch(server)
    jobs.most_listed = 100
    added = [jobs.add(f"job-{n:03}", created=ago(hours=3 - n / 100)) for n in range(150)]
    assert watch.tick() == added[50:]
    assert "Kumo lists 100 jobs" in capfd.readouterr().err


def test_a_cursor_of_something_else_begins_anew(
    server: ScriptedServer, jobs: Jobs, capfd: pytest.CaptureFixture[str]
) -> None:
    watch = Watch(server)
    job_id = jobs.add("job")
    watch.cursor = '{"page": 7}'
    assert watch.tick() == [job_id]
    assert "The cursor cannot be read" in capfd.readouterr().err


def test_partitions_of_two_dimensions_do_not_follow_from_a_time(
    server: ScriptedServer, jobs: Jobs, capfd: pytest.CaptureFixture[str]
) -> None:
    jobs.add("job")
    regions = dg.MultiPartitionsDefinition(
        {"day": DAYS, "region": dg.StaticPartitionsDefinition(["eu", "us"])}
    )
    watch = Watch(server, partitions_def=regions)
    assert watch.tick() == []
    assert "does not follow from a time alone" in capfd.readouterr().err
