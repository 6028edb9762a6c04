"""Kumo's job API, one method for each call."""

from __future__ import annotations

import copy
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from dagster_kumo.api.errors import (
    KumoAPIError,
    KumoValidationError,
    ValidationIssue,
)
from dagster_kumo.api.rate_limit import RateLimit, rate_limit
from dagster_kumo.api.records import (
    BatchPredictionJobResource,
    BatchPredictionRequest,
    Cancelled,
    CreatedExport,
    CreatedJob,
    EmbeddingUrls,
    ErrorItems,
    Group,
    JobProgress,
    OutputType,
    PredictionTableJobResource,
    PredictionUrls,
    PredictiveQuery,
    Project,
    TrainingJobResource,
    Updated,
    UTCDatetime,
    ValidationResponse,
    parse_answer,
)
from dagster_kumo.api.retry import Failure, looks_until
from dagster_kumo.api.snowflake import SessionTokenAuth, SnowflakeAccount
from dagster_kumo.api.transport import ApiKeyAuth, NoAuth, Transport, is_http_url

# The SDK asks for 10. More is needed, because a server may ignore the filter by tags.
LIST_LIMIT = 100
LAUNCH_SETTLING_TIME = 10.0

_CUSTOMER = re.compile(r"[A-Za-z0-9._-]+")


