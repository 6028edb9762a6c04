"""HTTP requests with retries and timeouts; errors name the cause and never a secret."""

from __future__ import annotations

import copy
import json
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase

from dagster_kumo.api.errors import (
    KumoAPIError,
    KumoAuthenticationError,
    KumoConnectionError,
    KumoNotFoundError,
    KumoValidationError,
    without_query,
)
from dagster_kumo.api.logs import queries_hidden
from dagster_kumo.api.rate_limit import RateLimit
from dagster_kumo.api.retry import Failure, Retries, RetryPolicy, describe, should_retry
from dagster_kumo.api.stalling import StallGuard

CONNECT_TIMEOUT = 10.0  # seconds; a host that is up accepts a connection at once
MAX_ANSWER_BYTES = 64 * 1024**2  # of JSON; real answers, even lists of jobs, are far smaller
MAX_DETAIL_CHARS = 2_000  # of an error's text

NOT_JSON = (ValueError, RecursionError)  # RecursionError: thousands of nested brackets


class NoAuth(AuthBase):
    """Adds nothing. Without it, requests would look for the host in ~/.netrc."""

    advice = ""
    """What to check if the server answers 401 or 403."""
    advice_later = ""
    """What to check if it answers 401 after it has accepted the key."""

    def __call__(self, r: requests.PreparedRequest) -> requests.PreparedRequest:
        return r

    def hide_in(self, text: str) -> str:
        """`text` without the key or token, which a server may have echoed."""
        return text


class NoKey(NoAuth):
    """Adds nothing, for a deployment that asks for no key."""

    advice = "No API key is set: pass api_key=, or set the environment variable KUMO_API_KEY."


class ApiKeyAuth(NoAuth):
    """The header of every deployment that takes keys."""

    advice = "Check the API key (KUMO_API_KEY), and that it belongs to this deployment."
    advice_later = (
        "The API key was accepted before: it has been rotated or revoked since. Kumo's jobs go on. Set "
        "the new key (KUMO_API_KEY) and run again: a retry attaches to the jobs of this run."
    )

    def __init__(self, api_key: str) -> None:
        self._api_key = api_key

    def __call__(self, r: requests.PreparedRequest) -> requests.PreparedRequest:
        r.headers["X-API-Key"] = self._api_key
        return r

    def hide_in(self, text: str) -> str:
        return text.replace(self._api_key, "***")


class _Session(requests.Session):
    """Does not follow redirects, nor look where they lead: requests would read the whole body for that."""

    def get_redirect_target(self, resp: requests.Response) -> None:  # noqa: ARG002 - see the class
        return None


