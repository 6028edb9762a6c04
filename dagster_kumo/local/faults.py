"""Faults for tests: in the network, in the files, and in the service itself."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass, field
from typing import Any, TypedDict

from typing_extensions import Unpack


class Calls(TypedDict, total=False):
    """Which calls a fault is for. By default it is the first one that it can apply to."""

    path: str
    """A regular expression that is searched in the path of the url."""
    method: str | None
    """The method; None: any."""
    times: int | None
    """How many of these calls fail; None: all."""
    after: int
    """How many of them pass first."""


_FILES: Calls = {"path": r"^/files/", "method": "GET"}


@dataclass
class Fault:
    """One fault."""

    kind: str
    path: str = ""
    method: str | None = None
    times: int | None = 1
    after: int = 0
    hits: int = 0
    """How many calls have failed."""
    options: dict[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        re.compile(self.path)  # a wrong expression raises here, in the test's own line

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
    """The faults of one stand-in; safe to use from any thread.

    Each method that adds one takes as `calls` which calls it is for: `path`, a regular expression that is searched in
    the path of the url, `method`, `times` (how many of these calls fail; None: all) and `after` (how many of them pass
    first). It returns a `Fault`, whose `hits` counts the calls that failed.

    Examples:
        ```python
        with LocalKumo() as kumo:
            kumo.faults.answer(503, path=r"/prediction_jobs/[^/]+$", times=3)
            kumo.faults.cut(after_bytes=10_000)
            kumo.faults.fail_job("the graph snapshot is gone")
        ```
    """

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self.urls_expired_at = 0.0
        """Urls signed before this time (in seconds since the epoch) count as expired."""

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
        **calls: Unpack[Calls],
    ) -> Fault:
        """Answer without handling the call. Text and bytes in `body` are sent as they are, anything else as JSON."""
        return self._add("answer", calls, status=status, body=body, headers=headers or {})

    def drop(self, **calls: Unpack[Calls]) -> Fault:
        """Break the connection before the call is handled."""
        return self._add("drop", calls)

    def lose_answer(self, status: int | None = None, **calls: Unpack[Calls]) -> Fault:
        """Handle the call, then break the connection instead of answering, or answer with `status`.

        A proxy that loses its connection to the service answers 502 for a call that was carried out.
        """
        return self._add("lose_answer", calls, status=status, body=None, headers={})

    def delay(self, seconds: float, **calls: Unpack[Calls]) -> Fault:
        """Wait before the call is handled. Can be combined with any other fault."""
        return self._add("delay", calls, seconds=seconds)

    def cut(self, after_bytes: int, **calls: Unpack[Calls]) -> Fault:
        """Break the connection after so many bytes of the body, by default of a file."""
        return self._add("cut", {**_FILES, **calls}, after_bytes=after_bytes)

    def corrupt(self, **calls: Unpack[Calls]) -> Fault:
        """Send a body of the right length with wrong content (not Parquet), by default for a file."""
        return self._add("corrupt", {**_FILES, **calls})

    # In the files ##########################################################################

    def change_file(self, **calls: Unpack[Calls]) -> Fault:
        """Give a file another ETag, as if it had been rewritten between two calls.

        By default the first call sees the true ETag, the second a new one.
        """
        return self._add("change_file", {**_FILES, "after": 1, **calls})

    def expire_urls(self) -> None:
        """Expire all file urls that were issued so far. Later ones are valid."""
        self.urls_expired_at = time.time()

    # In the service ########################################################################

    def refuse_launch(
        self,
        title: str = "Launch refused",
        message: str = "The stand-in was told to refuse this launch.",
        **calls: Unpack[Calls],
    ) -> Fault:
        """Refuse to launch a prediction job, with this error and no job."""
        return self._add("refuse_launch", calls, title=title, message=message)

    def fail_job(
        self,
        reason: str = "The stand-in was told to let this job fail.",
        *,
        title: str = "Job failed",
        **calls: Unpack[Calls],
    ) -> Fault:
        """Make a prediction or training job fail while it runs."""
        return self._add("fail_job", calls, title=title, reason=reason)

    def overcount(self, extra: int = 1, **calls: Unpack[Calls]) -> Fault:
        """Make a prediction job report more entities than its files have rows."""
        return self._add("overcount", calls, extra=extra)

    def ignore_prediction_time(self, **calls: Unpack[Calls]) -> Fault:
        """Ignore `prediction_time`, as older servers do: predict for the latest time, and do not echo it.

        By default always, as the four that follow.
        """
        return self._add("ignore_prediction_time", {"times": None, **calls})

    def ignore_tag_filters(self, **calls: Unpack[Calls]) -> Fault:
        """Ignore the tag filters of list calls."""
        return self._add("ignore_tag_filters", {"times": None, **calls})

    def forget_tags(self, **calls: Unpack[Calls]) -> Fault:
        """Keep none of the tags that a launch sets, as a server that stores no tags."""
        return self._add("forget_tags", {"times": None, **calls})

    def list_late(self, seconds: float, **calls: Unpack[Calls]) -> Fault:
        """List a job only so many seconds after its launch. By its id it is there at once."""
        return self._add("list_late", {"times": None, **calls}, seconds=seconds)

    def show_late(self, seconds: float, **calls: Unpack[Calls]) -> Fault:
        """Answer 404 to calls that name a job by its id, until so many seconds after its launch."""
        return self._add("show_late", {"times": None, **calls}, seconds=seconds)

    def unknown_status(self, status: str = "PAUSED", **calls: Unpack[Calls]) -> Fault:
        """Report a status of prediction jobs that clients do not know, as a newer server may."""
        shown: Calls = {"path": r"/prediction_jobs/[^/]+$", "method": "GET"}
        return self._add("unknown_status", {**shown, **calls}, status=status)

    # For the stand-in itself ###############################################################

    def take(self, kind: str, method: str, path: str) -> Fault | None:
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

    def _add(self, kind: str, calls: Calls, **options: Any) -> Fault:
        fault = Fault(kind, **calls, options=options)
        with self._lock:
            self._faults.append(fault)
        return fault
