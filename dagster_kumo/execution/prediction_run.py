"""One run of a `BatchPrediction`: a job for each partition, and what is known of it afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

import dagster as dg

from dagster_kumo.api.records import OutputType, TrainingJobResource
from dagster_kumo.execution.adopted_job import AdoptedJob
from dagster_kumo.execution.anchor_check import check_launched_job
from dagster_kumo.execution.launch.base import Launch
from dagster_kumo.execution.launch.prediction import PredictionLaunch, TableLaunch
from dagster_kumo.execution.metadata import JOB_ID_METADATA, job_metadata, table_metadata
from dagster_kumo.execution.partitions.anchor_time import said_time
from dagster_kumo.execution.partitions.concurrent_jobs import PartitionJobs
from dagster_kumo.execution.partitions.outputs import PartitionOutputs, materialize_each
from dagster_kumo.execution.prediction_tables import (
    GeneratedTable,
    checked_table,
    materialized_table,
    row_count,
    table_request,
)
from dagster_kumo.execution.progress_log import ProgressLog
from dagster_kumo.execution.selection import RunDefinition
from dagster_kumo.execution.settings import RunSettings
from dagster_kumo.execution.termination import RunJobs
from dagster_kumo.jobs.batch_prediction import BatchPredictionJob, BatchPredictionJobResult
from dagster_kumo.jobs.prediction_table import PredictionTableJob
from dagster_kumo.predictions.predictions import Expectation, Predictions

T = TypeVar("T")


@dataclass(frozen=True)
class _Done:
    result: BatchPredictionJobResult
    seconds: float


class PredictionRun:
    """What a run does for the assets of one `BatchPrediction`: jobs, waiting, results.

    Args:
        context: the context of the assets.
        settings: the connection, and how long to wait.
        definition: what to make.
        model: the trained model that predicts.
        adopted: a job that is done already, to be delivered instead of launching one.
    """

    def __init__(
        self,
        context: dg.AssetExecutionContext,
        settings: RunSettings,
        definition: RunDefinition,
        model: TrainingJobResource,
        adopted: AdoptedJob | None = None,
    ) -> None:
        self._context = context
        self._settings = settings
        self._client = settings.client
        self._definition = definition
        self._model = model
        self._adopted = adopted
        self._jobs = RunJobs(context, settings.cancel_on_termination)

    def results(self) -> Iterator[dg.MaterializeResult[Any]]:
        """Make what is selected, all partitions, and yield it asset by asset.

        A prediction table counts as made as soon as it is: predicting from it may take long.
        """
        definition = self._definition
        with self._jobs.cancel_jobs_on_termination():
            tables: dict[str | None, GeneratedTable] = {}
            if self._adopted is not None:
                if self._adopted.table is not None:
                    tables[definition.partition_keys[0]] = self._adopted.table
            elif definition.table is not None and definition.makes_table:
                yield self._make_tables(definition.table, tables)
            elif definition.table is not None:
                for key in definition.partition_keys:
                    tables[key] = self._materialized_table(definition.table, key)
            if definition.outputs:
                yield from self._make_outputs(tables)

    def _make_tables(
        self, asset_key: dg.AssetKey, tables: dict[str | None, GeneratedTable]
    ) -> dg.MaterializeResult[Any]:
        """Make the prediction tables, all of which are added to `tables`."""

        def make(key: str | None) -> dict[str, Any]:
            started = time.monotonic()
            tables[key] = self._make_table(asset_key, key)
            return self._table_metadata(tables[key], time.monotonic() - started)

        keys = self._definition.several_partitions
        if keys is not None:
            return materialize_each(self._context, asset_key, self._at_once(keys, make))
        metadata = make(self._definition.partition_keys[0])
        return dg.MaterializeResult(
            asset_key=asset_key, metadata=metadata, data_version=_data_version(metadata)
        )

    def _make_outputs(
        self, tables: Mapping[str | None, GeneratedTable]
    ) -> Iterator[dg.MaterializeResult[Any]]:
        def predict(key: str | None) -> _Done:
            if (adopted := self._adopted) is not None:
                self._context.log.info(
                    f"Delivering prediction job {adopted.result.id}, which is done: the run's tag names it"
                )
                return _Done(adopted.result, adopted.seconds)
            started = time.monotonic()
            result = self._predict(key, tables.get(key))
            return _Done(result, time.monotonic() - started)

        def describe(
            output_type: OutputType, key: str | None, done: _Done
        ) -> tuple[Predictions, dict[str, Any]]:
            output = self._output(done.result, output_type, key, tables.get(key))
            metadata = job_metadata(
                done.result.get(),
                output.provenance,
                tracking_url=done.result.tracking_url,
                seconds=done.seconds,
            )
            return output, metadata

        outputs = self._definition.outputs.items()
        keys = self._definition.several_partitions
        if keys is None:
            (key,) = self._definition.partition_keys
            done = predict(key)
            for output_type, asset_key in outputs:
                output, metadata = describe(output_type, key, done)
                version = _data_version(metadata)
                yield dg.MaterializeResult(
                    asset_key=asset_key, metadata=metadata, data_version=version, value=output
                )
        else:
            all_done = self._at_once(keys, predict)
            for output_type, asset_key in outputs:
                value = PartitionOutputs(all_done, partial(describe, output_type), self._jobs)
                yield dg.MaterializeResult(asset_key=asset_key, value=value)

    def _at_once(self, keys: Sequence[str], make: Callable[[str], T]) -> PartitionJobs[T]:
        return PartitionJobs(keys, make, at_once=self._settings.max_concurrent_jobs)

    # Jobs

    def _make_table(self, asset_key: dg.AssetKey, partition_key: str | None) -> GeneratedTable:
        anchor_time = self._definition.anchor_time(partition_key)
        prediction = self._definition.prediction
        launch = TableLaunch(
            self._client,
            table_request(prediction, self._model, anchor_time),
            prediction.job_tags,
            self._context,
            partition_key,
            table=asset_key,
            outputs=list(self._definition.outputs.values()),
        )
        with self._launched(launch, _for(anchor_time)) as job_id:
            PredictionTableJob(job_id, self._client).result(
                poll_interval=self._settings.poll_interval,
                timeout=self._settings.poll_timeout,
                on_look=self._jobs.interruptible(self._log(f"Prediction table job {job_id}")),
            )
        return checked_table(self._client, job_id, anchor_time)

    def _materialized_table(
        self, asset_key: dg.AssetKey, partition_key: str | None
    ) -> GeneratedTable:
        return materialized_table(
            self._client,
            self._context.instance,
            asset_key,
            partition_key,
            model=self._model,
            anchor_time=self._definition.anchor_time(partition_key),
        )

    def _predict(
        self, partition_key: str | None, table: GeneratedTable | None
    ) -> BatchPredictionJobResult:
        prediction_time = self._definition.anchor_time(partition_key)
        request = self._definition.prediction.request(
            training_job_id=self._model.job_id,
            outputs=list(self._definition.outputs),
            prediction_time=prediction_time,
            prediction_table_job_id=table.job_id if table else None,
        )
        launch = PredictionLaunch(
            self._client,
            request,
            self._context,
            partition_key,
            outputs=list(self._definition.outputs.values()),
        )
        about = f"{_for(prediction_time)}, model {self._model.job_id}"
        with self._launched(launch, about) as job_id:
            log = self._log(f"Prediction job {job_id}")
            result = BatchPredictionJob(job_id, self._client).result(
                poll_interval=self._settings.poll_interval,
                timeout=self._settings.poll_timeout,
                on_look=log,
                on_progress=log.on_progress,
            )
        stated = result.get().config.prediction_time
        check_launched_job(job_id, stated=stated, asked=request.prediction_time)
        if self._definition.several_partitions is None:
            entities = result.summary().num_entities_predicted
            self._context.log.info(f"Predicted for {entities:,} entities: {result.tracking_url}")
        return result

    @contextmanager
    def _launched(self, launch: Launch, about: str) -> Generator[str, None, None]:
        """Attach to a job or launch it, and let it end with the run while the block waits for it."""
        with self._jobs.track(launch):
            job_id = launch.run()
            done = "Attached to" if launch.attached else "Launched"
            self._context.log.info(f"{done} {launch.kind} {job_id}{about}")
            for warning in launch.warnings:
                self._context.log.warning(f"Kumo warns of {job_id}: {warning}")
            yield job_id

    def _log(self, job: str) -> ProgressLog:
        return ProgressLog(
            self._context, job, brief=self._definition.several_partitions is not None
        )

    # Results

    def _output(
        self,
        result: BatchPredictionJobResult,
        output_type: OutputType,
        partition_key: str | None,
        table: GeneratedTable | None,
    ) -> Predictions:
        """An output, and the time that the I/O manager expects its data to be for."""
        output = result.predictions() if output_type == "predictions" else result.embeddings()
        assert output.provenance is not None
        stated = table.anchor_time if table else output.provenance.prediction_time
        asked = self._definition.anchor_time(partition_key)
        window = self._definition.window(partition_key)
        expectation = None
        if asked is not None and window is not None:
            expectation = Expectation(
                asked, window.end - window.start, is_stated=bool(table) or stated is not None
            )
        provenance = replace(
            output.provenance,
            prediction_table_job_id=table.job_id if table else None,
            prediction_time=asked or stated,
        )
        return Predictions(output.files, provenance=provenance, expectation=expectation)

    def _table_metadata(self, table: GeneratedTable, seconds: float) -> dict[str, Any]:
        rows = None
        try:
            rows = row_count(self._client, table.job_id)
        except Exception as error:  # noqa: BLE001 - whatever it is, the table stands
            self._context.log.warning(
                f"How many rows prediction table {table.job_id} has is not known: {error}"
            )
        return table_metadata(
            job_id=table.job_id, anchor_time=table.anchor_time, rows=rows, seconds=seconds
        )


def _data_version(metadata: Mapping[str, Any]) -> dg.DataVersion:
    return dg.DataVersion(metadata[JOB_ID_METADATA])


def _for(anchor_time: datetime | None) -> str:
    return f" for {said_time(anchor_time)}" if anchor_time else ""
