"""Runs in processes of their own, which can be killed."""

import multiprocessing
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import dagster as dg

from dagster_kumo import KumoClient
from dagster_kumo.api.records import PredictionTableJobResource, TrainingJobResource
from dagster_kumo.local import LocalKumo
from tests.support import day, instance_in, wait_until
from tests.system.runs.definitions import EXPORTED
from tests.system.runs.gate import Gate, Hold, gate_before

# Processes begin with all of this loaded: loading it takes longer than such a run.
_LOADED = [
    "tests.system.runs.definitions",
    "dagster._core.execution.plan.active",
    "dagster._core.executor.in_process",
    "dagster._core.storage.sqlite_storage",
    "dagster_kumo.io_manager.distribution",
    "dagster_kumo.predictions.remote.download",
    "dagster_kumo.predictions.store.store",
    "dagster_kumo.predictions.store.transfer",
    "pandas",
    "pyarrow.compute",
    "pyarrow.parquet",
    "upath",
]
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(_LOADED)
IN_PROCESS = {"execution": {"config": {"in_process": {}}}}
MULTIPROCESS = {
    "execution": {
        "config": {
            "multiprocess": {
                "max_concurrent": 10,
                "start_method": {"forkserver": {"preload_modules": _LOADED}},
            }
        }
    }
}
ROWS = 23_570
JOB_ID = "dagster-kumo/job_id"
EXPORT_ID = "dagster-kumo/export_job_id"
# Calls, for `Gate.hold`.
POST_JOB = ("POST", "/prediction_jobs$")
POST_TABLE = ("POST", "/genpredtable_jobs$")
POST_EXPORT = ("POST", "/artifact$")
POST_TRAINING = ("POST", "/training_jobs$")
POST_SNAPSHOT = ("POST", "/graphsnapshots$")
LOOK = ("GET", "/(prediction_jobs|genpredtable_jobs|training_jobs|artifact)/[^/]+$")


def of_day(partition: str) -> str:
    """What the request for a partition's job says."""
    return f'"dagster.partition": "{partition}"'


def days_of(partitions: Sequence[str]) -> dict[str, str]:
    """The tags of a run over partitions."""
    return {
        "dagster/asset_partition_range_start": partitions[0],
        "dagster/asset_partition_range_end": partitions[-1],
    }


@dataclass
class Run:
    """A run in a process, or in several."""

    id: str
    process: BaseProcess
    instance: dg.DagsterInstance

    @property
    def stored(self) -> dg.DagsterRun:
        """The run as the instance knows it."""
        run = self.instance.get_run_by_id(self.id)
        assert run is not None
        return run

    @property
    def tags(self) -> Mapping[str, str]:
        return self.stored.tags

    def signal(self, number: int) -> None:
        """Send a signal to the process that works on the run, and to none that it started."""
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def terminate(self) -> None:
        """What Dagster does when a user terminates a run."""
        self.instance.report_run_canceling(self.stored)
        self.signal(signal.SIGINT)

    def kill(self) -> None:
        """The machine is gone, with all processes of the run."""
        assert self.process.pid is not None
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.join(30)

    def end(self) -> dg.DagsterRunStatus:
        """Wait until the process has ended: the run's status then."""
        self.process.join(60)
        assert self.process.exitcode is not None
        return self.stored.status

    def lines(self) -> list[str]:
        """What the project has logged."""
        return [e.user_message for e in self.instance.all_logs(self.id) if not e.is_dagster_event]

    def steps_done(self) -> set[str]:
        """The steps that have come to their good end."""
        ends = self.instance.all_logs(self.id, of_type=dg.DagsterEventType.STEP_SUCCESS)
        return {str(entry.step_key) for entry in ends}

    def step_processes(self) -> dict[str, int]:
        """The process of each step, where each has its own."""
        started = self.instance.all_logs(self.id, of_type=dg.DagsterEventType.STEP_WORKER_STARTED)
        found: dict[str, int] = {}
        for entry in started:
            assert entry.step_key
            assert entry.dagster_event
            found[entry.step_key] = int(
                str(entry.dagster_event.event_specific_data.metadata["pid"].value)
            )
        return found


