"""Kumo's job API, one method for each call."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote

from dagster_kumo.api.connection import Connection
from dagster_kumo.api.errors import KumoValidationError, ValidationIssue
from dagster_kumo.api.records import (
    BatchPredictionJobResource,
    BatchPredictionRequest,
    Cancelled,
    CreatedExport,
    CreatedJob,
    EmbeddingUrls,
    ErrorItems,
    JobProgress,
    OutputType,
    PredictionTableJobResource,
    PredictionUrls,
    PredictiveQuery,
    SuggestedPlan,
    TrainingJobResource,
    TrainingProgress,
    Updated,
    UTCDatetime,
    ValidationResponse,
)
from dagster_kumo.api.retry import Failure

# The SDK asks for 10. More is needed, because a server may ignore the filter by tags.
LIST_LIMIT = 100


class KumoClient(Connection):
    """A connection to one Kumo deployment.

    Args:
        url: The API's address, for example `https://<customer_id>.kumoai.cloud/api`. Falls back to
            `KUMO_API_ENDPOINT`, then to the customer that the key names.
        api_key: `<customer_id>:<secret>`. Falls back to `KUMO_API_KEY`. Without either, and with a
            `url`, no key is sent: a self-hosted deployment may need none.
        snowflake: Instead of a key, for a deployment in Snowpark Container Services: `user`,
            `account`, and `password` or `private_key` (with `private_key_passphrase`), as the SDK's
            `snowflake_credentials`; and `host` where the account is reached by a private link.
        group: The group to work in, by name or id, if the deployment has groups.
        project: The project to work in, by name or id; on a deployment that speaks the API of SDK 3.0
            also by its slug, and the default project when none is named.
        request_timeout: Seconds after which a request counts as lost: without a byte, or almost
            none, from the server, and also from the start of an answer to its end. The transfer of a
            file may take longer, as long as data keep coming.
        request_max_retries: How often a request is repeated after 408, 429, 5xx or a broken
            connection, with growing waits; the default keeps trying for about two minutes.
        max_requests_per_second: How many calls to the API per second all processes of this user on
            this machine may make together. Downloads of files do not count.
        launch_settling_time: Seconds after its launch until a job is in all of the server's answers.
            Until then, a 404 for a job that this client launched is requested again, and a launch whose
            answer was lost is looked for before it is repeated.
        verify_ssl: False accepts any certificate; a path names a bundle of CAs to trust.

    Raises:
        ValueError: The key or the address is missing or malformed, or the rate is not above zero.

    Examples:
        >>> client = KumoClient(api_key="acme:...")  # doctest: +SKIP
        >>> client.get_prediction_job("bp-job-1").job_status_report.status  # doctest: +SKIP
        'DONE'
    """

    # Batch prediction jobs

    def create_prediction_job(
        self,
        request: BatchPredictionRequest,
        *,
        find: Callable[[], str | None] | None = None,
    ) -> tuple[str, list[ValidationIssue]]:
        """Launch a prediction job: its id, and the server's warnings.

        A launch costs money, so it is sent only once. With `find`, which looks for the job by its tags, it
        is repeated if the answer was lost and `find` returns None until the settling time is over.

        Raises:
            KumoValidationError: The server refused it; `.errors` says why.
        """
        job_id, said = self._call(
            "POST",
            "/prediction_jobs",
            tuple[str | None, ValidationResponse],
            "The launch of a prediction job",
            body=self.generation.launch(request),
            repeat=False,
            recover=self._recover(find, lambda job_id: [job_id, {}]),
        )
        if said.errors or not job_id:
            reasons = "; ".join(map(str, said.errors)) or "Kumo gave neither a reason nor a job id"
            raise KumoValidationError(
                f"Kumo refused to launch the prediction job: {reasons}",
                status_code=200,
                detail=reasons,
                errors=said.errors,
            )
        return self._launched(job_id), list(said.warnings)

    def get_prediction_job(self, job_id: str) -> BatchPredictionJobResource:
        """A prediction job with its status, tags, config and summary."""
        source = f"Prediction job {job_id}"
        return self._call("GET", _prediction_job(job_id), BatchPredictionJobResource, source)

    def list_prediction_jobs(
        self,
        tags: Mapping[str, str] | None = None,
        *,
        status: str | None = None,
        limit: int = LIST_LIMIT,
    ) -> list[BatchPredictionJobResource]:
        """Prediction jobs that carry `tags`, newest first."""
        kind, source = list[BatchPredictionJobResource], "The list of prediction jobs"
        return self._list("/prediction_jobs", kind, source, tags, status, limit)

    def get_prediction_progress(self, job_id: str, *, repeat: bool = True) -> JobProgress:
        """The progress of a prediction job. With `repeat=False` the request is not retried."""
        path, source = f"{_prediction_job(job_id)}/progress", f"The progress of {job_id}"
        return self._call("GET", path, JobProgress, source, repeat=repeat)

    def cancel_prediction_job(self, job_id: str) -> bool:
        """Cancel a prediction job, and return whether it is cancelled."""
        return self._cancel(job_id, _prediction_job(job_id))

    def update_prediction_job_tags(self, job_id: str, tags: Mapping[str, str | None]) -> bool:
        """Set tags of a prediction job, or remove those whose value is None."""
        return self._update_tags(_prediction_job(job_id), tags)

    def get_output_urls(self, job_id: str, output_type: OutputType) -> list[str]:
        """The urls of an output's files: one Parquet file each, or a directory of them.

        On SaaS these are presigned urls that expire after about an hour: treat them as secrets.
        """
        path, kind = {
            "predictions": ("get_prediction_df_urls", PredictionUrls),
            "embeddings": ("get_embedding_df_urls", EmbeddingUrls),
        }[output_type]
        source = f"The list of {output_type} files of {job_id}"
        return self._call("GET", f"{_prediction_job(job_id)}/{path}", kind, source).urls

    # Exports

    def create_export(
        self,
        job_id: str,
        output: Mapping[str, Any],
        *,
        request_id: str | None = None,
        before_repeat: Callable[[], None] | None = None,
    ) -> str:
        """Start writing an output of a prediction job to a connector: the export job's id.

        The API cannot list exports. A server that tells a repeated request by its `request_id` is
        asked again when the answer is lost; any other is asked once.

        Args:
            job_id: The prediction job.
            output: The output, as `prediction_output` describes it.
            request_id: A UUID that stands for this one export; by default a new one.
            before_repeat: Called before the request is sent again; what it raises keeps it from being sent.
        """
        body = {
            "request_id": request_id or str(uuid.uuid4()),
            "job_id": _id(job_id, "prediction job"),
            "prediction_output": self.generation.output(output),
        }

        def check(_: Failure) -> None:
            if before_repeat is not None:
                before_repeat()

        repeat = self.generation.knows_repeated_exports
        recover = check if repeat else None
        created = self._call(
            "POST",
            "/artifact",
            CreatedExport,
            "The export",
            body=body,
            repeat=repeat,
            recover=recover,
        )
        return self._launched(created.job_id)

    def get_export_status(self, export_id: str) -> str:
        """An export job's status."""
        path = f"/artifact/{_id(export_id, 'export job')}"
        return self._call("GET", path, str, f"Export job {export_id}")

    def cancel_export(self, export_id: str) -> str:
        """Cancel an export job, and return its status."""
        path = f"/artifact/{_id(export_id, 'export job')}/cancel"
        return self._call("POST", path, str, f"Cancelling export job {export_id}")

    # Prediction tables

    def create_prediction_table_job(
        self,
        pquery_id: str,
        plan: Mapping[str, Any],
        *,
        job_tags: Mapping[str, str] | None = None,
        graph_snapshot_id: str | None = None,
        find: Callable[[], str | None] | None = None,
    ) -> str:
        """Launch a job that makes a prediction table, and return its id.

        Sent only once. With `find`, which looks for the job by its tags, it is repeated if the answer
        was lost and `find` returns None until the settling time is over.
        """
        body = {
            "job_tags": dict(job_tags or {}),
            "pquery_id": pquery_id,
            "plan": dict(plan),
            "graph_snapshot_id": graph_snapshot_id,
        }
        return self._launch("/genpredtable_jobs", "The prediction table job", body, find)

    def get_prediction_table_job(self, job_id: str) -> PredictionTableJobResource:
        """A prediction table job with its status and plan."""
        source = f"Prediction table job {job_id}"
        return self._call("GET", _table_job(job_id), PredictionTableJobResource, source)

    def list_prediction_table_jobs(
        self, tags: Mapping[str, str] | None = None, *, limit: int = LIST_LIMIT
    ) -> list[PredictionTableJobResource]:
        """Prediction table jobs that carry `tags`, newest first."""
        kind, source = list[PredictionTableJobResource], "The list of prediction table jobs"
        return self._list("/genpredtable_jobs", kind, source, tags, None, limit)

    def get_prediction_table_anchor_time(self, job_id: str) -> datetime | None:
        """The anchor time of a generated prediction table."""
        path, source = f"{_table_job(job_id)}/get_anchor_time", f"The anchor time of {job_id}"
        return self._call("GET", path, UTCDatetime | None, source)

    def get_prediction_table_urls(self, job_id: str) -> list[str]:
        """The urls of a prediction table's files; presigned on SaaS."""
        path, source = f"{_table_job(job_id)}/table_data", f"The files of prediction table {job_id}"
        return self._call("GET", path, list[str], source, params=self.generation.files_query)

    def update_prediction_table_job_tags(self, job_id: str, tags: Mapping[str, str | None]) -> bool:
        """Set tags of a prediction table job, or remove those whose value is None."""
        return self._update_tags(_table_job(job_id), tags)

    def cancel_prediction_table_job(self, job_id: str) -> None:
        """Cancel a prediction table job."""
        self._call("POST", f"{_table_job(job_id)}/cancel", Any, f"Cancelling {job_id}")

    def get_prediction_table_errors(self, job_id: str) -> list[str]:
        """Why a prediction table job failed, in the server's words."""
        path, source = f"{_table_job(job_id)}/get_errors", f"The errors of {job_id}"
        return [str(item) for item in self._call("GET", path, ErrorItems, source).items]

    # Models

    def create_training_job(
        self, request: Mapping[str, Any], *, find: Callable[[], str | None] | None = None
    ) -> str:
        """Launch a training job, and return its id, which also names the model.

        Training costs money, so the request is sent only once. With `find`, which looks for the job by its
        tags, it is repeated if the answer was lost and `find` returns None until the settling time is over.
        A plan in the `request` is as this server gives or echoes it.
        """
        body = self.generation.training(request)
        return self._launch("/training_jobs", "The training job", body, find)

    def get_training_progress(self, job_id: str, *, repeat: bool = True) -> TrainingProgress:
        """The progress of a training job. With `repeat=False` the request is not retried."""
        path, source = f"{_training_job(job_id)}/progress", f"The progress of {job_id}"
        return self._call("GET", path, TrainingProgress, source, repeat=repeat)

    def cancel_training_job(self, job_id: str) -> bool:
        """Cancel a training job, and return whether it is cancelled."""
        return self._cancel(job_id, _training_job(job_id))

    def get_training_job(self, job_id: str) -> TrainingJobResource:
        """A training job with its tags and the metrics of its model."""
        source = f"Training job {job_id}"
        return self._call("GET", _training_job(job_id), TrainingJobResource, source)

    def list_training_jobs(
        self,
        tags: Mapping[str, str] | None = None,
        *,
        status: str | None = None,
        limit: int = LIST_LIMIT,
    ) -> list[TrainingJobResource]:
        """Training jobs that carry `tags`, newest first."""
        kind, source = list[TrainingJobResource], "The list of training jobs"
        return self._list("/training_jobs", kind, source, tags, status, limit)

    def update_training_job_tags(self, job_id: str, tags: Mapping[str, str | None]) -> bool:
        """Set tags of a training job, or remove those whose value is None."""
        return self._update_tags(_training_job(job_id), tags)

    def get_holdout_url(self, job_id: str) -> str:
        """Where the holdout data of a training job is: a presigned url on SaaS."""
        url = f"{self.url}/v1{_training_job(job_id)}/holdout"
        params = {**self.generation.files_query, **self.generation.scope()}
        # Not JSON; but quotes around it do no harm.
        return str(self._api.call("GET", url, params=params, as_text=True)).strip().strip('"')

    def get_predictive_query(self, pquery_id: str) -> PredictiveQuery:
        """A predictive query by its id or name: its text and its graph."""
        path = f"/predictive_queries/{_id(pquery_id, 'predictive query')}"
        return self._call("GET", path, PredictiveQuery, f"Predictive query {pquery_id}")

    def suggest_model_plan(self, query: str, graph_id: str, run_mode: str) -> Any:
        """The plan that the server suggests for training a query's model, as it gives it.

        `query` is the query's text, `run_mode` is `fast`, `normal`, `best` or `debug`.
        """
        path = "/predictive_queries/model_plan"
        body = {"query_string": query, "graph_id": graph_id, "run_mode": run_mode}
        return self._call("POST", path, SuggestedPlan, "The model plan", body=body).model_plan

    def create_graph(self, definition: Mapping[str, Any]) -> str:
        """The id of a graph. It comes from the definition, so a graph that is there is not made again."""
        return self._call("POST", "/graphs", CreatedJob, "The graph", body=definition).id

    def refresh_graph_snapshot(self, graph_id: str) -> str:
        """Begin to read a graph's tables again, and return the id of the snapshot that this makes."""
        params = {"graph_id": graph_id, "refresh_source": "True"}
        source = f"The snapshot of {graph_id}"
        return self._call("POST", "/graphsnapshots", CreatedJob, source, params=params).id

    # What several kinds of jobs have

    def _launch(
        self, path: str, source: str, body: object, find: Callable[[], str | None] | None
    ) -> str:
        recover = self._recover(find, lambda job_id: {"id": job_id})
        created = self._call(
            "POST", path, CreatedJob, source, body=body, repeat=False, recover=recover
        )
        return self._launched(created.id)

    def _list(
        self,
        path: str,
        kind: Any,
        source: str,
        tags: Mapping[str, str] | None,
        status: str | None,
        limit: int,
    ) -> Any:
        params = {**(tags or {}), **({"job_status": status} if status else {}), "limit": str(limit)}
        return self._call("GET", path, kind, source, params=params)

    def _cancel(self, job_id: str, path: str) -> bool:
        source = f"Cancelling {job_id}"
        return self._call("POST", f"{path}/cancel", Cancelled, source).is_cancelled

    def _update_tags(self, path: str, tags: Mapping[str, str | None]) -> bool:
        params = {key: "none" if value is None else value for key, value in tags.items()}
        source = f"Tagging {path}"
        return self._call("PATCH", f"{path}/tags", Updated, source, params=params).resource_updated


def _prediction_job(job_id: str) -> str:
    return f"/prediction_jobs/{_id(job_id, 'prediction job')}"


def _table_job(job_id: str) -> str:
    return f"/genpredtable_jobs/{_id(job_id, 'prediction table job')}"


def _training_job(job_id: str) -> str:
    return f"/training_jobs/{_id(job_id, 'training job')}"


def _id(value: str, kind: str) -> str:
    """An id as a part of a path. It is checked, so that it cannot name another resource."""
    if not value or value.strip() in ("", ".", ".."):
        raise ValueError(f"The id of the {kind} is empty.")
    return quote(value, safe="")