class KumoClient:
    """A connection to one Kumo deployment.

    Args:
        url: the API's address, for example `https://<customer_id>.kumoai.cloud/api`. Falls back to
            `KUMO_API_ENDPOINT`, then to the customer that the key names.
        api_key: `<customer_id>:<secret>`. Falls back to `KUMO_API_KEY`.
        snowflake: instead of a key, for a deployment in Snowpark Container Services: `user`,
            `account`, and `password` or `private_key` (with `private_key_passphrase`), as the SDK's
            `snowflake_credentials`; and `host` where the account is reached by a private link.
        group: the group to work in, by name or id, where the deployment has groups (RBAC).
        project: the project to work in, by name or id.
        request_timeout: seconds after which a request counts as lost: without a byte, or almost
            none, from the server, and also from the start of an answer to its end. The transfer of a
            file may take longer, as long as data keep coming.
        request_max_retries: how often a request is repeated after 408, 429, 5xx or a broken
            connection, with growing waits; the default keeps trying for about two minutes.
        max_requests_per_second: how many calls to the API per second all processes of this user on
            this machine may make together. Downloads of files do not count.
        launch_settling_time: seconds after its launch until a job is in all of the server's answers.
            Until then, a 404 for a job that this client launched is requested again, and a launch whose
            answer was lost is looked for before it is repeated.
        verify_ssl: False accepts any certificate; a path names a bundle of CAs to trust.

    Raises:
        ValueError: the key or the address is missing or malformed, or the rate is not above zero.

    Examples:
        >>> client = KumoClient(api_key="acme:...")  # doctest: +SKIP
        >>> client.get_prediction_job("bp-job-1").job_status_report.status  # doctest: +SKIP
        'DONE'
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        snowflake: Mapping[str, str | None] | None = None,
        group: str | None = None,
        project: str | None = None,
        request_timeout: float = 60.0,
        request_max_retries: int = 8,
        max_requests_per_second: float | None = None,
        launch_settling_time: float = LAUNCH_SETTLING_TIME,
        verify_ssl: bool | str = True,
    ) -> None:
        url = url or os.getenv("KUMO_API_ENDPOINT")
        self.snowflake = SnowflakeAccount(snowflake) if snowflake is not None else None
        """The account that the deployment runs in; None for one that takes an API key."""
        if self.snowflake is None:
            key = _checked_key(api_key or os.getenv("KUMO_API_KEY"))
            url = url or _url_of_customer(key)
            auth = ApiKeyAuth(key)
        elif api_key:
            raise ValueError("Give an api_key or snowflake credentials, and not both.")
        else:
            auth = SessionTokenAuth(self.snowflake)
        self.url = _checked_url(url)
        if isinstance(verify_ssl, str) and not Path(verify_ssl).exists():
            raise ValueError(f"verify_ssl names a bundle of CAs that is not there: {verify_ssl}")
        self._group = group
        self._project = project
        self._scope: dict[str, str] | None = None
        self.launch_settling_time = launch_settling_time
        """Seconds after its launch until a job is in all of the server's answers."""
        self._settled_at: dict[str, float] = {}  # of each job that this client launched

        def transport(auth: NoAuth, limit: RateLimit | None = None) -> Transport:
            return Transport(
                auth,
                request_timeout=request_timeout,
                request_max_retries=request_max_retries,
                verify_ssl=verify_ssl,
                rate_limit=limit,
            )

        rate = max_requests_per_second
        self._api = transport(auth, None if rate is None else rate_limit(self.url, rate))
        self.files = transport(NoAuth())
        """For presigned urls: they need no key, and other hosts must not get it."""

    def __repr__(self) -> str:
        return f"KumoClient(url={self.url!r})"

    # Connection

    def with_limits(self, *, timeout: float, before_request: Callable[[], None]) -> KumoClient:
        """The same connection, for a caller that has little time and calls again soon, such as a sensor.

        Args:
            timeout: seconds after which a request fails. It is not sent again.
            before_request: called before each request. If it raises, the request is not sent.
        """
        limited = copy.copy(self)
        limited._api = self._api.with_limits(timeout=timeout, before_request=before_request)
        return limited

    def check(self) -> None:
        """Ask the server whether it accepts the key.

        Raises:
            KumoAuthenticationError: it does not.
        """
        self._get("/connectors")

    def list_groups(self) -> list[Group] | None:
        """The groups that the key belongs to; None where the deployment has no groups."""
        if not self._has_groups():
            return None
        answer = self._api.call("GET", f"{self.url}/v1/groups")
        return parse_answer(list[Group], answer, source="The list of groups")

    def list_projects(self, group_id: str) -> list[Project]:
        """The projects of a group."""
        answer = self._api.call("GET", f"{self.url}/v1/projects", params={"group_id": group_id})
        return parse_answer(list[Project], answer, source="The list of projects")

    def public_url(self, tracking_url: str) -> str:
        """A job's tracking url as a browser can open it.

        The server names an internal host. It is replaced by scheme and host of the deployment's
        address. Anything but an http address is returned as it is.
        """
        if "http" not in tracking_url:
            return tracking_url
        here = urlsplit(self.url)
        try:
            told = urlsplit(tracking_url)
        except ValueError:
            return tracking_url
        return urlunsplit(told._replace(scheme=here.scheme, netloc=here.netloc))

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
            KumoValidationError: the server refused it; `.errors` says why.
        """
        answer = self._post(
            "/prediction_jobs",
            request.to_json(),
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
        """How far a prediction job is. With `repeat=False` the request is not retried."""
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

    def create_export(self, job_id: str, output: Mapping[str, Any]) -> str:
        """Start an export of a prediction job's output to a connector, and return the export job's id.

        Sent only once: the API cannot list exports, so nobody can find out whether one was accepted.
        """
        body = {
            "job_id": _id(job_id, "prediction job"),
            "prediction_output": dict(output),
            "training_table_output": None,
            "model_output": None,
        }
        answer = self._post("/artifact", body, repeat=False)
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
        answer = self._get(path, {"presigned": "True"})
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

    def get_holdout_url(self, job_id: str) -> str:
        """Where the holdout data of a training job is: a presigned url on SaaS."""
        url = f"{self.url}/v1/training_jobs/{_id(job_id, 'training job')}/holdout"
        params = {"presigned": "true", **self._group_and_project()}
        # Not JSON; but quotes around it do no harm.
        return str(self._api.call("GET", url, params=params, as_text=True)).strip().strip('"')

    def get_predictive_query(self, pquery_id: str) -> PredictiveQuery:
        """A predictive query: its text and its graph."""
        answer = self._get(f"/predictive_queries/{_id(pquery_id, 'predictive query')}")
        return parse_answer(PredictiveQuery, answer, source=f"Predictive query {pquery_id}")

    # The wire

    def _update_tags(self, path: str, tags: Mapping[str, str | None]) -> bool:
        params = {key: "none" if value is None else value for key, value in tags.items()}
        answer = self._call("PATCH", f"{path}/tags", params=params)
        return parse_answer(Updated, answer, source=f"Tagging {path}").resource_updated

    def _get(self, path: str, params: Mapping[str, str] | None = None) -> Any:
        return self._call("GET", path, params=params)

    def _post(
        self,
        path: str,
        body: object = None,
        *,
        repeat: bool = True,
        recover: Callable[[Failure], Any] | None = None,
    ) -> Any:
        return self._call("POST", path, body=body, repeat=repeat, recover=recover)

    def _call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: object = None,
        repeat: bool = True,
        recover: Callable[[Failure], Any] | None = None,
    ) -> Any:
        settled_at = max(self._settled_at.get(part, 0.0) for part in path.split("/"))
        missing: KumoAPIError | None = None
        for _ in looks_until(settled_at):
            try:
                return self._api.call(
                    method,
                    f"{self.url}/v1{path}",
                    params={**(params or {}), **self._group_and_project()},
                    body=body,
                    repeat=repeat,
                    recover=recover,
                )
            except KumoAPIError as error:
                if error.status_code != 404:
                    raise
                missing = error
        assert missing is not None
        raise missing

    def _launched(self, job_id: str) -> str:
        """Take a job as one that the server may not show yet."""
        self._settled_at[quote(job_id, safe="")] = time.monotonic() + self.launch_settling_time
        return job_id

    def _recover(
        self, find: Callable[[], str | None] | None, answer: Callable[[str], Any]
    ) -> Callable[[Failure], Any] | None:
        """What looks for a job whose launch was not answered: over the settling time if it may be there."""
        if find is None:
            return None

        def recover(failure: Failure) -> Any:
            seconds = self.launch_settling_time if failure.may_have_been_carried_out else 0.0
            for _ in looks_until(time.monotonic() + seconds):
                if (job_id := find()) is not None:
                    return answer(job_id)
            return None

        return recover

    def _group_and_project(self) -> dict[str, str]:
        """The query parameters of every call, if the deployment has groups."""
        if self._scope is None:
            groups = self.list_groups()
            self._scope = {} if groups is None else self._scope_in(groups)
        return self._scope

    def _has_groups(self) -> bool:
        if (told := os.getenv("RBAC_ENABLED")) is not None:  # comes first, as in the SDK
            return told.lower() == "true"
        try:
            flags = self._api.call("GET", f"{self.url}/config")
        except KumoAPIError as error:
            if error.status_code == 404:  # an older server has no feature flags
                return False
            raise
        return isinstance(flags, dict) and bool(flags.get("rbac"))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType] - any JSON can come here

    def _scope_in(self, groups: Sequence[Group]) -> dict[str, str]:
        if self._group is not None:
            group_id = _pick("group", self._group, groups)
        elif len(groups) == 1:
            group_id = groups[0].id
        else:
            belongs = f"several groups ({_names(groups)}): name one with group=" if groups else ""
            raise ValueError(f"The key belongs to {belongs or 'no group: ask for one in Kumo'}.")
        if self._project is None:
            return {"group_id": group_id}
        projects = self.list_projects(group_id)
        return {"group_id": group_id, "project_id": _pick("project", self._project, projects)}


def _pick(kind: str, wanted: str, there: Sequence[Group | Project]) -> str:
    """The id of the one whose id or name is `wanted`."""
    for item in there:
        if wanted in (item.id, item.display_name):
            return item.id
    raise ValueError(f"There is no {kind} {wanted!r}; there are: {_names(there) or 'none'}.")


def _names(items: Sequence[Group | Project]) -> str:
    return ", ".join(item.display_name or item.id for item in items)


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


def _checked_key(key: str | None) -> str:
    if not key or not key.strip():
        raise ValueError(
            "There is no Kumo API key: pass api_key=, or set the environment variable KUMO_API_KEY."
        )
    if not key.isascii() or any(ord(c) <= 32 for c in key):
        # Checked here, because requests would put the key into its own message.
        raise ValueError(
            "The Kumo API key holds white space or another character that no key has. "
            "Was it copied with its line break?"
        )
    return key


def _url_of_customer(key: str) -> str:
    customer, separator, _ = key.partition(":")
    if not separator or not _CUSTOMER.fullmatch(customer):
        raise ValueError(
            "The address of the Kumo API is not known: the key is not of the form "
            "<customer_id>:<secret>, so pass url=, or set KUMO_API_ENDPOINT."
        )
    return f"https://{customer}.kumoai.cloud/api"


def _checked_url(url: str | None) -> str:
    if not url:
        raise ValueError(
            "The address of the Kumo API is not known: pass url=, or set KUMO_API_ENDPOINT. In Snowflake "
            "it is the endpoint of Kumo's service, as SHOW ENDPOINTS tells it, with its path."
        )
    url = url.strip()
    if not is_http_url(url) or re.search(r"[\s?#@]", url):
        # It is not shown: it may hold a password, or be the key in the wrong place.
        raise ValueError(
            "The address of the Kumo API is like https://<customer_id>.kumoai.cloud/api: http or https, "
            "a host, a path, and neither password nor query. What is given as url= or in "
            "KUMO_API_ENDPOINT is not. The key goes into api_key=."
        )
    return url.rstrip("/").removesuffix("/v1")
