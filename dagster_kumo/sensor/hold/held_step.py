"""A step of a held run: the job that it waits for, and the one that is to be launched next."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import dagster as dg

from dagster_kumo.api.client import KumoClient
from dagster_kumo.api.records import DONE, MISSING, JobStatusReport, TrainingJobResource
from dagster_kumo.execution.launch.attempt import Attempt
from dagster_kumo.execution.launch.base import TaggedLaunch
from dagster_kumo.execution.launch.held_run import PROGRESS_TAG
from dagster_kumo.execution.launch.prediction import PredictionLaunch
from dagster_kumo.execution.launch.training import TrainingLaunch
from dagster_kumo.execution.launches import prediction_launch, table_launch
from dagster_kumo.execution.prediction_tables import checked_table, materialized_table
from dagster_kumo.execution.selection import RunDefinition
from dagster_kumo.jobs.prediction_spec import BatchPrediction
from dagster_kumo.jobs.training_spec import TrainingSpec
from dagster_kumo.sensor.hold.held_jobs import KINDS, Kind

ModelOf = Callable[[BatchPrediction], TrainingJobResource]


@dataclass(kw_only=True)
class HeldStep(ABC):
    """A step of a held run that waits for a job."""

    assets_def: dg.AssetsDefinition
    kind: Kind
    """Of what kind the newest job of the step is."""
    is_anew: bool = False
    """Whether the run launches a new job on purpose."""
    job_id: str | None = None
    """The newest job, if it is noted on the run."""
    report: JobStatusReport | None = None
    """Where that job stands."""

    def deadline(self, begun: datetime) -> datetime | None:
        """When its outputs should be there; None if there is no deadline, or it was past when the run began."""
        del begun
        return None

    def read_notes(self, run: dg.DagsterRun, attempt: Attempt) -> None:
        """Take over the job that is noted on the run."""
        if PROGRESS_TAG not in run.tags:
            return
        for kind in KINDS:  # the predictions, which are launched last, before the table
            job_id = attempt.notes.shown_on_run(kind.run_tag)
            if job_id is not None:
                self.kind, self.job_id = kind, job_id
                return

    def attempt(
        self, instance: dg.DagsterInstance, run: dg.DagsterRun, log: logging.Logger
    ) -> Attempt:
        """The attempt at the launches of the step.

        It does not wait until Kumo shows what was launched before: the tick launches only after that.
        """
        name = self.assets_def.node_def.name
        is_fan_out = isinstance(self.assets_def.node_def, dg.GraphDefinition)
        step_key = f"{name}.predict" if is_fan_out else name
        return Attempt(
            instance,
            run,
            self.assets_def,
            step_key,
            log,
            settling_time=0.0,
            is_anew=self.is_anew,
        )

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to wait for."""
        report = self.report
        if report is None or not (report.is_terminal or report.status == MISSING):
            return False
        return report.status != DONE or self._is_last

    @property
    def may_go_on(self) -> bool:
        """Whether its job goes on, or Kumo has not said."""
        return self.job_id is not None and not (self.report and self.report.is_terminal)

    @property
    def launches_now(self) -> bool:
        """Whether the next job is to be launched now."""
        if self.job_id is None:
            return True
        return not self._is_last and self.report is not None and self.report.status == DONE

    @property
    def _is_last(self) -> bool:
        """Whether no other job comes after the newest one."""
        return True

    @abstractmethod
    def next_launch(self, client: KumoClient, attempt: Attempt, model_of: ModelOf) -> TaggedLaunch:
        """The launch of the next job, with the key that the run itself would give it.

        Raises:
            KumoError: The table that it predicts from is not as it must be.
        """


@dataclass(kw_only=True)
class HeldTraining(HeldStep):
    """A step that trains a candidate."""

    training: TrainingSpec
    kind: Kind = TrainingLaunch

    def next_launch(self, client: KumoClient, attempt: Attempt, model_of: ModelOf) -> TaggedLaunch:
        """The launch of the training job."""
        del model_of
        return TrainingLaunch(client, self.training, attempt, self.assets_def.key)


@dataclass(kw_only=True)
class HeldPrediction(HeldStep):
    """A step that predicts. Its job makes predictions, or the table for them."""

    definition: RunDefinition
    """What of its assets the run makes."""
    partition_key: str | None
    kind: Kind = PredictionLaunch

    def deadline(self, begun: datetime) -> datetime | None:
        """When the outputs of its partition should be there."""
        return self.definition.deadline(self.partition_key, begun)

    @property
    def _is_last(self) -> bool:
        return self.kind is PredictionLaunch or not self.definition.outputs

    def next_launch(self, client: KumoClient, attempt: Attempt, model_of: ModelOf) -> TaggedLaunch:
        """The launch of the next job; see `HeldStep`."""
        definition, partition_key = self.definition, self.partition_key
        model = model_of(definition.prediction)
        table = None
        if definition.table is not None:
            anchor_time = definition.anchor_time(partition_key)
            if not definition.makes_table:
                table = materialized_table(
                    client,
                    attempt.instance,
                    definition.table,
                    partition_key,
                    model=model,
                    anchor_time=anchor_time,
                )
            elif self.job_id is None:
                return table_launch(
                    client, definition, model, attempt, definition.table, partition_key
                )
            else:
                table = checked_table(client, self.job_id, anchor_time)
        return prediction_launch(client, definition, model, attempt, table, partition_key)
