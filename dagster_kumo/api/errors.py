"""The exceptions.

```text
KumoError
├── KumoConnectionError        no answer; names host, attempts and the last cause
├── KumoAPIError               the server answered with an error, or with something unreadable
│   ├── KumoAuthenticationError    401, 403: the key or its rights
│   ├── KumoNotFoundError          404: nothing has this id, or the server is too old for the call
│   └── KumoValidationError        the server refused the request, in its own words
├── KumoModelError             there is no trained model as asked for
├── KumoJobFailedError         a job ended, but not DONE
├── KumoTimeoutError           the time limit of a wait is over; the job goes on
├── KumoDataError              a file is corrupt, incomplete or for another time
├── KumoWindowError            what was predicted is not known yet; names the time it will be
└── KumoPartitionsError        some partitions of a run failed (raised on the Dagster side)
```

No query string, key or token is ever part of a message: presigned urls carry their signature there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

# The query of a url, or of a path alone, as a server may quote one.
_QUERY = re.compile(
    r"(?P<url>\b[a-z][a-z0-9+.-]*://[^\s?\"'<>]*)\?[^\s\"'<>]*|\?[^\s\"'<>=]*=[^\s\"'<>]*",
    re.IGNORECASE,
)

# Parameters of a url that give access to anyone who has the url.
_SIGNATURE = re.compile(
    r"(?:^|[&?#;])(?:x-amz-\w+(?:-\w+)*|x-goog-\w+|[\w-]*signature|sig|[\w-]*token|awsaccesskeyid|api[_-]?key|password)=",
    re.IGNORECASE,
)


def without_query(text: str) -> str:
    """`text` with every query string in it replaced by `?...`.

    >>> without_query("GET https://bucket/part-0.parquet?X-Amz-Signature=abc failed")
    'GET https://bucket/part-0.parquet?... failed'
    >>> without_query("What? /part-0.parquet?X-Amz-Signature=abc")
    'What? /part-0.parquet?...'
    """
    return _QUERY.sub(lambda found: f"{found['url'] or ''}?...", text)


def without_signature(url: str) -> str:
    """`url` without query and fragment if they give access to something, else as it is.

    >>> without_signature("https://kumo/jobs/1?tab=2#log"), without_signature("https://b/x?sig=abc")
    ('https://kumo/jobs/1?tab=2#log', 'https://b/x')
    """
    address, separator, rest = url.partition("?" if "?" in url else "#")
    return address if separator and _SIGNATURE.search(rest) else url


class KumoError(Exception):
    """The base of all errors that dagster-kumo raises about Kumo."""


class KumoConnectionError(KumoError):
    """No answer: refused, not resolved, timed out or broken, after all attempts."""


class KumoAPIError(KumoError):
    """The server answered with an error status, or with something that is not Kumo's API.

    Attributes:
        status_code: The HTTP status.
        detail: What the server said about it.
    """

    def __init__(self, message: str, *, status_code: int, detail: str) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.detail = detail


class KumoAuthenticationError(KumoAPIError):
    """The key is wrong, or has no permission to do this (401, 403)."""


class KumoNotFoundError(KumoAPIError):
    """The server has nothing of this id, or does not know the call (404)."""


@dataclass(frozen=True)
class ValidationIssue:
    """One error or warning of the server about a request: a title and a message."""

    title: str
    message: str

    def __post_init__(self) -> None:
        for name in ("title", "message"):
            object.__setattr__(self, name, without_query(getattr(self, name)))

    def __str__(self) -> str:
        return f"{self.title}: {self.message}" if self.title else self.message


class KumoValidationError(KumoAPIError):
    """The server refused the request.

    Attributes:
        errors: The server's reasons, each with `.title` and `.message`.
    """

    def __init__(
        self, message: str, *, status_code: int, detail: str, errors: Sequence[ValidationIssue] = ()
    ) -> None:
        super().__init__(message, status_code=status_code, detail=detail)
        self.errors = tuple(errors)


class KumoModelError(KumoError):
    """There is no such trained model: no job has these tags, or the job is not done."""


class KumoJobFailedError(KumoError):
    """A job ended FAILED or CANCELLED.

    Attributes:
        job_id: The job.
        status: Its last status.
        detail: The reason in the server's words; empty if it gave none.
        tracking_url: The job's page in Kumo; empty if it is not known.
    """

    def __init__(
        self, message: str, *, job_id: str, status: str, detail: str = "", tracking_url: str = ""
    ) -> None:
        super().__init__(message)
        self.job_id = job_id
        self.status = status
        self.detail = detail
        self.tracking_url = tracking_url


class KumoTimeoutError(KumoError):
    """The job did not end within the time limit of the wait. It has not been cancelled."""


class KumoDataError(KumoError):
    """A file or an output is truncated, corrupt, incomplete or for another time."""


class KumoWindowError(KumoError):
    """The outcome window of predictions is still open, so they cannot be evaluated yet.

    Attributes:
        closes_at: when the outcome is known.
    """

    def __init__(self, message: str, *, closes_at: datetime) -> None:
        super().__init__(message)
        self.closes_at = closes_at
