"""The exports of a run, from launch to end: what `KumoResource.export` does."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg

from dagster_kumo.api.errors import KumoError
from dagster_kumo.api.records import OutputType
from dagster_kumo.execution.launch.attempt import Attempt
from dagster_kumo.execution.launch.deliveries import newest_metadata
from dagster_kumo.execution.launch.export import ExportLaunch
from dagster_kumo.execution.metadata import (
    COLUMN_LINEAGE,
    COLUMN_SCHEMA,
    JOB_ID_METADATA,
    ROW_COUNT,
    export_metadata,
    target_entry,
)
from dagster_kumo.execution.partitions.concurrent_jobs import PartitionJobs
from dagster_kumo.execution.partitions.outputs import materialize_each
from dagster_kumo.execution.settings import RunSettings
from dagster_kumo.execution.termination import RunJobs
from dagster_kumo.jobs.batch_prediction import BatchPredictionJob
from dagster_kumo.jobs.export_target import ExportTarget, of_partition


class ExportRun:
    """What a run does for an export asset.

    The latest materialization of `predictions` names the prediction job whose output is exported.

    Raises:
        ValueError: A partition cannot be part of the target's name.
    """

    def __init__(
        self,
        context: dg.AssetExecutionContext,
        settings: RunSettings,
        *,
        predictions: dg.AssetKey,
        target: ExportTarget,
    ) -> None:
        self._context = context
        self._settings = settings
        self._client = settings.client
        keys = context.partition_keys if context.assets_def.partitions_def else [None]
        self._targets = {key: target.for_partition(key) for key in keys}
        self._jobs = RunJobs(context, settings, brief=len(keys) > 1)
        self._attempt = Attempt.of(context, settings.client.launch_settling_time)
        self._predictions = predictions

    def results(self) -> Iterator[dg.MaterializeResult[Any]]:
        """Export the partitions of the run, and yield the result when everything is written."""
        context = self._context
        self._jobs.raise_if_terminated()
        with self._jobs.cancel_jobs_on_termination():
            if len(self._targets) == 1:
                (partition_key,) = self._targets
                metadata = self._export(partition_key)
                version = dg.DataVersion(metadata[JOB_ID_METADATA])
                yield dg.MaterializeResult(metadata=metadata, data_version=version)
            else:
                at_once = self._settings.max_concurrent_jobs
                done = PartitionJobs(context.partition_keys, self._export, at_once=at_once)
                yield materialize_each(context, context.asset_key, done)

    def _export(self, partition_key: str | None) -> dict[str, Any]:
        """Export one partition, wait until it is written, and return its metadata."""
        started = time.monotonic()
        exported = self._exported(partition_key)
        job_id = str(exported[JOB_ID_METADATA])
        target = self._targets[partition_key]
        full_name = self._full_name(partition_key)
        launch = ExportLaunch(
            self._client,
            self._attempt,
            self._context.asset_key,
            partition_key,
            job_id=job_id,
            target=target,
            full_name=full_name,
        )
        about = f": the {target.output_type} of {job_id} to {full_name}"
        export_id = self._jobs.finish(launch, about)
        # Rows and columns are those of the upstream asset, if it is the output that is exported.
        schema = _schema(exported, target.output_type)
        rows = exported.get(ROW_COUNT) if schema is not None else None
        metadata = export_metadata(
            target,
            full_name=full_name,
            export_job_id=export_id,
            job_id=job_id,
            tracking_url=self._page(job_id),
            rows=rows if isinstance(rows, int) else None,
            seconds=time.monotonic() - started,
        )
        if schema is not None:
            names = [column.name for column in schema.columns]
            copied = {name: [dg.TableColumnDep(self._predictions, name)] for name in names}
            metadata[COLUMN_LINEAGE] = dg.TableColumnLineage(copied)
        return metadata

    def _full_name(self, partition_key: str | None) -> str:
        """The target's name: as a translator has completed it, or else as the server tells it."""
        target = self._targets[partition_key]
        definition = self._context.assets_def.metadata_by_key[self._context.asset_key]
        defined = of_partition(
            str(definition.get(target_entry(target), target.full_name)), partition_key
        )
        if defined != target.full_name:
            return defined
        return self._client.generation.written_to(target.request()) or defined

    def _page(self, job_id: str) -> str:
        """The page of the prediction job in Kumo, which exports do not have; empty if it is not known."""
        try:
            return BatchPredictionJob(job_id, self._client).tracking_url
        except KumoError:  # everything is written: its metadata must not fail the asset
            return ""

    def _exported(self, partition_key: str | None) -> Mapping[str, Any]:
        """What the upstream asset's latest materialization says, which a prediction job has made."""
        recorded = newest_metadata(self._context.instance, self._predictions, partition_key)
        if recorded is None or not isinstance(recorded.get(JOB_ID_METADATA), str):
            where = f", partition {partition_key}," if partition_key else ""
            raise KumoError(
                f"The asset {self._predictions.to_user_string()}{where} has not been materialized by a "
                "prediction job, so there is nothing to export. Materialize it first."
            )
        return recorded


def _schema(exported: Mapping[str, Any], output_type: OutputType) -> dg.TableSchema | None:
    """The columns of the upstream asset, if it is the output that is exported."""
    schema = exported.get(COLUMN_SCHEMA)
    if not isinstance(schema, dg.TableSchema):
        return None
    is_embeddings = any(column.name == "EMBEDDING" for column in schema.columns)
    return schema if is_embeddings == (output_type == "embeddings") else None
