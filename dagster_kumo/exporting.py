"""An export from its launch to its end: what `KumoResource.export` does for one partition.

Kumo's API has neither tags nor a list for exports, so an earlier attempt is found by what it noted on
its run: a retry or a re-execution attaches to that export instead of writing the rows again.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

import dagster as dg

from dagster_kumo.api.client import KumoClient
from dagster_kumo.api.connectors import Connector, TableName
from dagster_kumo.api.errors import KumoConnectionError, KumoError
from dagster_kumo.api.records import CANCELLED, FAILED
from dagster_kumo.asset_metadata import export_metadata, target_entry
from dagster_kumo.jobs.export import ArtifactExportJob
from dagster_kumo.launching import launch_key, materialized_job_ids, run_tag
from dagster_kumo.progress import ProgressLog
from dagster_kumo.termination import CancelOnTermination, cancelled_with_the_run

EXPORT_JOB_ID_METADATA = "dagster-kumo/export_job_id"
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


class PartitionExport:
    """The export of one partition, whoever launched it.

    Args:
        context: the context of the export asset.
        client: the connection.
        partition_key: the partition; None for an asset without partitions.
        job_id: the prediction job whose output is exported.
        connector: where to.
        output: the output as the API takes it.
        shown: the target as a person would write it.
    """

    def __init__(
        self,
        context: dg.AssetExecutionContext,
        client: KumoClient,
        partition_key: str | None,
        *,
        job_id: str,
        connector: Connector,
        output: Mapping[str, Any],
        shown: str,
    ) -> None:
        self._context = context
        self._client = client
        self._partition_key = partition_key
        self._job_id = job_id
        self._connector = connector
        self._output = output
        self._target = self._name_on_the_definition(shown)
        self._tag = run_tag("dagster-kumo/export_job", context, partition_key)
        self._key = launch_key({"job_id": job_id, **output}, context, partition_key)[:12]
        self._export_id: str | None = None

    def run(
        self, *, policy: CancelOnTermination, poll_interval: float, timeout: float | None
    ) -> dict[str, Any]:
        """Attach or launch, and wait until all is written: the metadata of it.

        Raises:
            KumoJobFailedError: the export ended FAILED or CANCELLED.
            KumoTimeoutError: the time is over; the export goes on.
        """
        started = time.monotonic()
        log = self._context.log
        with cancelled_with_the_run(
            self._context, policy, job="the export job", cancel=self._cancel
        ):
            self._export_id = self._find()
            does = "Attached to" if self._export_id else "Launched"
            if self._export_id is None:
                self._export_id = self._create()
                note = {self._tag: f"{self._export_id} (launch {self._key})"}
                self._context.instance.add_run_tags(self._context.run.run_id, note)
            kind = self._output["artifact_type"].lower()
            log.info(
                f"{does} export job {self._export_id}: the {kind} of {self._job_id} to {self._target}"
            )
            ArtifactExportJob(self._export_id, self._client).result(
                poll_interval=poll_interval,
                timeout=timeout,
                on_look=ProgressLog(self._context, f"Export job {self._export_id}"),
            )
        return export_metadata(
            export_job_id=self._export_id,
            job_id=self._job_id,
            connector=self._connector,
            target=self._target,
            write_mode=self._output.get("write_mode"),
            seconds=time.monotonic() - started,
        )

    def _create(self) -> str:
        try:
            return self._client.create_export(self._job_id, self._output)
        except KumoConnectionError as error:
            said = (
                f"{error}\nWhether the export was started is not known: Kumo keeps no list of them."
            )
            if self._output.get("write_mode") != "APPEND":
                raise KumoConnectionError(
                    f"{said} Materialize again: what is written replaces what is there."
                ) from error
            raise dg.Failure(
                f"{said} Look whether the rows are in {self._target} before you materialize again, "
                "for they would be appended twice.",
                allow_retries=False,
            ) from error

    def _cancel(self) -> None:
        if self._export_id is None:
            raise KumoError("its id was not known yet")
        ArtifactExportJob(self._export_id, self._client).cancel()

    def _find(self) -> str | None:
        """The export that an attempt of the same launch has started, unless it came to nothing."""
        for run in self._attempts():
            noted = re.fullmatch(r"(\S+) \(launch (\w+)\)", run.tags.get(self._tag, ""))
            if noted is None or noted[2] != self._key:
                continue
            export_id = noted[1]
            status = self._client.get_export_status(export_id)
            if status not in (FAILED, CANCELLED) and export_id not in self._delivered():
                return export_id
        return None

    def _attempts(self) -> list[dg.DagsterRun]:
        instance, run = self._context.instance, self._context.run
        root = run.root_run_id or run.run_id
        later = instance.get_runs(dg.RunsFilter(tags={"dagster/root_run_id": root}))
        runs = {r.run_id: r for r in [*later, instance.get_run_by_id(root)] if r is not None}
        return list(runs.values())

    def _delivered(self) -> list[str]:
        return materialized_job_ids(
            self._context.instance,
            self._context.asset_key,
            self._partition_key,
            entry=EXPORT_JOB_ID_METADATA,
        )

    def _name_on_the_definition(self, default: str) -> str:
        """The target's name as the definition has it, where a translator may have completed it."""
        definition = self._context.assets_def.metadata_by_key[self._context.asset_key]
        name = definition.get(target_entry(self._connector), default)
        return of_partition(str(name), self._partition_key)
