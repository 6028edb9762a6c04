"""Limit the rate of calls of a whole machine: its processes take turns through a shared file."""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock  # comes with Dagster

LOCK_POLL_INTERVAL = 0.005  # seconds; the lock is held for less than that


class RateLimit:
    """Spaces the calls to one deployment evenly, over all threads and processes.

    A file holds the time of the last call. Its lock is held only to read and write it, never while
    waiting, and the operating system releases it if a process dies.
    """

    def __init__(self, path: Path, per_second: float) -> None:
        self._interval = 1 / per_second
        self._last = path.with_suffix(".last")
        self._lock = FileLock(path.with_suffix(".lock"))
        self._first_in_line = threading.Lock()

    def wait(self, check: Callable[[], None] | None = None) -> None:
        """Wait until the next call is allowed.

        `check` is called when no other thread of the process is to call before. What it raises ends the wait.
        """
        with self._first_in_line:  # one thread at a time queues for the process
            if check is not None:
                check()
            while (pause := self._take_turn()) > 0:
                time.sleep(pause)

    def _take_turn(self) -> float:
        """Take the next turn: 0, or the seconds to wait until it can be taken."""
        with self._lock.acquire(poll_interval=LOCK_POLL_INTERVAL):
            now = time.time()
            pause = self._last_call() + self._interval - now
            if 0 < pause <= self._interval:  # a longer wait means that the clock was set back
                return pause
            self._last.write_text(repr(now))
            return 0.0

    def _last_call(self) -> float:
        try:
            return float(self._last.read_text())
        except (FileNotFoundError, ValueError):  # no file yet, or its writer died halfway
            return 0.0


@functools.cache
def rate_limit(url: str, per_second: float) -> RateLimit:
    """The limit for a deployment: the same one for all clients of a process.

    Raises:
        ValueError: The rate is not above zero.
        PermissionError: The folder for it belongs to another user.
    """
    if not 0 < per_second < float("inf"):
        raise ValueError(f"max_requests_per_second must be above 0, and is {per_second}.")
    return RateLimit(_folder() / hashlib.sha256(url.encode()).hexdigest()[:16], per_second)


def _folder() -> Path:
    """A folder in the temp folder that belongs to this user."""
    # On Windows, the temp folder itself is the user's.
    user = os.getuid() if hasattr(os, "getuid") else None
    name = "dagster-kumo" if user is None else f"dagster-kumo-{user}"
    folder = Path(tempfile.gettempdir()) / name
    folder.mkdir(mode=0o700, exist_ok=True)
    if user is not None and folder.lstat().st_uid != user:
        raise PermissionError(
            f"max_requests_per_second keeps its count in {folder}, which belongs to another user.\n"
            "Remove it, or name another temp folder with the environment variable TMPDIR."
        )
    return folder
