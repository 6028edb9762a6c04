"""What a run does to evaluate a partition: check the window, join, compute, and hand on the joined rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from typing import TYPE_CHECKING, Any

import dagster as dg

from dagster_kumo.api.errors import KumoDataError, KumoError
from dagster_kumo.api.records import TrainingJobResource
from dagster_kumo.checks.evaluation.metric_names import name_here
from dagster_kumo.checks.evaluation.window import OutcomeWindow, window_of_query
from dagster_kumo.execution.launch.deliveries import newest_metadata
from dagster_kumo.execution.metadata import (
    EVALUATION,
    JOB_ID_METADATA,
    PREDICTION_TIME_METADATA,
    TRAINING_JOB_ID_METADATA,
    values_of,
)
from dagster_kumo.execution.partitions.anchor_time import anchor_time, window_of
from dagster_kumo.execution.selection import only_partition
from dagster_kumo.jobs.prediction_spec import Anchor
from dagster_kumo.predictions.predictions import Predictions
from dagster_kumo.resource import KumoResource

if TYPE_CHECKING:
    from dagster_kumo.checks.evaluation.joined_rows import Task
    from dagster_kumo.checks.evaluation.metrics import Numbers

PREDICTIONS, OUTCOMES = "predictions", "outcomes"
"""The inputs of the asset."""


@dataclass(frozen=True)
class EvaluationSettings:
    """How an asset evaluates.

    Attributes:
        window: When the outcome is known; None if the model's query says so.
        anchor: Which end of a partition's window is its anchor time.
        forecast_length: How many windows a forecast has, if the options of the prediction table say so.
        entity: The column of the outcomes that has the entity.
        target: The column of the outcomes that has what happened.
        missing_outcome: What happened to an entity without an outcome; None leaves it out.
    """

    window: OutcomeWindow | None
    anchor: Anchor | None
    forecast_length: int | None
    entity: str
    target: str
    missing_outcome: bool | float | None

    def to_json(self) -> dg.JsonMetadataValue:
        """The settings by their names."""
        window = self.window.to_json() if self.window is not None else None
        return dg.MetadataValue.json({**vars(self), "window": window})

    @classmethod
    def of(cls, assets_def: dg.AssetsDefinition) -> EvaluationSettings | None:
        """The settings of an evaluation's asset; None of other assets."""
        for metadata in assets_def.metadata_by_key.values():
            if EVALUATION in metadata:
                settings: dict[str, Any] = dict(metadata[EVALUATION].data)
                window = settings.pop("window")
                return cls(
                    window=OutcomeWindow.from_json(window) if window is not None else None,
                    **settings,
                )
        return None


@dataclass
class PredictedPartition:
    """A partition of predictions: its time, its model, and when its outcome is known."""

    instance: dg.DagsterInstance
    asset_key: dg.AssetKey
    partitions_def: dg.PartitionsDefinition | None
    partition_key: str | None
    settings: EvaluationSettings
    """How it is evaluated."""
    kumo: KumoResource | None
    """The connection, if the window is read from the query."""

    @property
    def name(self) -> str:
        """What messages call it."""
        key = self.asset_key.to_user_string()
        return f"{key}, partition {self.partition_key}" if self.partition_key else key

    @cached_property
    def recorded(self) -> Mapping[str, Any] | None:
        """What the latest materialization of the predictions says; None if there is none."""
        return newest_metadata(self.instance, self.asset_key, self.partition_key)

    @property
    def job_id(self) -> str | None:
        """The prediction job."""
        return (self.recorded or {}).get(JOB_ID_METADATA)

    @property
    def model_id(self) -> str | None:
        """The training job of the model that made the predictions."""
        return (self.recorded or {}).get(TRAINING_JOB_ID_METADATA)

    @property
    def anchor(self) -> datetime | None:
        """The anchor time: that of the partition, or else the one that the job was asked for."""
        window = window_of(self.partitions_def, self.partition_key)
        of_partition = anchor_time(window, self.settings.anchor)
        if of_partition is not None:
            return of_partition
        time = (self.recorded or {}).get(PREDICTION_TIME_METADATA)
        return None if time is None else datetime.fromtimestamp(time, tz=timezone.utc)

    @cached_property
    def model(self) -> TrainingJobResource | None:
        """The training job of the model; None if it is not known."""
        if self.model_id is None or self.kumo is None:
            return None
        return self.kumo.get_client().get_training_job(self.model_id)

    @cached_property
    def window(self) -> OutcomeWindow:
        """The window that is given, or that of the query of the model that made the predictions.

        Raises:
            KumoError: The query is not known, or cannot be read.
        """
        if self.settings.window is not None:
            return self.settings.window
        query_id = self.model.config.pquery_id if self.model is not None else None
        if query_id is None or self.kumo is None:
            raise KumoError(
                f"It is not known which predictive query made {self.name}, so the outcome window is not known "
                "either.\nGive it: window=timedelta(days=30)."
            )
        query = self.kumo.get_client().get_predictive_query(query_id)
        return window_of_query(query.query_string, forecast_length=self.settings.forecast_length)

    def closes_at(self) -> datetime | None:
        """When the outcome is known; None if the predictions have no anchor time."""
        return self.window.closes_at(self.anchor) if self.anchor is not None else None


