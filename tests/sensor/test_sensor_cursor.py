"""What the sensor's cursor has to survive: jobs that end in any order, many of them, and long waits.

The server is one whose list of jobs the test writes, since no real one can be told when to end a job.
"""

import datetime as dt
import json
import random
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any
from urllib.parse import parse_qs, urlsplit

import dagster as dg
import pytest

from dagster_kumo import KumoAPIError, KumoResource, build_kumo_sensor
from tests.api.scripted_server import Answer, Request, ScriptedServer
from tests.support import DAYS, day, purchase_assets

NOW = dt.datetime.now(dt.timezone.utc)


class Jobs:
    """A server's prediction jobs, newest first, as many as are asked for."""

    def __init__(self, server: ScriptedServer) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.tables: dict[str, str] = {}
        self.most_listed = 100_000
        self.fails: Callable[[str], bool] = lambda _: False
        """Whether a call is answered with an error."""
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

    def add_others(self) -> None:
        """Jobs of another model, so many that older ones are not in the list."""
        for n in range(100):
            self.add(f"other-{n}", model="trainingjob-other", created=ago(hours=n / 100))

    def end(self, job_id: str) -> None:
        self.jobs[job_id]["job_status_report"]["status"] = "DONE"

    def _answer(self, request: Request) -> Answer:
        parts = urlsplit(request.path)
        last = parts.path.split("/")[-1]
        if self.fails(parts.path):
            return Answer(b'{"detail": "Not now."}', status=500)
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
        self.instance: dg.DagsterInstance | None = options.pop("instance", None)
        self.cursor: str | None = None
        self.recorded: list[str] = []
        self.kumo = KumoResource(url=server.url, api_key="acme:secret")
        # Without partitions one asset takes all jobs.
        assets = purchase_assets(partitions_def=options.pop("partitions_def", None))
        self.sensor = build_kumo_sensor([assets], **options)

    def tick(self, *, keep_cursor: bool = True) -> list[str]:
        """The jobs that a tick records.

        Without an instance nothing of it is kept there: what is told twice is seen to be.
        """
        self.server.requests.clear()
        with nullcontext(self.instance) if self.instance else dg.DagsterInstance.ephemeral() as i:
            context = dg.build_sensor_context(
                instance=i, cursor=self.cursor, resources={"kumo": self.kumo}
            )
            result = self.sensor.evaluate_tick(context)
            for event in result.asset_events:
                i.report_runless_asset_event(event)
        if keep_cursor:
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
    added = [jobs.add(f"job-{n:03}", created=ago(minutes=300 - n / 10)) for n in range(220)]
    per_tick = []
    while found := watch.tick():
        per_tick.append(len(found))
        assert watch.cursor is not None
        assert len(watch.cursor) < 50_000
    assert watch.recorded == added
    assert per_tick == [100, 100, 20]


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
    jobs.add_others()
    watch.tick()
    jobs.end(slow)
    del jobs.jobs[gone]
    assert watch.tick() == [slow]
    assert {r.path.split("/")[-1] for r in server.calls[1:]} == {slow, gone}
    assert json.loads(watch.cursor or "")["waiting"] == []


def test_so_many_jobs_are_waited_for_and_no_more(server: ScriptedServer, jobs: Jobs) -> None:
    watch = Watch(server)
    running = [
        jobs.add(f"job-{n:03}", created=ago(hours=9 - n / 100), status="RUNNING")
        for n in range(210)
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


def test_a_job_that_cannot_be_read_holds_up_no_other(server: ScriptedServer, jobs: Jobs) -> None:
    watch = Watch(server)
    running = [jobs.add(f"job-{n}", created=ago(hours=9), status="RUNNING") for n in range(3)]
    jobs.add_others()
    watch.tick()
    for job_id in running:
        jobs.end(job_id)
    jobs.fails = lambda path: path.endswith("job-0")
    watch.tick()
    assert "job-0 answered 500" in watch.said
    watch.tick()
    assert watch.recorded == ["job-1", "job-2"]
    jobs.fails = lambda _: False
    assert watch.tick() == ["job-0"]


@pytest.mark.parametrize("seed", range(2))
def test_whatever_happens_each_job_is_recorded_once(
    seed: int, server: ScriptedServer, jobs: Jobs
) -> None:
    chance = random.Random(seed)
    with dg.DagsterInstance.ephemeral() as instance:
        watch = Watch(server, partitions_def=DAYS, max_calls_per_tick=12, instance=instance)
        running: list[str] = []
        for hour in range(16, 0, -1):
            for n in range(chance.randrange(6)):
                late = chance.choice([0, 0, 0, 5])  # minutes after which the list has it
                running.append(
                    jobs.add(
                        f"job-{hour}-{n}",
                        created=ago(hours=hour, minutes=late),
                        status="RUNNING",
                        days_ago=chance.randrange(5, 50),
                        table=chance.random() < 0.5,
                    )
                )
            for job_id in chance.sample(running, chance.randrange(len(running) + 1)):
                running.remove(job_id)
                jobs.end(job_id)
            broken = chance.choice(["", "", "", "/prediction_jobs", "get_anchor_time", "job-"])
            jobs.fails = lambda path, broken=broken: bool(broken) and broken in path
            with suppress(KumoAPIError):  # a tick that fails keeps its cursor
                watch.tick(keep_cursor=chance.random() < 0.8)
        jobs.fails = lambda _: False
        for job_id in running:
            jobs.end(job_id)
        quiet = 0
        while quiet < 3:
            quiet = 0 if watch.tick() else quiet + 1
    assert sorted(watch.recorded) == sorted(jobs.jobs)
    assert len(jobs.jobs) > 20


def test_the_list_is_asked_for_as_far_back_as_the_cursor(
    server: ScriptedServer, jobs: Jobs
) -> None:
    watch = Watch(server)
    jobs.add("before", created=ago(days=2))
    ours = jobs.add("ours", created=ago(hours=9))
    for n in range(401):
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
    assert "Kumo lists only 100 jobs" in capfd.readouterr().err


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
