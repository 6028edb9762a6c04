"""Faults for tests: in the network, in the files, and in the service itself.

```python
with LocalKumo() as kumo:
    kumo.faults.answer(503, path=r"/prediction_jobs/[^/]+$", times=3)
    kumo.faults.cut(after_bytes=10_000, path=r"^/files/")
    kumo.faults.fail_job("the graph snapshot is gone")
```

Every method takes `times` (how many calls fail; None: all) and `after` (how many calls pass first).
Faults of a call also take `path`, a regular expression that is searched in the path of the url, and
`method`. Each returns a `Fault`, whose `hits` counts the calls that failed.
"""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass, field
from typing import Any

_FILES = r"^/files/"


@dataclass
class Fault:
    """One fault."""

    kind: str
    path: str = ""
    method: str | None = None
    times: int | None = 1
    after: int = 0
    hits: int = 0
    options: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def spent(self) -> bool:
        """Whether it has been applied `times` times."""
        return self.times is not None and self.hits >= self.times

    def matches(self, method: str, path: str) -> bool:
        """Whether the fault is for this call."""
        return (self.method is None or self.method.upper() == method) and bool(
            re.search(self.path, path)
        )


class Faults:
    """The faults of one stand-in; safe to use from any thread."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._urls_expired_at = 0.0

    def __len__(self) -> int:
        """How many faults can still apply."""
        with self._lock:
            return sum(not fault.spent for fault in self._faults)

    def clear(self) -> None:
        """Forget all faults."""
        with self._lock:
            self._faults.clear()

    # In the network ###########################################################################

    def answer(
        self,
        status: int,
        *,
        body: object = None,
        headers: dict[str, str] | None = None,
        path: str = "",
        method: str | None = None,
        times: int | None = 1,
        after: int = 0,
    ) -> Fault:
        """Answer without handling the call. Text and bytes in `body` are sent as they are, anything else as JSON."""
        options = {"status": status, "body": body, "headers": dict(headers or {})}
        return self._add("answer", path, method, times, after, options)

    def drop(
        self,
        *,
        path: str = "",
        method: str | None = None,
        times: int | None = 1,
        after: int = 0,
    ) -> Fault:
        """Break the connection before the call is handled."""
        return self._add("drop", path, method, times, after)

    def lose_answer(
        self,
        status: int | None = None,
        *,
        path: str = "",
        method: str | None = None,
        times: int | None = 1,
        after: int = 0,
    ) -> Fault:
        """Handle the call, then break the connection instead of answering, or answer with `status`.

        A proxy that loses its connection to the service answers 502 for a call that was carried out.
        """
        options = {"status": status, "body": None, "headers": {}}
        return self._add("lose_answer", path, method, times, after, options)

    def delay(
        self,
        seconds: float,
        *,
        path: str = "",
        method: str | None = None,
        times: int | None = 1,
        after: int = 0,
    ) -> Fault:
        """Wait before the call is handled. Can be combined with any other fault."""
        return self._add("delay", path, method, times, after, {"seconds": seconds})

    def cut(
        self,
        after_bytes: int,
        *,
        path: str = _FILES,
        method: str | None = "GET",
        times: int | None = 1,
        after: int = 0,
    ) -> Fault:
        """Break the connection after so many bytes of the body."""
        return self._add("cut", path, method, times, after, {"after_bytes": after_bytes})

    def corrupt(
        self,
        *,
        path: str = _FILES,
        method: str | None = "GET",
        times: int | None = 1,
        after: int = 0,
    ) -> Fault:
        """Send a body of the right length with wrong content (not Parquet)."""
        return self._add("corrupt", path, method, times, after)

    # In the files ##########################################################################

    def change_file(self, *, path: str = _FILES, times: int | None = 1, after: int = 1) -> Fault:
        """Give a file another ETag, as if it had been rewritten between two calls.

        By default the first call sees the true ETag, the second a new one.
        """
        return self._add("change_file", path, None, times, after)

    def expire_urls(self) -> None:
        """Expire all file urls that were issued so far. Later ones are valid."""
        self._urls_expired_at = time.time()

    @property
    def urls_expired_at(self) -> float:
        """Urls signed before this time (in seconds since the epoch) count as expired."""
        return self._urls_expired_at

    # In the service ########################################################################

    def refuse_launch(
        self,
        title: str = "Launch refused",
        message: str = "The stand-in was told to refuse this launch.",
        *,
        times: int | None = 1,
        after: int = 0,
    ) -> Fault:
        """Refuse to launch a prediction job, with this error and no job."""
        options = {"title": title, "message": message}
        return self._add("refuse_launch", "", None, times, after, options)

    def fail_job(
        self,
        reason: str = "The stand-in was told to let this job fail.",
        *,
        title: str = "Job failed",
        path: str = "",
        times: int | None = 1,
        after: int = 0,
    ) -> Fault:
        """Make a prediction or training job fail while it runs."""
        return self._add("fail_job", path, None, times, after, {"title": title, "reason": reason})

    def overcount(self, extra: int = 1, *, times: int | None = 1, after: int = 0) -> Fault:
        """Make a prediction job report more entities than its files have rows."""
        return self._add("overcount", "", None, times, after, {"extra": extra})

    def ignore_prediction_time(self, *, times: int | None = None, after: int = 0) -> Fault:
        """Ignore `prediction_time`, as older servers do: predict for the latest time, and do not echo it."""
        return self._add("ignore_prediction_time", "", None, times, after)

    def ignore_tag_filters(self, *, times: int | None = None, after: int = 0) -> Fault:
        """Ignore the tag filters of list calls."""
        return self._add("ignore_tag_filters", "", None, times, after)

    def forget_tags(self, *, times: int | None = None, after: int = 0) -> Fault:
        """Keep none of the tags that a launch sets, as a server that stores no tags."""
        return self._add("forget_tags", "", "POST", times, after)

    def list_late(self, seconds: float, *, times: int | None = None, after: int = 0) -> Fault:
        """List a job only so many seconds after its launch. By its id it is there at once."""
        return self._add("list_late", "", "GET", times, after, {"seconds": seconds})

    def show_late(
        self, seconds: float, *, path: str = "", times: int | None = None, after: int = 0
    ) -> Fault:
        """Answer 404 to calls that name a job by its id, until so many seconds after its launch."""
        return self._add("show_late", path, None, times, after, {"seconds": seconds})

    def unknown_status(
        self,
        status: str = "PAUSED",
        *,
        path: str = r"/prediction_jobs/[^/]+$",
        times: int | None = 1,
        after: int = 0,
    ) -> Fault:
        """Report a status that clients do not know, as a newer server may."""
        return self._add("unknown_status", path, "GET", times, after, {"status": status})

    # For the stand-in itself ###############################################################

    def take(self, kind: str, method: str = "", path: str = "") -> Fault | None:
        """The fault of this kind that applies to this call, if there is one. It counts as a hit."""
        with self._lock:
            for fault in self._faults:
                if fault.kind != kind or fault.spent or not fault.matches(method, path):
                    continue
                if fault.after > 0:
                    fault.after -= 1
                    continue
                fault.hits += 1
                return fault
        return None

    def _add(
        self,
        kind: str,
        path: str,
        method: str | None,
        times: int | None,
        after: int,
        options: dict[str, Any] | None = None,
    ) -> Fault:
        re.compile(path)  # a wrong expression raises here, in the test's own line
        fault = Fault(kind, path, method, times, after, options=dict(options or {}))
        with self._lock:
            self._faults.append(fault)
        return fault
