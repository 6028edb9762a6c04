"""One launch, one job: attach to the job of an earlier attempt instead of paying for it again.

A launch is identified by the assets, the partition, the root run and the request. The root run, and
not the run, so that a retry and a re-execution are the same launch as the attempt before them. That
identity is a tag on the Kumo job. Before anything is launched, and again whenever the answer to a
launch was lost, the job that carries it is looked for.
"""

from __future__ import annotations

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dagster as dg

from dagster_kumo.api.client import KumoClient
from dagster_kumo.api.errors import KumoValidationError, ValidationIssue
from dagster_kumo.api.records import (
    CANCELLED,
    FAILED,
    BatchPredictionJobResource,
    BatchPredictionRequest,
    PredictionTableJobResource,
)
from dagster_kumo.batch_prediction import MAX_TAG_VALUE
from dagster_kumo.jobs.batch_prediction import EMBEDDINGS_BY_A_CONNECTOR

LAUNCH_KEY_TAG = "dagster.launch_key"
RUN_ID_TAG = "dagster.run_id"
ASSET_TAG = "dagster.asset"
PARTITION_TAG = "dagster.partition"
CODE_LOCATION_TAG = "dagster.code_location"

JOB_ID_METADATA = "dagster-kumo/job_id"
TABLE_JOB_ID_METADATA = "dagster-kumo/prediction_table_job_id"
# Of one partition: a root run that delivered more often is no retry.
MATERIALIZATIONS_LOOKED_AT = 20

Find = Callable[[], str | None]


class Launch(ABC):
    """The one job of one launch, whoever launched it and however often that was tried.

    Not attached to: a job that FAILED or was CANCELLED, and one that has been delivered, which is to
    say that its assets have been materialized from it, so that materializing again on purpose
    launches again.

    Args:
        context: the context of the assets.
        partition_key: the partition that the job is for.
        request: what is asked of Kumo, as JSON, without tags.
        delivered_in: of each asset that is made from the job, the entry of its metadata that names it.
    """

    kind: str
    """What to call the job in messages."""
    run_tag: str
    """The tag of the run that names the job."""

    def __init__(
        self,
        context: dg.AssetExecutionContext,
        partition_key: str | None,
        request: Mapping[str, Any],
        *,
        delivered_in: Mapping[dg.AssetKey, str],
    ) -> None:
        self._context = context
        self._partition_key = partition_key
        self._delivered_in = delivered_in
        self._key = launch_key(request, context, partition_key)
        self.attached = False
        """Whether the job was there already."""
        self.warnings: Sequence[ValidationIssue] = ()
        """What the server had to say about the request."""

    def run(self) -> str:
        """Attach or launch: the id of the job, which is noted on the run.

        Raises:
            KumoValidationError: the server refused the request.
            KumoConnectionError: no answer, and no job to be found that the request made.
        """
        job_id = self._find()
        self.attached = job_id is not None
        if job_id is None:
            tags = {**_tags(self._context, self._partition_key), LAUNCH_KEY_TAG: self._key}
            job_id, self.warnings = self._create(tags, self._find)
        self._note_on_run(job_id)
        return job_id

    def cancel(self) -> None:
        """Cancel the job, also when the launch was interrupted before its id was known."""
        job_id = self._find()
        if job_id is not None:
            self._cancel(job_id)

    def _find(self) -> str | None:
        # The tags are looked at again: a server may ignore a filter that it does not know.
        for job in self._list({LAUNCH_KEY_TAG: self._key}):
            if (
                job.tags.get(LAUNCH_KEY_TAG) == self._key
                and job.job_status_report.status not in (FAILED, CANCELLED)
                and not self._is_delivered(job.job_id)
            ):
                return job.job_id
        return None

    def _is_delivered(self, job_id: str) -> bool:
        instance = self._context.instance
        return all(
            job_id in materialized_job_ids(instance, key, self._partition_key, entry=entry)
            for key, entry in self._delivered_in.items()
        )

    def _note_on_run(self, job_id: str) -> None:
        """Write the job's id to the run's own tags, where a person finds it."""
        tag = run_tag(self.run_tag, self._context, self._partition_key)
        self._context.instance.add_run_tags(self._context.run.run_id, {tag: job_id})

    @abstractmethod
    def _create(
        self, tags: Mapping[str, str], find: Find
    ) -> tuple[str, Sequence[ValidationIssue]]: ...

    @abstractmethod
    def _list(
        self, tags: Mapping[str, str]
    ) -> Sequence[BatchPredictionJobResource | PredictionTableJobResource]: ...

    @abstractmethod
    def _cancel(self, job_id: str) -> object: ...