class EvaluationRun:
    """What a run does for an evaluation's asset.

    Raises:
        ValueError: The run is for several partitions.
    """

    def __init__(
        self, context: dg.AssetExecutionContext, settings: EvaluationSettings, kumo: KumoResource
    ) -> None:
        self._context = context
        self._settings = settings
        inputs = context.assets_def.keys_by_input_name
        self._outcomes = inputs[OUTCOMES]
        self._predicted = PredictedPartition(
            context.instance,
            inputs[PREDICTIONS],
            context.assets_def.partitions_def,
            only_partition(context, of="an evaluation"),
            settings,
            kumo,
        )

    def check_window(self) -> None:
        """Refuse a partition whose window is open.

        Raises:
            KumoWindowError: It is; says when it closes.
            KumoError: The window or the time of the predictions is not known. Says what to do.
        """
        from dagster_kumo.checks.evaluation.database import check_installed

        check_installed()
        predicted = self._predicted
        is_there = predicted.recorded is not None
        # The query is known from the materialization alone.
        if predicted.anchor is not None and (is_there or self._settings.window is not None):
            predicted.window.check_closed(predicted.anchor, of=predicted.name)
        if not is_there:
            raise KumoDataError(
                f"{predicted.name} has not been materialized, so there is nothing to evaluate.\n"
                "Materialize the predictions first."
            )

    def results(self, predictions: Any, outcomes: Any) -> Iterator[dg.MaterializeResult[Any]]:
        """Join predictions and outcomes, and yield the joined rows with their numbers.

        Raises:
            KumoDataError: One of them cannot be evaluated.
            KumoWindowError: The data is for a time whose window is open.
        """
        from dagster_kumo.checks.evaluation.joined_rows import Outcomes, join
        from dagster_kumo.checks.evaluation.metrics import compute
        from dagster_kumo.checks.evaluation.report import evaluation_metadata

        settings, predicted = self._settings, self._predicted
        job_id = predicted.job_id
        if isinstance(predictions, Predictions) and predictions.provenance is not None:
            job_id = predictions.provenance.job_id
        anchor = predicted.anchor
        given = Outcomes(
            outcomes,
            self._outcomes.to_user_string(),
            settings.entity,
            settings.target,
            settings.missing_outcome,
        )
        with join(predictions, given, anchor=anchor, name=predicted.name) as rows:
            anchor = rows.anchor() or anchor
            window = predicted.window
            if anchor is not None:
                window.check_closed(anchor, of=predicted.name)
            self._context.log.info(rows.counts.in_words())
            numbers = compute(rows)
            metadata = evaluation_metadata(
                rows.task,
                numbers,
                rows.counts,
                drawn=self._drawn(rows.task, numbers),
                holdout=self._holdout(),
                anchor=anchor,
                closed_at=window.closes_at(anchor) if anchor is not None else None,
                job_id=job_id,
                training_job_id=predicted.model_id,
            )
            # The rows are read while the output is stored, before this goes on.
            yield dg.MaterializeResult(
                asset_key=self._context.asset_key,
                metadata=metadata,
                value=rows.to_reader(job_id, predicted.model_id),
            )

    def _drawn(self, task: Task, numbers: Numbers) -> Mapping[str, str]:
        """The pictures. An error here does not fail the run."""
        from dagster_kumo.checks.evaluation.pictures import pictures

        try:
            return pictures(task, numbers.groups)
        except Exception as error:  # noqa: BLE001 - the numbers say it without them
            self._context.log.warning(f"There is no picture of the evaluation: {error}")
            return {}

    def _holdout(self) -> dict[str, float]:
        """The metrics of the model on its holdout data. An error here does not fail the run."""
        try:
            model = self._predicted.model
        except KumoError as error:
            self._context.log.warning(f"The holdout metrics of the model are not shown: {error}")
            return {}
        if model is None or model.result is None:
            return {}
        measured = values_of(model.result.eval_metrics.test_metrics)
        return {name_here(name): value for name, value in measured.items()}