class Transport:
    """Sends requests. Each thread has its own `requests.Session`, because sessions are not thread-safe.

    Redirects are not followed: they could carry the key to another host.
    """

    def __init__(
        self,
        auth: NoAuth,
        *,
        request_timeout: float,
        request_max_retries: int,
        verify_ssl: bool | str = True,
        rate_limit: RateLimit | None = None,
    ) -> None:
        self._auth = auth
        self._rate_limit = rate_limit
        self._before_request: Callable[[], None] | None = None
        self._timeout = (min(CONNECT_TIMEOUT, request_timeout), request_timeout)
        self._policy = RetryPolicy.up_to(request_max_retries)
        self._verify = verify_ssl
        self._threads = threading.local()
        self.has_been_accepted = False
        """Whether the server has accepted the key. Set by a caller that knows that a call needs it."""

    def with_limits(self, *, timeout: float, before_request: Callable[[], None]) -> Transport:
        """The same connection with a shorter timeout and without retries; see `KumoClient.with_limits`."""
        limited = copy.copy(self)
        limited._timeout = (min(CONNECT_TIMEOUT, timeout), timeout)
        limited._policy = RetryPolicy.up_to(0)
        limited._before_request = before_request
        return limited

    def retries(self) -> Retries:
        """The retries of one request."""
        return Retries(self._policy)

    def call(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        repeat: bool = True,
        recover: Callable[[Failure], Any] | None = None,
        as_text: bool = False,
    ) -> Any:
        """Send a request and return the JSON that answers it, or with `as_text` the text.

        With `repeat=False` the request is sent once, because sending it twice could do harm.
        `recover` makes such a request repeatable. It is called after each attempt without an answer,
        finds out whether the request was carried out all the same, and returns what its answer would
        have been, or None.

        Raises:
            KumoConnectionError: No answer.
            KumoAPIError: An answer that is an error, or no JSON.
        """
        retries = self.retries() if repeat or recover else Retries(RetryPolicy.up_to(0))
        try:
            return retries.run(
                lambda: self._ask(method, url, params, body, as_text), recover=recover
            )
        except Failure as failure:
            if failure.response is None:
                error = self.no_answer(method, url, failure)
            else:
                error = self._refused(
                    method, url, failure.response, failure.content, attempts=failure.attempts
                )
            raise error from None

    @contextmanager
    def stream(
        self, url: str, headers: Mapping[str, str]
    ) -> Generator[requests.Response, None, None]:
        """Open a GET whose body is read piece by piece. The caller checks the status."""
        with self._send("GET", url, headers={"Accept-Encoding": "identity", **headers}) as response:
            yield response

    def no_answer(self, method: str, url: str, failure: Failure) -> KumoConnectionError:
        """The error for a request without an answer: how many attempts were made, and why they failed."""
        tries = "1 attempt" if failure.attempts == 1 else f"{failure.attempts} attempts"
        return KumoConnectionError(
            f"{method} {without_query(url)} got no answer after {tries}: {describe(failure.cause)}. "
            f"Is {_origin(url)} reachable from this machine?"
        )

    def _ask(
        self, method: str, url: str, params: Mapping[str, str] | None, body: Any, as_text: bool
    ) -> Any:
        """Send a request once: the JSON or the text that answers it.

        Raises:
            Failure: The status may be another one next time.
        """
        if self._rate_limit is not None:
            self._rate_limit.wait(self._before_request)
        elif self._before_request is not None:
            self._before_request()
        with self._send(method, url, params=params, body=body) as response:
            content = self._read_limited(response, without_query(url))
        if should_retry(response.status_code):
            raise Failure(response, content)
        if not 200 <= response.status_code < 300:
            raise self._refused(method, url, response, content)
        if as_text:
            return content.decode("utf-8", "replace")
        try:
            return self._parsed(content)
        except NOT_JSON:
            raise KumoAPIError(
                f"{method} {without_query(url)} answered {response.status_code} with something that is "
                f"not JSON. Is {_origin(url)} the address of a Kumo API?",
                status_code=response.status_code,
                detail=self._hidden(content.decode("utf-8", "replace")),
            ) from None

    def _send(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> requests.Response:
        session: requests.Session | None = getattr(self._threads, "session", None)
        if session is None:
            session = self._threads.session = _Session()
            session.mount("https://", StallGuard())
            session.mount("http://", StallGuard())
        try:
            with queries_hidden():
                return session.request(
                    method,
                    url,
                    params=params,
                    json=body,
                    headers=headers,
                    auth=self._auth,
                    timeout=self._timeout,
                    verify=self._verify,
                    allow_redirects=False,
                    stream=True,
                )
        except requests.exceptions.InvalidURL:
            raise KumoConnectionError(f"{without_query(url)} is not a valid address.") from None

    def _read_limited(self, response: requests.Response, url: str) -> bytes:
        chunks: list[bytes] = []
        size = 0
        began = time.monotonic()
        for chunk in response.iter_content(64 * 1024):
            chunks.append(chunk)
            size += len(chunk)
            if size > MAX_ANSWER_BYTES:
                raise KumoAPIError(
                    f"{url} answered with more than {MAX_ANSWER_BYTES // 1024**2} MB, which is more "
                    "than any call of Kumo's API returns.",
                    status_code=response.status_code,
                    detail="answer too large",
                )
            if time.monotonic() - began > self._timeout[1]:
                raise requests.Timeout
        return b"".join(chunks)

    def _parsed(self, content: bytes) -> Any:
        """The JSON as Python objects, without the key, which a job's details or warnings may quote.

        A lone surrogate, which no text can contain, becomes `?`.
        """
        text = self._auth.hide_in(content.decode("utf-8-sig"))
        parsed = json.loads(text)
        if "\\ud" in text.lower():
            parsed = json.loads(json.dumps(parsed, ensure_ascii=False).encode("utf-8", "replace"))
        return parsed

    def _hidden(self, text: str) -> str:
        shown = without_query(self._auth.hide_in(text))[:MAX_DETAIL_CHARS]
        return shown.encode("utf-8", "replace").decode()

    def _refused(
        self,
        method: str,
        url: str,
        response: requests.Response,
        content: bytes,
        *,
        attempts: int = 1,
    ) -> KumoAPIError:
        status = response.status_code
        detail = self._hidden(_detail(response, content) or response.reason or "")
        after = f" after {attempts} attempts" if attempts > 1 else ""
        said = f"{method} {without_query(url)} answered {status}{after}: {detail}"
        if response.is_redirect:
            target = self._hidden(response.headers.get("Location", "").partition("?")[0])
            message = (
                f"{method} {without_query(url)} is redirected to {target}, which is not followed, "
                "since that could carry the key elsewhere. Set url to the address that the service has now."
            )
            return KumoAPIError(message, status_code=status, detail=target)
        if status in (401, 403):
            later = self._auth.advice_later if status == 401 and self.has_been_accepted else ""
            message = f"{said}\n{later or self._auth.advice}".rstrip()
            return KumoAuthenticationError(message, status_code=status, detail=detail)
        if status == 404:
            return KumoNotFoundError(said, status_code=status, detail=detail)
        if status == 422:
            return KumoValidationError(said, status_code=status, detail=detail)
        return KumoAPIError(said, status_code=status, detail=detail)


def _detail(response: requests.Response, content: bytes) -> str:
    """What the server says about an error: usually `{"detail": ...}`, sometimes plain text."""
    text = content.decode("utf-8", "replace").strip()
    if "html" in response.headers.get("Content-Type", ""):
        return response.reason or "an HTML page"
    try:
        parsed: Any = json.loads(text)
        detail: object = parsed.get("detail", parsed) if isinstance(parsed, dict) else parsed  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - any JSON can come here
        return detail if isinstance(detail, str) else json.dumps(detail)
    except NOT_JSON:
        return text


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
