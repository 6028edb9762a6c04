"""A connection to one Kumo deployment: the login, the project, and how calls are sent."""

from __future__ import annotations

import copy
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from typing_extensions import Self

from dagster_kumo.api.address import checked_key, checked_url, url_of_customer, with_host_of
from dagster_kumo.api.errors import KumoNotFoundError
from dagster_kumo.api.generations import Generation, Generation2, find_generation
from dagster_kumo.api.rate_limit import RateLimit, rate_limit
from dagster_kumo.api.records import Group, Project, parse_answer
from dagster_kumo.api.retry import Failure, looks_until
from dagster_kumo.api.snowflake import SessionTokenAuth, SnowflakeAccount
from dagster_kumo.api.transport import ApiKeyAuth, NoAuth, NoKey, Transport

LAUNCH_SETTLING_TIME = 10.0


class Connection:
    """What `KumoClient` is without the calls about jobs; the arguments are its own."""

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
            key = checked_key(api_key or os.getenv("KUMO_API_KEY"))
            url = url or url_of_customer(key)
            auth = NoKey() if key is None else ApiKeyAuth(key)
        elif api_key:
            raise ValueError("Give an api_key or snowflake credentials, and not both.")
        else:
            auth = SessionTokenAuth(self.snowflake)
        self.url = checked_url(url)
        if isinstance(verify_ssl, str) and not Path(verify_ssl).exists():
            raise ValueError(f"verify_ssl names a CA bundle that does not exist: {verify_ssl}")
        self._group = group
        self._project = project
        self._generation: Generation | None = None
        self._asks_generation = threading.Lock()
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
        return f"{type(self).__name__}(url={self.url!r})"

    def with_limits(self, *, timeout: float, before_request: Callable[[], None]) -> Self:
        """The same connection, for a caller that has little time and calls again soon, such as a sensor.

        Args:
            timeout: Seconds after which a request fails. It is not sent again.
            before_request: Called before each request. If it raises, the request is not sent.
        """
        limited = copy.copy(self)
        limited._api = self._api.with_limits(timeout=timeout, before_request=before_request)
        return limited

    @property
    def generation(self) -> Generation:
        """The generation of the API that the server speaks; asked for once.

        Raises:
            KumoAPIError: The key is not accepted, or the server cannot tell now.
            ValueError: There is no such group or project.
        """
        with self._asks_generation:
            if self._generation is None:
                # The SDK of 3.0 knows no deployment in Snowpark Container Services.
                self._generation = (
                    Generation2(self._ask, self._group, self._project)
                    if self.snowflake is not None
                    else find_generation(self._ask, group=self._group, project=self._project)
                )
            return self._generation

    def check(self) -> None:
        """Ask the server whether it accepts the key.

        Raises:
            KumoAuthenticationError: It does not.
        """
        self.generation.check()

    def list_groups(self) -> list[Group] | None:
        """The groups that the key belongs to; None if the deployment has no groups."""
        return self.generation.groups()

    def list_projects(self, group_id: str) -> list[Project]:
        """The projects of a group."""
        return self.generation.projects(group_id)

    @property
    def web_url(self) -> str:
        """The deployment's web UI."""
        return with_host_of(self.url, "http://kumo/")

    def public_url(self, tracking_url: str) -> str:
        """A job's tracking url as a browser can open it."""
        return with_host_of(self.url, tracking_url)

    # The wire

    def _ask(self, path: str, params: Mapping[str, str] | None) -> Any:
        """Ask outside any scope."""
        return self._api.call("GET", f"{self.url}{path}", params=params)

    def _call(
        self,
        method: str,
        path: str,
        kind: Any,
        source: str,
        *,
        params: Mapping[str, str] | None = None,
        body: object = None,
        repeat: bool = True,
        recover: Callable[[Failure], Any] | None = None,
    ) -> Any:
        """Call the API in the scope of the project, and read the answer as `kind`; messages call it `source`."""
        settled_at = max(self._settled_at.get(part, 0.0) for part in path.split("/"))
        missing: KumoNotFoundError | None = None
        for _ in looks_until(settled_at):
            try:
                answer = self._api.call(
                    method,
                    f"{self.url}/v1{path}",
                    params={**(params or {}), **self.generation.scope()},
                    body=body,
                    repeat=repeat,
                    recover=recover,
                )
                self._api.has_been_accepted = True
                return parse_answer(kind, answer, source=source)
            except KumoNotFoundError as error:
                missing = error
        assert missing is not None
        raise missing

    def _launched(self, job_id: str) -> str:
        """Remember a job that the server may not show yet."""
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
