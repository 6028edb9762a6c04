"""What runs of `tests.system.scale.definitions` find and leave."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from dagster_kumo.local import LocalKumo
from tests.support import day

# Processes begin with this loaded: loading it takes longer than such a step.
_LOADED = [
    "tests.system.scale.definitions",
    "dagster._core.storage.sqlite_storage",
    "dagster_kumo.predictions.store.transfer",
    "pyarrow.parquet",
]
IN_PROCESS: dict[str, Any] = {"execution": {"config": {"in_process": {}}}}
MULTIPROCESS: dict[str, Any] = {
    "execution": {
        "config": {
            "multiprocess": {
                "max_concurrent": 4,
                "start_method": {"forkserver": {"preload_modules": _LOADED}},
            }
        }
    }
}


class World:
    """A stand-in, an instance on a disk, and a store."""

    def __init__(
        self,
        kumo: LocalKumo,
        instance: dg.DagsterInstance,
        base_path: Path,
    ) -> None:
        self.kumo = kumo
        self.instance = instance
        self.base_path = base_path
        self._jobs_before = len(kumo.jobs)
        self.url = kumo.url

    def execute(
        self,
        job: Callable[[], dg.JobDefinition],
        *,
        config: dict[str, Any] = IN_PROCESS,
        again: dg.JobExecutionResult | None = None,
        all_steps: bool = False,
        partition: str | None = day(30),
    ) -> dg.JobExecutionResult:
        """Run a job for one day, or what failed of a run `again`."""
        if again is None:
            options = None
        elif all_steps:
            options = dg.ReexecutionOptions(again.run_id)
        else:
            options = dg.ReexecutionOptions.from_failure(again.run_id, self.instance)
        resources = {
            "kumo": {
                "config": {
                    "url": self.url,
                    "api_key": self.kumo.api_key,
                    "poll_interval": 0.2,
                    "request_max_retries": 1,
                }
            },
            "kumo_io_manager": {"config": {"base_path": str(self.base_path), "grace_period": 0}},
        }
        return dg.execute_job(
            dg.reconstructable(job),
            instance=self.instance,
            run_config={**config, "resources": resources},
            tags={"dagster/partition": partition} if partition else None,
            reexecution_options=options,
        )

    @property
    def launched(self) -> list[dict[str, Any]]:
        """The Kumo jobs of these runs."""
        return self.kumo.jobs[self._jobs_before :]

    def manifests(self) -> Sequence[Path]:
        """What is in force."""
        return sorted(self.base_path.rglob("manifest.json"))

    def materialized(self, run: dg.JobExecutionResult) -> list[dg.AssetKey]:
        """What a run has materialized."""
        return [
            event.asset_key
            for event in run.all_events
            if event.event_type_value == "ASSET_MATERIALIZATION" and event.asset_key
        ]

    def steps(self, run: dg.JobExecutionResult, event_type: str) -> list[str]:
        """The steps of which a run has an event, by what follows the model's name."""
        return sorted(
            str(event.step_key).partition(".")[2]
            for event in run.all_events
            if event.event_type_value == event_type
        )
