"""A Dagster as it is run in production, on PostgreSQL, and what its runs leave."""

import os
import re
import signal
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg

# A backfill's status is only here.
from dagster._core.execution.backfill import BULK_ACTION_TERMINAL_STATUSES, BulkActionStatus

from dagster_kumo import KumoClient
from dagster_kumo.components.trained_models import find_trained_models, models_to_json
from dagster_kumo.local import LocalKumo
from tests.support import day, wait_until
from tests.system.production.definitions import MODELS_VARIABLE, WORKSPACE
from tests.system.production.postgres import postgres
from tests.system.production.services import Services
from tests.system.runs.gate import Gate, gate_before
from tests.system.runs.webserver import Webserver

LOCATION = "tests.system.production.definitions"
END_SECONDS = 300.0


@dataclass
class Deployment:
    """What runs, and what it leaves."""

    services: Services
    gate: Gate
    home: Path
    _days_taken: Counter[str] = field(default_factory=Counter[str])

    @property
    def instance(self) -> dg.DagsterInstance:
        """Dagster's instance."""
        return self.services.instance

    @property
    def web(self) -> Webserver:
        """Dagster's web server."""
        return self.services.web

    def new_days(self, model: str, number: int = 1) -> list[str]:
        """Days of a model that no test has taken yet, one after the other, oldest first."""
        first = 2 + self._days_taken[model]
        self._days_taken[model] += number
        return [day(first + number - 1 - i) for i in range(number)]

    def launch(
        self,
        job: str,
        *partitions: str,
        tags: Mapping[str, str] = {},
        config: Mapping[str, Any] = {},
    ) -> str:
        """Launch a run of a job, for a partition or for a range of them if it has any: its id."""
        if not partitions:
            return self.web.launch(job, config, tags)
        days = {
            "dagster/asset_partition_range_start": partitions[0],
            "dagster/asset_partition_range_end": partitions[-1],
        }
        one = {"dagster/partition": partitions[0]}
        return self.web.launch(job, config, {**(days if partitions[1:] else one), **tags})

    def kill(self, run_id: str) -> None:
        """Kill the process of a run."""
        in_process = re.compile(r"in process \(pid: (\d+)\)")
        lines = (entry.message for entry in self.instance.all_logs(run_id))
        (pid,) = {found[1] for found in map(in_process.search, lines) if found}
        os.kill(int(pid), signal.SIGKILL)

    def kill_steps(self, run_id: str) -> None:
        """Kill the processes of a run's steps."""
        wanted = dg.DagsterEventType.STEP_WORKER_STARTED
        for entry in self.instance.all_logs(run_id, of_type=wanted):
            assert entry.dagster_event is not None
            pid = entry.dagster_event.engine_event_data.metadata["pid"].value
            os.kill(int(str(pid)), signal.SIGKILL)

    def attempts(self, run_id: str) -> list[dg.DagsterRun]:
        """A run and its retries, oldest first."""
        again = self.instance.get_runs(dg.RunsFilter(tags={"dagster/root_run_id": run_id}))
        first = self.instance.get_run_by_id(run_id)
        return [run for run in (first, *reversed(again)) if run is not None]

    def continuations(self, run_id: str) -> list[str]:
        """The runs that a sensor requested to continue a run."""
        runs = self.instance.get_runs(dg.RunsFilter(tags={"dagster-kumo/continues": run_id}))
        return [run.run_id for run in runs]

    def backfill(
        self, assets: Sequence[Sequence[str]], *partitions: str, tags: Mapping[str, str] = {}
    ) -> str:
        """Launch a backfill of assets: its id."""
        return self.web.backfill(assets, partitions, tags)

    def backfill_of_job(self, job: str, *partitions: str, tags: Mapping[str, str] = {}) -> str:
        """Launch a backfill of a job: its id."""
        return self.web.backfill_of_job(job, partitions, tags)

    def wait_for_backfill(
        self, backfill_id: str, *, seconds: float = END_SECONDS
    ) -> BulkActionStatus:
        """Wait until a backfill has ended: how."""

        def ended() -> BulkActionStatus | None:
            backfill = self.instance.get_backfill(backfill_id)
            over = backfill is not None and backfill.status in BULK_ACTION_TERMINAL_STATUSES
            return backfill.status if backfill is not None and over else None

        return wait_until(ended, seconds=seconds)

    def runs_of_backfill(self, backfill_id: str) -> Sequence[dg.DagsterRun]:
        """The runs of a backfill, newest first."""
        return self.instance.get_runs(dg.RunsFilter(tags={"dagster/backfill": backfill_id}))

    def wait_for_end(self, run_id: str) -> dg.DagsterRun:
        """Wait until a run has ended, and its retries: the last of them."""

        def ended() -> bool:
            last = self.attempts(run_id)[-1]
            if last.status == dg.DagsterRunStatus.FAILURE:
                # A run that has just failed has no tag yet that says whether it is retried.
                return last.tags.get("dagster/will_retry") == "false"
            return last.is_finished

        wait_until(ended, seconds=END_SECONDS)
        return self.attempts(run_id)[-1]

    def jobs(self, model: str) -> list[dict[str, Any]]:
        """The prediction jobs that were launched for a model's assets, oldest first."""
        asset = f"{model}/"
        return [
            j
            for j in self.gate.open_to.jobs
            if j["tags"].get("dagster.asset", "").startswith(asset)
        ]

    def launched(self, model: str, *partitions: str) -> dict[str, list[str]]:
        """The jobs that were launched for a model's assets, for each of some partitions."""
        found: dict[str, list[str]] = {key: [] for key in partitions}
        for job in self.jobs(model):
            if (key := job["tags"]["dagster.partition"]) in found:
                found[key].append(job["job_id"])
        return found

    def materialized(self, *path: str) -> dict[str | None, set[str]]:
        """The jobs that an asset was materialized from, by partition."""
        found: dict[str | None, set[str]] = {}
        for record in self.instance.fetch_materializations(dg.AssetKey(path), limit=1000).records:
            made = record.asset_materialization
            assert made is not None
            job_id = str(made.metadata["dagster-kumo/job_id"].value)
            found.setdefault(made.partition, set()).add(job_id)
        return found

    def noted(self, *path: str) -> dict[str | None, set[str]]:
        """The jobs that runs have noted at an asset, by partition."""
        found: dict[str | None, set[str]] = {}
        for record in self.instance.fetch_observations(dg.AssetKey(path), limit=1000).records:
            noted = record.event_log_entry.asset_observation
            assert noted is not None
            job_id = str(noted.metadata["dagster-kumo/job_id"].value)
            found.setdefault(noted.partition, set()).add(job_id)
        return found

    def lines(self, run_id: str) -> list[str]:
        """What a run and its retries have logged."""
        entries = [e for run in self.attempts(run_id) for e in self.instance.all_logs(run.run_id)]
        return [entry.user_message for entry in entries if not entry.is_dagster_event]

    def errors(self, run: dg.DagsterRun) -> list[str]:
        """The errors of a run's steps, with their causes."""
        failures = self.instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
        events = [entry.dagster_event for entry in failures]
        return [event.step_failure_data.error.to_string() for event in events if event is not None]


@contextmanager
def deployment(kumo: LocalKumo, home: Path) -> Iterator[Deployment]:
    """A deployment for a while, whose runs find a stand-in behind a gate."""
    # A refresh of the workspace, as `dg utils refresh-defs-state` makes it.
    state, client = home / "models.json", KumoClient(kumo.url, kumo.api_key)
    state.write_text(models_to_json(find_trained_models(client, WORKSPACE.models)))
    with postgres() as url, gate_before(kumo) as gate:
        environment = {
            MODELS_VARIABLE: str(state),
            "KUMO_API_ENDPOINT": gate.url,
            "KUMO_API_KEY": kumo.api_key,
            "STORE": str(home / "store"),
        }
        with Services(home, LOCATION, postgres_url=url, environment=environment) as services:
            yield Deployment(services, gate, home)
