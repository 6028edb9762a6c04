"""Which steps of a held run have jobs that can be launched before the run starts."""

from __future__ import annotations

from collections.abc import Iterable

import dagster as dg

from dagster_kumo.execution.adopted_job import DELIVER_JOB_TAG
from dagster_kumo.execution.launch.identity import partition_of
from dagster_kumo.execution.run_config import KumoRunConfig, KumoTrainingRunConfig
from dagster_kumo.execution.selection import RunDefinition, prediction_in, training_in
from dagster_kumo.sensor.hold.held_step import HeldPrediction, HeldStep, HeldTraining


class RunSteps:
    """Finds the steps of held runs that use the `KumoResource` of this key."""

    def __init__(self, resource_key: str) -> None:
        self._resource_key = resource_key
        self._planned: dict[str, set[dg.AssetKey]] = {}

    def of(
        self, run: dg.DagsterRun, instance: dg.DagsterInstance, repository: dg.RepositoryDefinition
    ) -> list[HeldStep] | None:
        """The steps of a run whose jobs can be launched ahead; none if there is nothing to wait for.

        None is for a run that is left to the sensor of another connection.

        Not ahead: a run over several partitions, which keeps its own jobs going; predictions from
        tables that the same run makes; a run with a connection of its own; one that delivers a job
        that is done.
        """
        planned = self._planned_assets(run, instance)
        known = repository.assets_defs_by_key
        definitions = {id(known[key]): known[key] for key in sorted(planned) if key in known}
        launching = [one for one in definitions.values() if prediction_in(one) or training_in(one)]
        ours = [one for one in launching if self._resource_key in one.required_resource_keys]
        if launching and not ours:
            return None
        is_for_one, partition_key = partition_of(run)
        if DELIVER_JOB_TAG in run.tags or "resources" in run.run_config or not is_for_one:
            return []
        steps: list[HeldStep] = []
        for assets_def in ours:
            upstream = {dep.asset_key for spec in assets_def.specs for dep in spec.deps}
            if (upstream - assets_def.keys) & planned:
                continue
            name = assets_def.node_def.name
            if (training := training_in(assets_def)) is not None:
                config = KumoTrainingRunConfig.of_run(run, name)
                if config.deliver_job is None:
                    steps.append(
                        HeldTraining(
                            assets_def=assets_def,
                            training=config.applied_to(training),
                            is_anew=config.launch_anew,
                        )
                    )
            else:
                key = partition_key if assets_def.partitions_def is not None else None
                config = KumoRunConfig.of_run(run, name)
                if config.deliver_job is None:
                    selected = assets_def.keys & planned
                    steps.append(
                        HeldPrediction(
                            assets_def=assets_def,
                            definition=RunDefinition(assets_def, selected, [key], config),
                            partition_key=key,
                            is_anew=config.launch_anew,
                        )
                    )
        return steps

    def forget_others(self, run_ids: Iterable[str]) -> None:
        """Keep in memory what is known of these runs alone."""
        kept = set(run_ids)
        self._planned = {key: value for key, value in self._planned.items() if key in kept}

    def _planned_assets(self, run: dg.DagsterRun, instance: dg.DagsterInstance) -> set[dg.AssetKey]:
        """The assets that the run is to make, by the events that Dagster writes when it creates a run."""
        if run.run_id not in self._planned:
            entries = instance.all_logs(
                run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED
            )
            events = [entry.dagster_event for entry in entries]
            self._planned[run.run_id] = {e.asset_key for e in events if e and e.asset_key}
        return self._planned[run.run_id]
