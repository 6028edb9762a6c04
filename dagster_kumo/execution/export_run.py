"""Exports from their launch to their end: what `KumoResource.export` does."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg

from dagster_kumo.api.connectors import (
    Connector,
    MetadataField,
    TableName,
    WriteMode,
    prediction_output,
)
from dagster_kumo.api.errors import KumoError
from dagster_kumo.api.records import OutputType
from dagster_kumo.execution.launch.deliveries import materialized_job_ids
from dagster_kumo.execution.launch.export import ExportLaunch
from dagster_kumo.execution.metadata import JOB_ID_METADATA, export_metadata, target_entry
from dagster_kumo.execution.partitions.concurrent_jobs import PartitionJobs
from dagster_kumo.execution.partitions.outputs import materialize_each
from dagster_kumo.execution.settings import RunSettings
from dagster_kumo.execution.termination import RunJobs

PARTITION_KEY = "{partition_key}"
"""In a table's name, the partition of the asset. (`{PARTITION}` is Kumo's own: a part's name.)"""


def of_partition(text: str, partition_key: str | None) -> str:
    """`text` with the partition in the place of `{partition_key}`."""
    return text if partition_key is None else text.replace(PARTITION_KEY, partition_key)


def table_of_partition(table_name: TableName, partition_key: str | None) -> TableName:
    """The table that a partition is written to."""
    if isinstance(table_name, str):
        return of_partition(table_name, partition_key)
    schema, table = table_name
    return of_partition(schema, partition_key), of_partition(table, partition_key)


def names_partition(table_name: TableName) -> bool:
    """Whether each partition has a table of its own."""
    return PARTITION_KEY in (table_name if isinstance(table_name, str) else "".join(table_name))


class ExportRun:
    """What a run does for an export asset; the arguments are those of `KumoResource.export`."""

    def __init__(
        self,
        context: dg.AssetExecutionContext,
        settings: RunSettings,
        *,
        predictions: dg.AssetKey,
        connector: Connector,
        table_name: TableName,
        output_type: OutputType,
        write_mode: WriteMode | None,
        metadata_fields: Sequence[MetadataField],
    ) -> None:
        self._context = context
        self._settings = settings
        self._client = settings.client
        self._keys = context.partition_keys if context.assets_def.partitions_def else [None]
        self._jobs = RunJobs(context, settings, brief=len(self._keys) > 1)
        self._predictions = predictions
        self._connector = connector
        self._table_name = table_name
        self._output_type: OutputType = output_type
        self._write_mode: WriteMode | None = write_mode
        self._metadata_fields = metadata_fields

    def results(self) -> Iterator[dg.MaterializeResult[Any]]:
        """Export the partitions of the run, and yield the result when all is written."""
        context = self._context
        for key in self._keys:  # refused before anything is sent
            self._output(key)
        with self._jobs.cancel_jobs_on_termination():
            if len(self._keys) == 1:
                metadata = self._export(self._keys[0])
                version = dg.DataVersion(metadata[JOB_ID_METADATA])
                yield dg.MaterializeResult(metadata=metadata, data_version=version)
            else:
                at_once = self._settings.max_concurrent_jobs
                done = PartitionJobs(context.partition_keys, self._export, at_once=at_once)
                yield materialize_each(context, context.asset_key, done)

    def _export(self, partition_key: str | None) -> dict[str, Any]:
        """Export one partition and wait until it is written: the metadata of it."""
        started = time.monotonic()
        job_id = self._job_behind(partition_key)
        target = self._target(partition_key)
        output = self._output(partition_key)
        launch = ExportLaunch(
            self._client, self._context, partition_key, job_id=job_id, output=output, target=target
        )
        about = f": the {self._output_type} of {job_id} to {target}"
        export_id = self._jobs.finish(launch, about)
        return export_metadata(
            export_job_id=export_id,
            job_id=job_id,
            connector=self._connector,
            target=target,
            write_mode=output.get("write_mode"),
            seconds=time.monotonic() - started,
        )

    def _output(self, partition_key: str | None) -> dict[str, Any]:
        """What is asked of Kumo.

        Raises:
            ValueError: the connector has no room for an option.
        """
        return prediction_output(
            self._output_type,
            self._connector,
            table_of_partition(self._table_name, partition_key),
            metadata_fields=self._metadata_fields,
            write_mode=self._write_mode,
        )

    def _target(self, partition_key: str | None) -> str:
        """Where to, as the definition has it, where a translator may have completed the name."""
        table = table_of_partition(self._table_name, partition_key)
        shown = self._connector.display_name(table, self._output_type)
        definition = self._context.assets_def.metadata_by_key[self._context.asset_key]
        name = definition.get(target_entry(self._connector), shown)
        return of_partition(str(name), partition_key)

    def _job_behind(self, partition_key: str | None) -> str:
        """The prediction job of the upstream asset's latest materialization."""
        instance = self._context.instance
        job_ids = materialized_job_ids(instance, self._predictions, partition_key, limit=1)
        if not job_ids:
            where = f", partition {partition_key}," if partition_key else ""
            raise KumoError(
                f"The asset {self._predictions.to_user_string()}{where} has not been materialized by a "
                "prediction job, so there is nothing to export. Materialize it first."
            )
        return job_ids[0]
