"""One run of a `BatchPrediction`: a job for each partition, and its results."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from functools import cached_property, partial
from importlib.util import find_spec
from typing import Any, TypeVar

import dagster as dg

from dagster_kumo.api.records import OutputType, TrainingJobResource
from dagster_kumo.execution.adopted_job import FinishedJob
from dagster_kumo.execution.anchor_check import check_launched_job
from dagster_kumo.execution.column_lineage import column_lineage
from dagster_kumo.execution.launch.attempt import Attempt
from dagster_kumo.execution.launches import prediction_launch, table_launch
from dagster_kumo.execution.metadata import (
    COLUMN_LINEAGE,
    JOB_ID_METADATA,
    job_metadata,
    table_metadata,
)
from dagster_kumo.execution.partitions.anchor_time import length_of, said_time
from dagster_kumo.execution.partitions.concurrent_jobs import KumoPartitionsError, PartitionJobs
from dagster_kumo.execution.partitions.outputs import (
    PartitionOutputs,
    materialize_each,
    materialize_one,
)
from dagster_kumo.execution.prediction_tables import (
    GeneratedTable,
    checked_table,
    materialized_table,
    row_count,
)
from dagster_kumo.execution.selection import RunDefinition
from dagster_kumo.execution.settings import RunSettings
from dagster_kumo.execution.store_check import check_stores
from dagster_kumo.execution.termination import RunJobs
from dagster_kumo.jobs.batch_prediction import BatchPredictionJobResult
from dagster_kumo.jobs.job_matching import predicted_for
from dagster_kumo.jobs.query_columns import QueryColumns, query_columns
from dagster_kumo.predictions.predictions import Expectation, Predictions, Provenance

T = TypeVar("T")


class PredictionRun:
    """The run of the assets of one `BatchPrediction`: launches jobs, waits for them and yields results.

    If a job is `adopted`, that one is delivered, and none is launched.
    """

    def __init__(
        self,
        context: dg.AssetExecutionContext,
        settings: RunSettings,
        definition: RunDefinition,
        model: TrainingJobResource,
        adopted: FinishedJob | None,
    ) -> None:
        self._context = context
        self._settings = settings
        self._client = settings.client
        self._definition = definition
        self._model = model
        self._adopted = adopted
        brief = definition.several_partitions is not None
        self._jobs = RunJobs(context, settings, brief=brief)
        self._attempt = Attempt.of(
            context,
            settings.client.launch_settling_time,
            is_anew=definition.config.launch_anew,
        )
        self._tables: dict[str | None, GeneratedTable] = {}
        self._tables_failed: Mapping[str, Exception] = {}

    def results(self) -> Iterator[dg.MaterializeResult[Any]]:
        """Make the selected assets of all partitions, and yield them one by one.

        A prediction table is yielded first, because predicting from it may take long.
        """
        definition = self._definition
        self._jobs.raise_if_terminated()
        if self._adopted is None:
            check_stores(self._context, definition)
        with self._jobs.cancel_jobs_on_termination():
            if definition.table is not None and definition.makes_table:
                try:
                    yield self._make_tables(definition.table)
                except KumoPartitionsError as error:
                    self._tables_failed = error.failed
                    if not definition.outputs or error.not_begun:
                        raise
            if definition.outputs:
                yield from self._make_outputs()

    def _make_tables(self, asset_key: dg.AssetKey) -> dg.MaterializeResult[Any]:
        def make(key: str | None) -> dict[str, Any]:
            started = time.monotonic()
            table = self._tables[key] = self._make_table(asset_key, key)
            return self._table_metadata(table, time.monotonic() - started)

        keys = self._definition.several_partitions
        if keys is not None:
            return materialize_each(self._context, asset_key, self._at_once(keys, make))
        metadata = make(self._definition.partition_keys[0])
        return dg.MaterializeResult(
            asset_key=asset_key, metadata=metadata, data_version=_data_version(metadata)
        )

    def _make_outputs(self) -> Iterator[dg.MaterializeResult[Any]]:
        def describe(
            output_type: OutputType, key: str | None, done: FinishedJob
        ) -> tuple[Predictions, dict[str, Any]]:
            output, provenance = self._output(done, output_type, key)
            metadata = job_metadata(
                done.result.get(),
                provenance,
                tracking_url=done.result.tracking_url,
                seconds=done.seconds,
                rate=self._settings.rate,
            )
            return output, metadata | self._lineage(output_type)

        outputs = self._definition.outputs.items()
        keys = self._definition.several_partitions
        if keys is None:
            (key,) = self._definition.partition_keys
            done = self._finished_job(key)
            for output_type, asset_key in outputs:
                output, metadata = describe(output_type, key, done)
                version = _data_version(metadata)
                if isinstance(self._context.assets_def.node_def, dg.GraphDefinition):
                    # This step hands the metadata on to the one that stores the output.
                    yield dg.MaterializeResult(
                        asset_key=asset_key, metadata=metadata, data_version=version, value=output
                    )
                else:
                    yield materialize_one(self._context, asset_key, output, metadata, version)
        else:
            all_done = self._at_once(keys, self._finished_job)
            described = {key: partial(describe, output_type) for output_type, key in outputs}
            value = PartitionOutputs(all_done, described, self._jobs)
            for asset_key in described:
                yield dg.MaterializeResult(asset_key=asset_key, value=value)

    def _at_once(self, keys: Sequence[str], make: Callable[[str], T]) -> PartitionJobs[T]:
        return PartitionJobs(keys, make, at_once=self._settings.max_concurrent_jobs)

    # Jobs

    def _make_table(self, asset_key: dg.AssetKey, partition_key: str | None) -> GeneratedTable:
        anchor_time = self._definition.anchor_time(partition_key)
        launch = table_launch(
            self._client, self._definition, self._model, self._attempt, asset_key, partition_key
        )
        job_id = self._jobs.finish(launch, _for(anchor_time))
        return checked_table(self._client, job_id, anchor_time)

    def _finished_job(self, partition_key: str | None) -> FinishedJob:
        """The finished job of a partition: a launched one, or the one that the run must deliver."""
        if (adopted := self._adopted) is not None:
            self._context.log.info(
                f"Delivering prediction job {adopted.result.id}, which is done: the run's tag names it"
            )
            return adopted
        started = time.monotonic()
        table = self._table(partition_key)
        result = self._predict(partition_key, table)
        table = table or self._table_made_inline(result, partition_key)
        return FinishedJob(result, self._model, table, time.monotonic() - started)

    def _table(self, partition_key: str | None) -> GeneratedTable | None:
        """The prediction table of a partition: made by this run, or materialized before."""
        if partition_key in self._tables:
            return self._tables[partition_key]
        if partition_key is not None and partition_key in self._tables_failed:
            raise self._tables_failed[partition_key]
        if self._definition.table is None:
            return None
        return materialized_table(
            self._client,
            self._context.instance,
            self._definition.table,
            partition_key,
            model=self._model,
            anchor_time=self._definition.anchor_time(partition_key),
        )

    def _predict(
        self, partition_key: str | None, table: GeneratedTable | None
    ) -> BatchPredictionJobResult:
        prediction_time = self._definition.anchor_time(partition_key)
        launch = prediction_launch(
            self._client, self._definition, self._model, self._attempt, table, partition_key
        )
        job_id = self._jobs.finish(
            launch,
            f"{_for(prediction_time)}, model {self._model.job_id}",
            deadline=self._definition.deadline(partition_key, datetime.now(timezone.utc)),
        )
        result = BatchPredictionJobResult(job_id, self._client)
        stated = result.get().config.prediction_time
        check_launched_job(job_id, stated=stated, asked=launch.request.prediction_time)
        if self._definition.several_partitions is None:
            entities = result.summary().num_entities_predicted
            self._context.log.info(f"Predicted for {entities:,} entities: {result.tracking_url}")
        return result

    def _table_made_inline(
        self, result: BatchPredictionJobResult, partition_key: str | None
    ) -> GeneratedTable | None:
        """The table that the server made for the time of the launch, if the job names it and not the time."""
        asked = self._definition.anchor_time(partition_key)
        config = result.get().config
        if asked is None or not self._client.generation.names_table_for_time:
            return None
        if config.prediction_time is not None or config.pred_table_job_id is None:
            return None
        stated = predicted_for(self._client, result.get())
        check_launched_job(result.id, stated=stated, asked=asked)
        return GeneratedTable(config.pred_table_job_id, stated) if stated else None

    # Results

    def _output(
        self, done: FinishedJob, output_type: OutputType, partition_key: str | None
    ) -> tuple[Predictions, Provenance]:
        """An output, which says what time the I/O manager expects its data to be for; and its job."""
        result, table = done.result, done.table
        output = result.predictions() if output_type == "predictions" else result.embeddings()
        assert output.provenance is not None
        stated = table.anchor_time if table else output.provenance.prediction_time
        asked = self._definition.anchor_time(partition_key)
        window = self._definition.window(partition_key)
        expectation = None
        if asked is not None and window is not None:
            expectation = Expectation(
                asked, length_of(window), is_stated=bool(table) or stated is not None
            )
        provenance = replace(
            output.provenance,
            prediction_table_job_id=table.job_id if table else None,
            prediction_time=asked or stated,
        )
        output = Predictions(output.files, provenance=provenance, expectation=expectation)
        return output, provenance

    def _lineage(self, output_type: OutputType) -> dict[str, Any]:
        """The lineage of an output's columns, if the query tells it."""
        columns = self._query_columns
        found = column_lineage(columns, output_type, self._upstream) if columns else None
        return {COLUMN_LINEAGE: found} if found else {}

    @cached_property
    def _query_columns(self) -> QueryColumns | None:
        """The columns of the model's query; None if they are not known, which must not fail the assets."""
        query_id = self._model.config.pquery_id
        if not query_id or not self._upstream or find_spec("predictive_query") is None:
            return None
        try:
            return query_columns(self._client.get_predictive_query(query_id))
        except Exception as error:  # noqa: BLE001 - the parser is no supported API: any error may come
            self._context.log.debug(f"There is no lineage of columns: {error}")
            return None

    @cached_property
    def _upstream(self) -> set[dg.AssetKey]:
        return {dep.asset_key for spec in self._context.assets_def.specs for dep in spec.deps}

    def _table_metadata(self, table: GeneratedTable, seconds: float) -> dict[str, Any]:
        rows = None
        try:
            rows = row_count(self._client, table.job_id)
        except Exception as error:  # noqa: BLE001 - the table is made: its metadata must not fail the asset
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