@dataclass
class World:
    """A stand-in behind a gate, an instance, and a store: what runs find and leave."""

    kumo: LocalKumo
    gate: Gate
    instance: dg.DagsterInstance
    home: Path
    runs: list[Run] = field(default_factory=list[Run])

    def __post_init__(self) -> None:
        self._before = len(self.kumo.jobs), len(self.kumo.exports), len(_tables(self.kumo))

    @property
    def environment(self) -> dict[str, str]:
        """What `tests.system.runs.definitions` is told."""
        return {
            "KUMO_API_ENDPOINT": self.gate.url,
            "KUMO_API_KEY": self.kumo.api_key,
            "STORE": str(self.home / "store"),
        }

    @property
    def jobs(self) -> list[dict[str, Any]]:
        """The prediction jobs that were launched here."""
        return self.gate.open_to.jobs[self._before[0] :]

    @property
    def tables(self) -> list[PredictionTableJobResource]:
        """The prediction table jobs that were launched here."""
        return _tables(self.gate.open_to)[self._before[2] :]

    @property
    def trainings(self) -> list[TrainingJobResource]:
        """The training jobs that were launched here."""
        kumo = self.gate.open_to
        jobs = KumoClient(kumo.url, kumo.api_key).list_training_jobs(limit=1000)
        runs = {run.id for run in self.runs}
        return [job for job in jobs if job.tags.get("dagster.run_id") in runs]

    @property
    def exports(self) -> list[dict[str, Any]]:
        """The exports that were launched here."""
        return self.gate.open_to.exports[self._before[1] :]

    @property
    def statuses(self) -> list[str]:
        """Of the prediction jobs."""
        return [job["job_status_report"]["status"] for job in self.jobs]

    def note_predictions(self, job_id: str, *partitions: str | None) -> None:
        """What a run of the predictions that are exported leaves in the event log."""
        for partition in partitions:
            materialization = dg.AssetMaterialization(
                EXPORTED, partition=partition, metadata={JOB_ID: job_id}
            )
            self.instance.report_runless_asset_event(materialization)

    def hold_each_step(self) -> dict[str, Hold]:
        """Hold the steps of the job `steps`, each at the moment that it is named after."""
        hold = self.gate.hold
        asking, writing = ("GET", "/get_prediction_df_urls$"), ("GET", "^/files/.*part-00002")
        return {
            "launching__predictions": hold(
                *POST_JOB, about='"launching/predictions"', way="there", times=1
            ),
            "accepted__predictions": hold(*POST_JOB, about='"accepted/predictions"', times=1),
            "polling__predictions": hold(*LOOK, about='"polling/predictions"', times=1),
            "asking__predictions": hold(*asking, about='"asking/predictions"', times=1),
            "writing__predictions": hold(*writing, about='"writing/predictions"', times=1),
            "table__predictions": hold(*POST_TABLE, times=1),
            "appended__predictions_in_snowflake": hold(
                *LOOK, about='"appended_predictions"', times=1
            ),
        }

    def start(
        self,
        job: str,
        *,
        partitions: Sequence[str] = (),
        config: Mapping[str, Any] = IN_PROCESS,
        again: Run | None = None,
        from_failure: bool = False,
        requested: dg.RunRequest | None = None,
    ) -> Run:
        """Start a run, with `again` a re-execution of one, or the run that a sensor has requested."""
        known = {run.run_id for run in self.instance.get_runs()}
        tags = days_of(partitions) if partitions else {}
        selection = None
        if requested is not None:
            tags, selection = dict(requested.tags), requested.asset_selection
            config = {**config, **requested.run_config}
        options = None
        if again is not None:
            tags = {k: v for k, v in again.tags.items() if "partition" in k}
            options = dg.ReexecutionOptions(again.id)
            if from_failure:
                options = dg.ReexecutionOptions.from_failure(again.id, self.instance)
        process = _PROCESSES.Process(
            target=_execute,
            args=(self.environment, self.home, job, tags, dict(config), options, selection),
        )
        process.start()

        def new() -> list[str]:
            return [r.run_id for r in self.instance.get_runs() if r.run_id not in known]

        wait_until(lambda: bool(new()) or process.exitcode is not None)
        (run_id,) = new()
        run = Run(run_id, process, self.instance)
        self.runs.append(run)
        return run

    def materialized(self, *path: str) -> list[dg.AssetMaterialization]:
        """The materializations of an asset, oldest first."""
        records = self.instance.fetch_materializations(dg.AssetKey(path), limit=100).records
        found = [record.asset_materialization for record in reversed(records)]
        return [materialization for materialization in found if materialization is not None]

    def noted(self, *path: str, entry: str = JOB_ID) -> dict[str | None, list[str]]:
        """What runs have noted at an asset about their jobs, newest first, by partition."""
        records = self.instance.fetch_observations(dg.AssetKey(path), limit=100).records
        noted: dict[str | None, list[str]] = {}
        for record in records:
            observation = record.event_log_entry.asset_observation
            assert observation is not None
            noted.setdefault(observation.partition, []).append(
                str(observation.metadata[entry].value)
            )
        return noted

    def stored(self) -> list[str]:
        """The Parquet files in the store."""
        return sorted(str(path) for path in (self.home / "store").rglob("*.parquet"))


@contextmanager
def world_of(kumo: LocalKumo, home: Path) -> Iterator[World]:
    """A world for a while; whatever still runs in the end is killed."""
    with gate_before(kumo) as gate, instance_in(home) as instance:
        world = World(kumo, gate, instance, home)
        try:
            yield world
        finally:
            for run in world.runs:
                run.kill()


def _tables(kumo: LocalKumo) -> list[PredictionTableJobResource]:
    """The prediction table jobs of a stand-in that were asked for, in the order of their launch."""
    made = KumoClient(kumo.url, kumo.api_key).list_prediction_table_jobs(limit=1000)[::-1]
    return [job for job in made if "parent_job_id" not in job.tags]


def last_days(count: int) -> list[str]:
    """So many partitions, oldest first."""
    return [day(number) for number in range(count + 2, 2, -1)]


def _execute(
    environment: Mapping[str, str],
    home: Path,
    job: str,
    tags: Mapping[str, str],
    config: Mapping[str, Any],
    options: dg.ReexecutionOptions | None,
    selection: Sequence[dg.AssetKey] | None,
) -> None:
    os.setsid()  # what it starts can be killed with it
    os.environ.update(environment)
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))  # as Dagster's run workers do
    reconstructable = dg.build_reconstructable_job("tests.system.runs.definitions", "job", (job,))
    with instance_in(home) as instance:
        dg.execute_job(
            reconstructable,
            instance,
            run_config=config,
            tags=tags,
            reexecution_options=options,
            asset_selection=selection,
        )
