"""A lock between processes, held on an open file; it is let go when its process ends, however."""

# Each half is for another system; the checker sees only one:
# pyright: reportAttributeAccessIssue=false, reportUnknownMemberType=false, reportUnreachable=false

from __future__ import annotations

import sys
import time
from math import inf
from pathlib import Path
from types import TracebackType
from typing import IO


class FileLock:
    """An exclusive lock on a file. The file stays; only the lock on it counts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None

    def acquire(self, seconds: float) -> bool:
        """Take the lock; False if somebody else still has it after so many seconds."""
        deadline = time.monotonic() + seconds
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = self._path.open("ab")
        while True:
            if _try_lock(file):
                self._file = file
                return True
            if time.monotonic() >= deadline:
                file.close()
                return False
            time.sleep(0.02)

    def release(self) -> None:
        """Let the lock go."""
        if self._file is not None:
            # Unlocked first: a forked child may hold the file open beyond the closing.
            _unlock(self._file)
            self._file.close()
            self._file = None

    def __enter__(self) -> FileLock:
        self.acquire(inf)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def _unlock(file: IO[bytes]) -> None:
    if sys.platform == "win32":
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_UN)


def _try_lock(file: IO[bytes]) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
