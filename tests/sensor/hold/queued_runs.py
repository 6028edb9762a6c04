"""A code location whose runs wait in a queue, in the test's own process."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

# A run that a daemon would take from the queue is taken from it here.
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.events import DagsterEvent
from dagster._core.execution.api import execute_run
from dagster._core.remote_origin import (
    GrpcServerCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)

from dagster_kumo import HOLD_UNTIL_DONE, KumoIOManager, KumoResource, build_kumo_hold_sensor
from tests.support import SETTLING, wait_until

PROGRESS = "dagster-kumo/progress"
HOLD = "dagster-kumo/hold"


def origin_in(location: str) -> RemoteJobOrigin:
    """Where the job of a run is from."""
    server = GrpcServerCodeLocationOrigin("localhost", port=1, location_name=location)
    return RemoteJobOrigin(RemoteRepositoryOrigin(server, "__repository__"), "all")


class QueuedRuns:
    """Runs of a job that makes all given assets, and the ticks of the hold sensor."""

    def __init__(
        self,
        assets: list[Any],
        *,
        instance: dg.DagsterInstance,
        url: str,
        api_key: str,
        store: Path,
        settings: Mapping[str, Any] | None = None,
        **sensor: Any,
    ) -> None:
        self.instance = instance
        self.resource = KumoResource(
            url=url,
            api_key=api_key,
            request_max_retries=2,
            **{"poll_interval": 0.1, "launch_settling_time": SETTLING, **(settings or {})},
        )
        self._resources = {
            "kumo": self.resource,
            "kumo_io_manager": KumoIOManager(
                base_path=str(store), statistics=False, kumo=self.resource
            ),
        }
        self.sensor = build_kumo_hold_sensor(**sensor)
        defs = dg.Definitions(
            assets=assets,
            jobs=[dg.define_asset_job("all", executor_def=dg.in_process_executor)],
            sensors=[self.sensor],
            resources=self._resources,
        )
        self.repository = defs.get_repository_def()
        self._job = self.repository.get_job("all")
        self._cursor: str | None = None

    def add(
        self, partition: str | None = None, tags: Mapping[str, str] = {}, **options: Any
    ) -> str:
        """Put a run into the queue: its id."""
        of_partition = {"dagster/partition": partition} if partition else {}
        run = self.instance.create_run_for_job(
            self._job,
            status=dg.DagsterRunStatus.QUEUED,
            remote_job_origin=origin_in("here"),
            tags={**HOLD_UNTIL_DONE, **of_partition, **tags},
            **options,
        )
        return run.run_id

    def run(self, run_id: str) -> dg.DagsterRun:
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        return run

    def tick(self) -> str:
        """Evaluate the sensor: what it says."""
        context = dg.build_sensor_context(
            instance=self.instance,
            repository_def=self.repository,
            resources={"kumo": self.resource},
            cursor=self._cursor,
        )
        result = self.sensor.evaluate_tick(context)
        self._cursor = result.cursor
        return str(result.skip_message)

    def is_held(self, run_id: str) -> bool:
        return self.run(run_id).tags[HOLD] == "until_done"

    def tick_until_released(self, run_id: str) -> None:
        def released() -> bool:
            self.tick()
            return not self.is_held(run_id)

        wait_until(released, seconds=60)

    def execute(self, run_id: str) -> dg.DagsterRun:
        """Take a run from the queue and execute it: how it ended."""
        event = DagsterEvent("PIPELINE_STARTING", job_name="all")
        self.instance.report_dagster_event(event, run_id)
        execute_run(InMemoryJob(self._job), self.run(run_id), self.instance)
        return self.run(run_id)

    def lines(self, run_id: str) -> list[str]:
        """What a run has logged."""
        entries = self.instance.all_logs(run_id)
        return [entry.user_message for entry in entries if not entry.is_dagster_event]

    def failure(self, run_id: str) -> str:
        """The words of the error that ended a run's step."""
        (failed,) = self.instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
        error = failed.dagster_event and failed.dagster_event.step_failure_data.error
        while error is not None and error.cause is not None:
            error = error.cause
        return error.message if error else ""
