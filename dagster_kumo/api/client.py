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
    parse_answer,
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
        answer = self._post(
            "/prediction_jobs",
            self.generation.launch(request),
            repeat=False,
            recover=self._recover(find, lambda job_id: [job_id, {}]),
        )
        job_id, said = parse_answer(
            tuple[str | None, ValidationResponse], answer, source="The launch of a prediction job"
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
        answer = self._get(f"/prediction_jobs/{_id(job_id, 'prediction job')}")
        return parse_answer(BatchPredictionJobResource, answer, source=f"Prediction job {job_id}")

    def list_prediction_jobs(
        self,
        tags: Mapping[str, str] | None = None,
        *,
        status: str | None = None,
        limit: int = LIST_LIMIT,
    ) -> list[BatchPredictionJobResource]:
        """Prediction jobs that carry `tags`, newest first."""
        answer = self._get("/prediction_jobs", _filters(tags, status, limit))
        return parse_answer(
            list[BatchPredictionJobResource], answer, source="The list of prediction jobs"
        )

    def get_prediction_progress(self, job_id: str, *, repeat: bool = True) -> JobProgress:
        """The progress of a prediction job. With `repeat=False` the request is not retried."""
        path = f"/prediction_jobs/{_id(job_id, 'prediction job')}/progress"
        answer = self._call("GET", path, repeat=repeat)
        return parse_answer(JobProgress, answer, source=f"The progress of {job_id}")

    def cancel_prediction_job(self, job_id: str) -> bool:
        """Cancel a prediction job, and return whether it is cancelled."""
        answer = self._post(f"/prediction_jobs/{_id(job_id, 'prediction job')}/cancel")
        return parse_answer(Cancelled, answer, source=f"Cancelling {job_id}").is_cancelled

    def update_prediction_job_tags(self, job_id: str, tags: Mapping[str, str | None]) -> bool:
        """Set tags of a prediction job, or remove those whose value is None."""
        return self._update_tags(f"/prediction_jobs/{_id(job_id, 'prediction job')}", tags)

    def get_output_urls(self, job_id: str, output_type: OutputType) -> list[str]:
        """The urls of an output's files: one Parquet file each, or a directory of them.

        On SaaS these are presigned urls that expire after about an hour: treat them as secrets.
        """
        path, kind = {
            "predictions": ("get_prediction_df_urls", PredictionUrls),
            "embeddings": ("get_embedding_df_urls", EmbeddingUrls),
        }[output_type]
        answer = self._get(f"/prediction_jobs/{_id(job_id, 'prediction job')}/{path}")
        return parse_answer(
            kind, answer, source=f"The list of {output_type} files of {job_id}"
        ).urls

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

        def check(failure: Failure) -> None:
            del failure
            if before_repeat is not None:
                before_repeat()

        answer = self._post(
            "/artifact",
            body,
            repeat=self.generation.knows_repeated_exports,
            recover=check if self.generation.knows_repeated_exports else None,
        )
        return self._launched(parse_answer(CreatedExport, answer, source="The export").job_id)

    def get_export_status(self, export_id: str) -> str:
        """An export job's status."""
        answer = self._get(f"/artifact/{_id(export_id, 'export job')}")
        return parse_answer(str, answer, source=f"Export job {export_id}")

    def cancel_export(self, export_id: str) -> str:
        """Cancel an export job, and return its status."""
        answer = self._post(f"/artifact/{_id(export_id, 'export job')}/cancel")
        return parse_answer(str, answer, source=f"Cancelling export job {export_id}")

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
        answer = self._post(
            "/genpredtable_jobs",
            body,
            repeat=False,
            recover=self._recover(find, lambda job_id: {"id": job_id}),
        )
        return self._launched(
            parse_answer(CreatedJob, answer, source="The prediction table job").id
        )

    def get_prediction_table_job(self, job_id: str) -> PredictionTableJobResource:
        """A prediction table job with its status and plan."""
        answer = self._get(f"/genpredtable_jobs/{_id(job_id, 'prediction table job')}")
        return parse_answer(
            PredictionTableJobResource, answer, source=f"Prediction table job {job_id}"
        )

    def list_prediction_table_jobs(
        self, tags: Mapping[str, str] | None = None, *, limit: int = LIST_LIMIT
    ) -> list[PredictionTableJobResource]:
        """Prediction table jobs that carry `tags`, newest first."""
        answer = self._get("/genpredtable_jobs", _filters(tags, None, limit))
        return parse_answer(
            list[PredictionTableJobResource], answer, source="The list of prediction table jobs"
        )

    def get_prediction_table_anchor_time(self, job_id: str) -> datetime | None:
        """The anchor time of a generated prediction table."""
        path = f"/genpredtable_jobs/{_id(job_id, 'prediction table job')}/get_anchor_time"
        return parse_answer(
            UTCDatetime | None, self._get(path), source=f"The anchor time of {job_id}"
        )

    def get_prediction_table_urls(self, job_id: str) -> list[str]:
        """The urls of a prediction table's files; presigned on SaaS."""
        path = f"/genpredtable_jobs/{_id(job_id, 'prediction table job')}/table_data"
        answer = self._get(path, self.generation.files_query)
        return parse_answer(list[str], answer, source=f"The files of prediction table {job_id}")

    def update_prediction_table_job_tags(self, job_id: str, tags: Mapping[str, str | None]) -> bool:
        """Set tags of a prediction table job, or remove those whose value is None."""
        return self._update_tags(f"/genpredtable_jobs/{_id(job_id, 'prediction table job')}", tags)

    def cancel_prediction_table_job(self, job_id: str) -> None:
        """Cancel a prediction table job."""
        self._post(f"/genpredtable_jobs/{_id(job_id, 'prediction table job')}/cancel")

    def get_prediction_table_errors(self, job_id: str) -> list[str]:
        """Why a prediction table job failed, in the server's words."""
        path = f"/genpredtable_jobs/{_id(job_id, 'prediction table job')}/get_errors"
        answer = parse_answer(ErrorItems, self._get(path), source=f"The errors of {job_id}")
        return [str(item) for item in answer.items]

    # Models

    def create_training_job(
        self, request: Mapping[str, Any], *, find: Callable[[], str | None] | None = None
    ) -> str:
        """Launch a training job, and return its id, which also names the model.

        Training costs money, so the request is sent only once. With `find`, which looks for the job by its
        tags, it is repeated if the answer was lost and `find` returns None until the settling time is over.

        Args:
            request: The body, with a plan as this server gives or echoes it, if there is one.
            find: Looks for the job.
        """
        answer = self._post(
            "/training_jobs",
            self.generation.training(request),
            repeat=False,
            recover=self._recover(find, lambda job_id: {"id": job_id}),
        )
        return self._launched(parse_answer(CreatedJob, answer, source="The training job").id)

    def get_training_progress(self, job_id: str, *, repeat: bool = True) -> TrainingProgress:
        """The progress of a training job. With `repeat=False` the request is not retried."""
        path = f"/training_jobs/{_id(job_id, 'training job')}/progress"
        answer = self._call("GET", path, repeat=repeat)
        return parse_answer(TrainingProgress, answer, source=f"The progress of {job_id}")

    def cancel_training_job(self, job_id: str) -> bool:
        """Cancel a training job, and return whether it is cancelled."""
        answer = self._post(f"/training_jobs/{_id(job_id, 'training job')}/cancel")
        return parse_answer(Cancelled, answer, source=f"Cancelling {job_id}").is_cancelled

    def get_training_job(self, job_id: str) -> TrainingJobResource:
        """A training job with its tags and the metrics of its model."""
        answer = self._get(f"/training_jobs/{_id(job_id, 'training job')}")
        return parse_answer(TrainingJobResource, answer, source=f"Training job {job_id}")

    def list_training_jobs(
        self,
        tags: Mapping[str, str] | None = None,
        *,
        status: str | None = None,
        limit: int = LIST_LIMIT,
    ) -> list[TrainingJobResource]:
        """Training jobs that carry `tags`, newest first."""
        answer = self._get("/training_jobs", _filters(tags, status, limit))
        return parse_answer(list[TrainingJobResource], answer, source="The list of training jobs")

    def update_training_job_tags(self, job_id: str, tags: Mapping[str, str | None]) -> bool:
        """Set tags of a training job, or remove those whose value is None."""
        return self._update_tags(f"/training_jobs/{_id(job_id, 'training job')}", tags)

    def get_holdout_url(self, job_id: str) -> str:
        """Where the holdout data of a training job is: a presigned url on SaaS."""
        url = f"{self.url}/v1/training_jobs/{_id(job_id, 'training job')}/holdout"
        params = {**self.generation.files_query, **self.generation.scope()}
        # Not JSON; but quotes around it do no harm.
        return str(self._api.call("GET", url, params=params, as_text=True)).strip().strip('"')

    def get_predictive_query(self, pquery_id: str) -> PredictiveQuery:
        """A predictive query by its id or name: its text and its graph."""
        answer = self._get(f"/predictive_queries/{_id(pquery_id, 'predictive query')}")
        return parse_answer(PredictiveQuery, answer, source=f"Predictive query {pquery_id}")

    def suggest_model_plan(self, query: str, graph_id: str, run_mode: str) -> Any:
        """The plan that the server suggests for training a query's model, as it gives it.

        Args:
            query: The text of the query.
            graph_id: The graph that it reads.
            run_mode: `fast`, `normal`, `best` or `debug`.
        """
        body = {"query_string": query, "graph_id": graph_id, "run_mode": run_mode}
        answer = self._post("/predictive_queries/model_plan", body)
        return parse_answer(SuggestedPlan, answer, source="The model plan").model_plan

    def create_graph(self, definition: Mapping[str, Any]) -> str:
        """The id of a graph. It comes from the definition, so a graph that is there is not made again."""
        answer = self._post("/graphs", definition)
        return parse_answer(CreatedJob, answer, source="The graph").id

    def refresh_graph_snapshot(self, graph_id: str) -> str:
        """Begin to read a graph's tables again, and return the id of the snapshot that this makes."""
        params = {"graph_id": graph_id, "refresh_source": "True"}
        answer = self._call("POST", "/graphsnapshots", params=params)
        return parse_answer(CreatedJob, answer, source=f"The snapshot of {graph_id}").id

    def _update_tags(self, path: str, tags: Mapping[str, str | None]) -> bool:
        params = {key: "none" if value is None else value for key, value in tags.items()}
        answer = self._call("PATCH", f"{path}/tags", params=params)
        return parse_answer(Updated, answer, source=f"Tagging {path}").resource_updated


def _filters(tags: Mapping[str, str] | None, status: str | None, limit: int) -> dict[str, str]:
    return {
        **(tags or {}),
        **({"job_status": status} if status else {}),
        "limit": str(limit),
    }


def _id(value: str, kind: str) -> str:
    """An id as a part of a path. It is checked, so that it cannot name another resource."""
    if not value or value.strip() in ("", ".", ".."):
        raise ValueError(f"The id of the {kind} is empty.")
    return quote(value, safe="")
