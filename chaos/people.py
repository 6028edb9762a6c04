"""What people do while everything breaks: launch days and backfills, stop some, carry on others.

No day of an asset is asked for twice: whatever becomes of it, it is one launch, and one job is paid.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, TypeVar

import dagster as dg
import requests

# A backfill is found by its tags only with this.
from dagster._core.execution.backfill import BulkActionsFilter
from example_project.partitions import daily

from chaos.definitions import APPENDED, BACKFILLED, DAILY_ASSETS, EXECUTORS, QUIET, defs
from chaos.runs import Runs, materialized
from chaos.server import Server
from dagster_kumo import HOLD_UNTIL_DONE
from dagster_kumo.execution.metadata import EXPORT_JOB_ID_METADATA, JOB_ID_METADATA
from tests.system.production.services import Services

# So many runs and backfills go on at a time, or wait.
BUSY = 6
BACKFILLED_DAYS = 3
# Of the runs and backfills that are launched.
TIME_LIMITED, LIMIT_SECONDS = 0.4, (15, 40)
HELD = 0.4  # wait for Kumo in the queue
LAUNCH_TAG = "chaos/launch"
AT_WORK = 0.7  # of what is stopped: has begun, if anything has
PAUSE_SECONDS = (8.0, 20.0)  # between two deeds
WEB_SECONDS = 5.0  # until what the web server was asked for shows, though it answered with an error

T = TypeVar("T")

Deed = Literal[
    "terminated a run",
    "cancelled a backfill",
    "re-executed a backfill from failure",
    "killed the daemon",
]
DEEDS: tuple[Deed, ...] = (
    "terminated a run",
    "cancelled a backfill",
    "re-executed a backfill from failure",
    "re-executed a backfill from failure",
    "killed the daemon",
)


@dataclass
class Launched:
    """A run for a day, or a backfill of some, with all that carries it on.

    Args:
        name: "day", or whose backfill it is.
        days: the partitions.
        id: of the first run, or of the newest backfill.
        stopped: whether somebody has terminated or cancelled it, and nobody has carried it on since.
        ever_stopped: whether somebody has at all.
    """

    name: str
    days: Sequence[str]
    id: str
    stopped: bool = False
    ever_stopped: bool = False

    @property
    def assets(self) -> Sequence[dg.AssetKey]:
        """What is to be made for each day."""
        if self.name == "day":
            return DAILY_ASSETS
        return [dg.AssetKey([self.name, output]) for output in ("predictions", "embeddings")]

    def stop(self) -> None:
        """Note that somebody has stopped it."""
        self.stopped = self.ever_stopped = True


class People:
    """Who launches, stops and carries on.

    Args:
        services: Dagster's.
        server: the stand-in's data folder.
        seed: decides what they do.
    """

    def __init__(self, services: Services, server: Server, seed: int) -> None:
        self._services = services
        self._web = services.web
        self._instance = services.instance
        self._server = server
        self._random = random.Random(seed)
        self._days = {name: _newest_first() for name in ("day", *BACKFILLED)}
        self._next_deed = time.monotonic() + PAUSE_SECONDS[1]
        self._next_names: list[str] = []
        self.runs = Runs(services.instance)
        self.launched: list[Launched] = []
        self.did: Counter[str] = Counter()

    # In the storm ###########################################################################

    def act(self) -> None:
        """Launch more when there is little to do, and do something else now and then."""
        runs = [run for run in self.runs.unfinished() if "dagster/backfill" not in run.tags]
        if len(runs) + len(self.runs.backfills()) < BUSY:
            self._launch()
        if time.monotonic() > self._next_deed:
            self._next_deed = time.monotonic() + self._random.uniform(*PAUSE_SECONDS)
            self._do(self._random.choice(DEEDS))

    def _launch(self) -> None:
        tags: dict[str, str] = {}
        if self._random.random() < TIME_LIMITED:
            tags["dagster/max_runtime"] = str(self._random.randint(*LIMIT_SECONDS))
            self.did["launched with a time limit"] += 1
        if self._random.random() < HELD:
            tags |= HOLD_UNTIL_DONE
            self.did["launched to be held in the queue"] += 1
        if not self._next_names:  # some of each kind, whatever the seed
            self._next_names = ["day", "day", *BACKFILLED]
            self._random.shuffle(self._next_names)
        name = self._next_names.pop()
        if name == "day":
            (day,) = self._take(name, 1)
            job = self._random.choice([f"day_{executor}" for executor in EXECUTORS])
            tags |= {"dagster/partition": day, LAUNCH_TAG: f"{name} {day}"}
            launched = Launched(name, [day], "")
            id = self._launched(lambda: self._web.launch(job, QUIET, tags), tags)
        else:
            days = self._take(name, BACKFILLED_DAYS)
            tags[LAUNCH_TAG] = f"{name} {days[0]}"
            launched = Launched(name, days, "")
            paths = [key.path for key in launched.assets]
            id = self._launched(lambda: self._web.backfill(paths, days, tags), tags)
        if id is None:
            return
        launched.id = id
        self.launched.append(launched)
        self.did[f"launched a {'run for a day' if name == 'day' else f'backfill, {name}'}"] += 1

    def _launched(self, launch: Callable[[], str], tags: Mapping[str, str]) -> str | None:
        """The id of what is launched. Dagster's web server may have launched it though it answers with an error."""
        try:
            return launch()
        except requests.RequestException:
            self.did["saw Dagster's web server fail"] += 1
        time.sleep(WEB_SECONDS)
        wanted = {LAUNCH_TAG: tags[LAUNCH_TAG]}
        for backfill in self._instance.get_backfills(BulkActionsFilter(tags=wanted)):
            return backfill.backfill_id
        for run in self._instance.get_runs(dg.RunsFilter(tags=wanted)):
            return run.tags.get("dagster/root_run_id", run.run_id)
        return None

    def _take(self, name: str, count: int) -> list[str]:
        return sorted(next(self._days[name]) for _ in range(count))

    def _do(self, deed: Deed) -> None:
        if deed == "killed the daemon":
            self._services.kill("daemon")
            self._services.start("daemon")
        elif deed == "terminated a run":
            going_on = {run.run_id for run in self.runs.unfinished()}
            found = [
                (launched, run)
                for launched in self.launched
                if launched.name == "day"
                for run in self.runs.attempts(launched.id)
                if run.run_id in going_on and not run.is_finished
            ]
            if not found:
                return
            launched, run = self._one_at_work(found, lambda pair: _is_at_work(pair[1]))
            launched.stop()
            self.did["terminated a run that had begun"] += _is_at_work(run)
            with suppress(AssertionError, requests.RequestException):  # it has just ended by itself
                self._web.terminate(run.run_id)
        else:
            going_on = {backfill.backfill_id for backfill in self.runs.backfills()}
            cancels = deed == "cancelled a backfill"
            found = [
                launched
                for launched in self.launched
                if launched.name != "day"
                and (launched.id in going_on) == cancels
                and (cancels or self._missing(launched))
            ]
            if not found:
                return
            if cancels:
                launched = self._one_at_work(found, lambda one: self._is_backfill_at_work(one.id))
                launched.stop()
                with suppress(requests.RequestException):
                    self._web.cancel_backfill(launched.id)
            else:
                self._carry_on(self._random.choice(found))
        self.did[deed] += 1

    def _one_at_work(self, found: Sequence[T], is_at_work: Callable[[T], bool]) -> T:
        """One of what goes on, more likely one that has left the queue."""
        at_work = [one for one in found if is_at_work(one)]
        return self._random.choice(
            at_work if at_work and self._random.random() < AT_WORK else found
        )

    def _is_backfill_at_work(self, backfill_id: str) -> bool:
        """Whether runs of a backfill are at work."""
        runs = self._instance.get_runs(dg.RunsFilter(tags={"dagster/backfill": backfill_id}))
        return any(map(_is_at_work, runs))

    # Afterwards #############################################################################

    def look_after_all(self) -> bool:
        """Carry on what has failed and nobody has stopped; whether there was anything to do."""
        stuck = self.runs.backfills()  # all that is left; to be re-executed when they have ended
        for backfill in stuck:
            with suppress(requests.RequestException):  # the next look sees it again
                self._web.cancel_backfill(backfill.backfill_id)
            self.did["cancelled a backfill whose retry did not come"] += 1
        if stuck:
            return True
        did = False
        for launched in self.launched:
            missing = self._missing(launched)
            if launched.stopped or not missing:
                continue
            did = True
            if APPENDED in missing:
                self._settle_appended(launched.days[0])
            if missing != {APPENDED}:
                self._carry_on(launched)
                self.did["re-executed from failure when it was over"] += 1
        return did

    def _carry_on(self, launched: Launched) -> None:
        launched.stopped = False
        try:
            if launched.name != "day":
                launched.id = self._web.re_execute_backfill(launched.id)
            else:
                self._web.re_execute(self.runs.attempts(launched.id)[-1].run_id)
        except requests.RequestException:  # the next look shows whether it goes on
            self.did["saw Dagster's web server fail"] += 1

    def _missing(self, launched: Launched) -> set[dg.AssetKey]:
        return {
            key
            for key in launched.assets
            for day in launched.days
            if not materialized(self._instance, key, day)
        }

    def _settle_appended(self, day: str) -> None:
        """Look whether the rows are in the table, before anything is appended again."""
        found = materialized(self._instance, dg.AssetKey(["purchase", "predictions"]), day)
        if not found:
            return
        job_id = str(found[0].metadata[JOB_ID_METADATA].value)
        exports = [e for e in self._server.exports(job_id, "APPEND") if e["status"] == "DONE"]
        if exports:
            self.did["saw that the appended rows were there"] += 1
            self._instance.report_runless_asset_event(
                dg.AssetMaterialization(
                    APPENDED,
                    partition=day,
                    metadata={
                        JOB_ID_METADATA: job_id,
                        EXPORT_JOB_ID_METADATA: exports[0]["id"],
                    },
                )
            )
            return
        self.did["saw that no appended rows were there, exported"] += 1
        job = defs.resolve_implicit_global_asset_job_def()
        job.execute_in_process(
            instance=self._instance,
            run_config=QUIET,
            asset_selection=[APPENDED],
            partition_key=day,
            raise_on_error=False,
        )


def _is_at_work(run: dg.DagsterRun) -> bool:
    return run.status == dg.DagsterRunStatus.STARTED


def _newest_first() -> Iterator[str]:
    return iter(reversed(daily.get_partition_keys()))
