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
from collections.abc import Sequence

import dagster as dg

from dagster_kumo.api.client import KumoClient
from dagster_kumo.api.errors import ValidationIssue
from dagster_kumo.api.records import CANCELLED, FAILED, BatchPredictionRequest
from dagster_kumo.batch_prediction import MAX_TAG_VALUE

LAUNCH_KEY_TAG = "dagster.launch_key"
RUN_ID_TAG = "dagster.run_id"
ASSET_TAG = "dagster.asset"
PARTITION_TAG = "dagster.partition"
CODE_LOCATION_TAG = "dagster.code_location"

JOB_ID_METADATA = "dagster-kumo/job_id"
MATERIALIZATIONS_LOOKED_AT = (
    20  # of one partition: a root run that delivered more often is no retry
)


class Launch:
    """The one job of one launch, whoever launched it and however often that was tried.

    Not attached to: a job that FAILED or was CANCELLED, and one whose output these assets have
    already materialized, so that materializing again on purpose predicts again.
    """

    def __init__(
        self,
        client: KumoClient,
        request: BatchPredictionRequest,
        context: dg.AssetExecutionContext,
        partition_key: str | None,
    ) -> None:
        self._client = client
        self._request = request
        self._context = context
        self._partition_key = partition_key
        self._key = _launch_key(request, context, partition_key)
        self.attached = False
        """Whether the job was there already."""
        self.warnings: Sequence[ValidationIssue] = ()
        """What the server had to say about the request."""

    def run(self) -> str:
        """Attach or launch: the id of the job.

        Raises:
            KumoValidationError: the server refused the request.
            KumoConnectionError: no answer, and no job to be found that the request made.
        """
        existing = self._find()
        if existing is not None:
            self.attached = True
            return existing
        tags = {**self._request.job_tags, **_tags(self._context, self._partition_key)}
        job_id, self.warnings = self._client.create_prediction_job(
            self._request.model_copy(update={"job_tags": {**tags, LAUNCH_KEY_TAG: self._key}}),
            find=self._find,
        )
        return job_id

    def cancel(self) -> None:
        """Cancel the job, also when the launch was interrupted before its id was known."""
        job_id = self._find()
        if job_id is not None:
            self._client.cancel_prediction_job(job_id)

    def _find(self) -> str | None:
        # The tags are looked at again: a server may ignore a filter that it does not know.
        for job in self._client.list_prediction_jobs({LAUNCH_KEY_TAG: self._key}):
            if (
                job.tags.get(LAUNCH_KEY_TAG) == self._key
                and job.job_status_report.status not in (FAILED, CANCELLED)
                and not _delivered(self._context, self._partition_key, job.job_id)
            ):
                return job.job_id
        return None


def note_on_run(context: dg.AssetExecutionContext, partition_key: str | None, job_id: str) -> None:
    """Write the job's id to the run's own tags, where a person and a later attempt find it."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", context.assets_def.op.name)
    if partition_key is not None and len(context.partition_keys) > 1:
        name += "." + re.sub(r"[^A-Za-z0-9_.-]", "_", partition_key)
    context.instance.add_run_tags(context.run.run_id, {f"dagster-kumo/job.{name}"[:76]: job_id})


def _launch_key(
    request: BatchPredictionRequest, context: dg.AssetExecutionContext, partition_key: str | None
) -> str:
    identity = {
        "assets": sorted(key.to_user_string() for key in context.assets_def.keys),
        "partition": partition_key,
        "root_run": context.run.root_run_id or context.run.run_id,
        "request": request.to_json(),
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


def _delivered(context: dg.AssetExecutionContext, partition_key: str | None, job_id: str) -> bool:
    """Whether every selected asset has been materialized from this job."""
    return all(
        job_id in materialized_job_ids(context.instance, key, partition_key)
        for key in context.selected_asset_keys
    )


def materialized_job_ids(
    instance: dg.DagsterInstance,
    asset_key: dg.AssetKey,
    partition_key: str | None,
    *,
    limit: int = MATERIALIZATIONS_LOOKED_AT,
) -> list[str]:
    """The prediction jobs behind an asset's materializations, newest first."""
    partitions = None if partition_key is None else [partition_key]
    found = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=asset_key, asset_partitions=partitions), limit=limit
    )
    job_ids: list[str] = []
    for record in found.records:
        materialization = record.asset_materialization
        entry = materialization.metadata.get(JOB_ID_METADATA) if materialization else None
        if entry is not None and isinstance(entry.value, str):
            job_ids.append(entry.value)
    return job_ids