class PredictionLaunch(Launch):
    """The launch of a prediction job, from which `outputs` are made."""

    kind = "prediction job"
    run_tag = "dagster-kumo/job"

    def __init__(
        self,
        client: KumoClient,
        request: BatchPredictionRequest,
        context: dg.AssetExecutionContext,
        partition_key: str | None,
        outputs: Sequence[dg.AssetKey],
    ) -> None:
        super().__init__(
            context,
            partition_key,
            request.to_json(),
            delivered_in=dict.fromkeys(outputs, JOB_ID_METADATA),
        )
        self._client = client
        self._request = request

    def _create(self, tags: Mapping[str, str], find: Find) -> tuple[str, Sequence[ValidationIssue]]:
        request = self._request.model_copy(update={"job_tags": {**self._request.job_tags, **tags}})
        try:
            return self._client.create_prediction_job(request, find=find)
        except KumoValidationError as error:
            if not request.outputs:
                raise
            # Asking Kumo to keep embeddings is the youngest thing in a launch.
            raise KumoValidationError(
                f"{error}\nEmbeddings were asked for. {EMBEDDINGS_BY_A_CONNECTOR}",
                status_code=error.status_code,
                detail=error.detail,
                errors=error.errors,
            ) from None

    def _list(self, tags: Mapping[str, str]) -> Sequence[BatchPredictionJobResource]:
        return self._client.list_prediction_jobs(tags)

    def _cancel(self, job_id: str) -> object:
        return self._client.cancel_prediction_job(job_id)


class TableLaunch(Launch):
    """The launch of a job that makes a prediction table.

    The table is delivered when the outputs that are predicted from it are: a retry predicts from the
    same table, and so attaches to the same prediction job. Without outputs it is delivered by itself.
    """

    kind = "prediction table job"
    run_tag = "dagster-kumo/prediction_table_job"

    def __init__(
        self,
        client: KumoClient,
        request: Mapping[str, Any],
        job_tags: Mapping[str, str],
        context: dg.AssetExecutionContext,
        partition_key: str | None,
        *,
        table: dg.AssetKey,
        outputs: Sequence[dg.AssetKey],
    ) -> None:
        super().__init__(
            context,
            partition_key,
            request,
            delivered_in=dict.fromkeys(outputs, TABLE_JOB_ID_METADATA) or {table: JOB_ID_METADATA},
        )
        self._client = client
        self._request = request
        self._job_tags = job_tags

    def _create(self, tags: Mapping[str, str], find: Find) -> tuple[str, Sequence[ValidationIssue]]:
        job_id = self._client.create_prediction_table_job(
            **self._request, job_tags={**self._job_tags, **tags}, find=find
        )
        return job_id, ()

    def _list(self, tags: Mapping[str, str]) -> Sequence[PredictionTableJobResource]:
        return self._client.list_prediction_table_jobs(tags)

    def _cancel(self, job_id: str) -> object:
        return self._client.cancel_prediction_table_job(job_id)


def run_tag(prefix: str, context: dg.AssetExecutionContext, partition_key: str | None) -> str:
    """The tag of the run that names the job of an op, or of one of its partitions."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", context.assets_def.op.name)
    if partition_key is not None and len(context.partition_keys) > 1:
        name += "." + re.sub(r"[^A-Za-z0-9_.-]", "_", partition_key)
    return f"{prefix}.{name}"[:76]


def launch_key(
    request: Mapping[str, Any], context: dg.AssetExecutionContext, partition_key: str | None
) -> str:
    """What tells the launch from others: assets, partition, root run and request."""
    identity = {
        "assets": sorted(key.to_user_string() for key in context.assets_def.keys),
        "partition": partition_key,
        "root_run": context.run.root_run_id or context.run.run_id,
        "request": request,
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]


def _tags(context: dg.AssetExecutionContext, partition_key: str | None) -> dict[str, str]:
    tags = {
        RUN_ID_TAG: context.run.run_id,
        ASSET_TAG: min(key.to_user_string() for key in context.selected_asset_keys),
    }
    if partition_key is not None:
        tags[PARTITION_TAG] = partition_key
    origin = context.run.remote_job_origin
    if origin is not None:
        tags[CODE_LOCATION_TAG] = origin.repository_origin.code_location_origin.location_name
    return {key: value[:MAX_TAG_VALUE] for key, value in tags.items()}


def materialized_job_ids(
    instance: dg.DagsterInstance,
    asset_key: dg.AssetKey,
    partition_key: str | None,
    *,
    entry: str = JOB_ID_METADATA,
    limit: int = MATERIALIZATIONS_LOOKED_AT,
) -> list[str]:
    """The jobs behind an asset's materializations, newest first; `entry` of the metadata names them."""
    partitions = None if partition_key is None else [partition_key]
    found = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=asset_key, asset_partitions=partitions), limit=limit
    )
    job_ids: list[str] = []
    for record in found.records:
        materialization = record.asset_materialization
        named = materialization.metadata.get(entry) if materialization else None
        if named is not None and isinstance(named.value, str):
            job_ids.append(named.value)
    return job_ids
