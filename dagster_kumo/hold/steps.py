"""Which steps of a held run have jobs that can be launched before the run starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import dagster as dg

from dagster_kumo.execution.adopted_job import DELIVER_JOB_TAG
from dagster_kumo.execution.launch.identity import partition_of
from dagster_kumo.execution.selection import RunDefinition, prediction_of


@dataclass(frozen=True)
class HeldStep:
    """A step that predicts: its assets, and what of them the run makes."""

    assets_def: dg.AssetsDefinition
    definition: RunDefinition
    partition_key: str | None


class HeldSteps:
    """Finds the steps of held runs in a code location.

    Args:
        instance: Dagster's instance.
        repository: the definitions of the code location.
        resource_key: the key of the `KumoResource`; only steps that use it count.
    """

    def __init__(
        self,
        instance: dg.DagsterInstance,
        repository: dg.RepositoryDefinition,
        resource_key: str,
    ) -> None:
        self._instance = instance
        self._repository = repository
        self._resource_key = resource_key

    def of(self, run: dg.DagsterRun) -> Sequence[HeldStep]:
        """The steps of a run whose jobs can be launched ahead; none if there is nothing to wait for.

        Not ahead: a run over several partitions, which keeps its own jobs going; predictions from
        tables that the same run makes; a run with a connection of its own; one that delivers a job
        that is done.
        """
        if DELIVER_JOB_TAG in run.tags or "resources" in run.run_config:
            return []
        is_for_one, partition_key = partition_of(run)
        if not is_for_one:
            return []
        planned = self._planned(run)
        found: dict[int, HeldStep] = {}
        for key in planned:
            assets_def = self._repository.assets_defs_by_key.get(key)
            if assets_def is None or id(assets_def) in found:
                continue
            if self._is_launched_ahead(assets_def, planned):
                has_partitions = assets_def.partitions_def is not None
                keys = [partition_key if has_partitions else None]
                selected = assets_def.keys & planned
                found[id(assets_def)] = HeldStep(
                    assets_def, RunDefinition(assets_def, selected, keys), keys[0]
                )
        return list(found.values())

    def _is_launched_ahead(
        self, assets_def: dg.AssetsDefinition, planned: set[dg.AssetKey]
    ) -> bool:
        upstream = {dep.asset_key for spec in assets_def.specs for dep in spec.deps}
        return (
            prediction_of(assets_def) is not None
            and self._resource_key in assets_def.required_resource_keys
            and not (upstream - assets_def.keys) & planned
        )

    def _planned(self, run: dg.DagsterRun) -> set[dg.AssetKey]:
        """The assets that the run is to make, by the events that Dagster writes when it creates the run."""
        events = self._instance.all_logs(
            run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED
        )
        planned = [entry.dagster_event for entry in events]
        return {event.asset_key for event in planned if event and event.asset_key}
