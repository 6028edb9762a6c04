"""The launches of prediction jobs and of the jobs that make their prediction tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from dagster_kumo.api.client import KumoClient
from dagster_kumo.api.connectors import kept_by_kumo
from dagster_kumo.api.errors import KumoValidationError
from dagster_kumo.api.records import (
    OUTPUT_TYPES,
    BatchPredictionRequest,
)
from dagster_kumo.execution.launch.attempt import Attempt
from dagster_kumo.execution.launch.base import Find, TaggedLaunch
from dagster_kumo.execution.metadata import JOB_ID_METADATA, TABLE_JOB_ID_METADATA
from dagster_kumo.jobs.batch_prediction import EMBEDDINGS_BY_A_CONNECTOR, BatchPredictionJob
from dagster_kumo.jobs.prediction_table import PredictionTableJob


class PredictionLaunch(TaggedLaunch):
    """The launch of a prediction job, from which `outputs` are made."""

    kind = "prediction job"
    handle = BatchPredictionJob
    listed = staticmethod(KumoClient.list_prediction_jobs)
    run_tag = "dagster/kumo_job"

    def __init__(
        self,
        client: KumoClient,
        request: BatchPredictionRequest,
        attempt: Attempt,
        partition_key: str | None,
        outputs: Sequence[dg.AssetKey],
    ) -> None:
        # An earlier attempt may have asked for embeddings too, and have delivered those.
        all_outputs = request.model_copy(update={"outputs": list(map(kept_by_kumo, OUTPUT_TYPES))})
        super().__init__(
            attempt,
            partition_key,
            request.to_json(),
            assets=outputs,
            delivered_in=dict.fromkeys(outputs, JOB_ID_METADATA),
            wider_request=None if request.outputs else all_outputs.to_json(),
        )
        self._client = client
        self.request = request

    def _create_tagged(self, tags: Mapping[str, str], find: Find) -> str:
        request = self.request.model_copy(update={"job_tags": {**self.request.job_tags, **tags}})
        try:
            job_id, self.warnings = self._client.create_prediction_job(request, find=find)
        except KumoValidationError as error:
            if not request.outputs:
                raise
            # Requesting embeddings is the newest field of a launch.
            raise KumoValidationError(
                f"{error}\nEmbeddings were asked for. {EMBEDDINGS_BY_A_CONNECTOR}",
                status_code=error.status_code,
                detail=error.detail,
                errors=error.errors,
            ) from None
        return job_id


class TableLaunch(TaggedLaunch):
    """The launch of a job that makes a prediction table.

    The table is delivered when the outputs that are predicted from it are: a retry predicts from the
    same table, and so attaches to the same prediction job. Without outputs it is delivered by itself.
    """

    kind = "prediction table job"
    handle = PredictionTableJob
    listed = staticmethod(KumoClient.list_prediction_table_jobs)
    run_tag = "dagster/kumo_prediction_table_job"

    def __init__(
        self,
        client: KumoClient,
        request: Mapping[str, Any],
        job_tags: Mapping[str, str],
        attempt: Attempt,
        partition_key: str | None,
        *,
        table: dg.AssetKey,
        outputs: Sequence[dg.AssetKey],
    ) -> None:
        super().__init__(
            attempt,
            partition_key,
            request,
            assets=[table],
            delivered_in=dict.fromkeys(outputs, TABLE_JOB_ID_METADATA) or {table: JOB_ID_METADATA},
        )
        self._client = client
        self._request = request
        self._job_tags = job_tags

    def _create_tagged(self, tags: Mapping[str, str], find: Find) -> str:
        return self._client.create_prediction_table_job(
            **self._request, job_tags={**self._job_tags, **tags}, find=find
        )
