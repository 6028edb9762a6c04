"""Which requests are sent again, how often, and after what wait."""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable, Generator
from typing import TypeVar

import requests
from urllib3 import Retry
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    InvalidHeader,
    MaxRetryError,
    NewConnectionError,
)

LONGEST_RETRY_AFTER = 3600.0  # seconds

CONNECTION_ERRORS = (requests.RequestException, HTTPError)
"""No answer, or one that is not HTTP. requests does not wrap all of urllib3's errors."""

logger = logging.getLogger("dagster_kumo")

T = TypeVar("T")


class Failure(Exception):
    """An attempt that failed for a reason that may pass: a broken connection, or a status."""

    def __init__(
        self,
        response: requests.Response | None = None,
        content: bytes = b"",
        *,
        cause: Exception | None = None,
    ) -> None:
        super().__init__()
        self.response = response
        self.content = content
        self.cause = cause
        self.attempts = 1
        """How many attempts failed in a row, this one included."""

    @property
    def may_have_been_carried_out(self) -> bool:
        """Whether the server may have carried out the request anyway."""
        if self.response is not None:
            return self.response.status_code != 429
        never_arrived = (NewConnectionError, ConnectTimeoutError)
        chain = _chain(self.cause)
        return not (is_permanent(self.cause) or any(isinstance(e, never_arrived) for e in chain))


class RetryPolicy(Retry):
    """Exponential backoff with jitter; `Retry-After` is obeyed, up to an hour.

    urllib3's class, except that it ignores a `Retry-After` that is malformed or too long.
    """

    @classmethod
    def up_to(cls, retries: int) -> RetryPolicy:
        """A policy with this many retries at most."""
        return cls(
            total=retries,
            backoff_factor=0.5,  # waits of 0, 1, 2, 4 ... seconds
            backoff_max=60,
            backoff_jitter=0.5,
            allowed_methods=None,
            status_forcelist=(),
            raise_on_status=False,
        )

    def parse_retry_after(self, retry_after: str) -> float:
        try:
            return min(super().parse_retry_after(retry_after), LONGEST_RETRY_AFTER)
        except (InvalidHeader, ValueError, OverflowError):
            return 0.0  # then the usual backoff applies


class Retries:
    """The attempts of one request."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._left: Retry = policy

    def run(
        self, attempt: Callable[[], T], *, recover: Callable[[Failure], T | None] | None = None
    ) -> T:
        """Call `attempt` until it succeeds, and return what it returns.

        `recover` is called after each failed attempt. It finds out whether the request was carried
        out all the same, and returns what the answer would have been, or None.

        Raises:
            Failure: The last one, if there is no further attempt.
        """
        while True:
            try:
                return attempt()
            except CONNECTION_ERRORS as error:
                failure = Failure(cause=error)
            except Failure as error:
                failure = error
            failure.attempts = len(self._left.history) + 1
            again = self._wait_after(failure)
            if recover is not None and (found := recover(failure)) is not None:
                return found
            if not again:
                raise failure

    def progressed(self) -> None:
        """Reset the count of attempts, because the request got further before it failed."""
        self._left = self._policy

    def _wait_after(self, failure: Failure) -> bool:
        """Wait as long as the policy says. False, without a wait, if there is no further attempt."""
        if is_permanent(failure.cause):
            return False
        # urllib3 reads the headers off the raw response.
        raw = failure.response.raw if failure.response is not None else None
        try:
            self._left = self._left.increment("GET", "/", response=raw, error=failure.cause)
        except MaxRetryError:
            return False
        logger.debug("Trying again after attempt %d", failure.attempts)
        self._left.sleep(raw)
        return True


def looks_until(deadline: float) -> Generator[None, None, None]:
    """Yield at once, and then again and again until `time.monotonic()` reaches the deadline.

    The waits between double from a tenth of a second up to two. The last one ends at the deadline.
    """
    yield
    pause = 0.1
    while (left := deadline - time.monotonic()) > 0:
        time.sleep(min(pause, left))
        yield
        pause = min(2 * pause, 2.0)


def should_retry(status_code: int) -> bool:
    """Whether the same request may succeed a little later: 408, 429 and 5xx."""
    return status_code in (408, 429) or 500 <= status_code < 600


def is_permanent(cause: BaseException | None) -> bool:
    """Whether the connection broke for a lasting reason: a certificate that is not accepted."""
    return any(isinstance(inner, ssl.SSLCertVerificationError) for inner in _chain(cause))


def describe(cause: BaseException | None) -> str:
    """Why a connection broke, in a few words, without the url that requests includes.

    requests wraps urllib3's errors, which wrap those of the operating system. People need the
    innermost one that has a message.
    """
    if is_permanent(cause):
        return "the TLS certificate was not accepted (verify_ssl takes the path of a CA bundle)"
    if isinstance(cause, requests.exceptions.ProxyError):
        return "the proxy did not answer (HTTP_PROXY, HTTPS_PROXY, NO_PROXY)"
    if isinstance(cause, requests.exceptions.ConnectTimeout):
        return "connecting timed out"
    if isinstance(cause, requests.exceptions.Timeout):
        return "the answer did not come in time"
    words = "the connection broke"
    for inner in _chain(cause):
        if isinstance(inner, OSError) and inner.strerror:
            words = inner.strerror
        if "timed out" in str(inner):
            words = "the answer did not come in time"
    return words


def _chain(error: BaseException | None) -> Generator[BaseException, None, None]:
    """An error and what it wraps, outermost first."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        wrapped = getattr(error, "reason", None) or (error.args[0] if error.args else None)
        following = wrapped if isinstance(wrapped, BaseException) else None
        error = following or error.__cause__ or error.__context__
