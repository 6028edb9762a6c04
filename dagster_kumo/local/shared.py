"""A stand-in for several processes: find the one that serves a data folder, or start one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from filelock import BaseFileLock, FileLock, Timeout

from dagster_kumo.local.folder import API_KEY, read_json

_START_SECONDS = 60.0
_PING_SECONDS = 5.0
_STOP_SECONDS = 10.0


@dataclass(frozen=True)
class SharedKumo:
    """A stand-in that runs in a process of its own."""

    url: str
    api_key: str
    data: Path
    pid: int

    def stop(self) -> None:
        """Stop it, for all processes that use it."""
        try:
            os.kill(self.pid, signal.SIGTERM)
        except ProcessLookupError:
            return
        try:
            with serving_lock(self.data).acquire(timeout=_STOP_SECONDS):
                return
        except Timeout:
            raise RuntimeError(
                f"The stand-in with process id {self.pid} does not stop. Kill it: kill -9 {self.pid}"
            ) from None


def serving_lock(folder: Path) -> BaseFileLock:
    """The lock that the server of a data folder holds while it serves.

    The operating system releases it if the process dies.
    """
    return FileLock(folder / "serving.lock", thread_local=False)


def find_or_start(data: str | os.PathLike[str], **options: float | str) -> SharedKumo:
    """The stand-in that serves a data folder. Starts one with these options if there is none."""
    folder = Path(data).expanduser().resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if (found := find(folder)) is not None:
        return found
    # The first process to get the lock starts the stand-in. The others then find it.
    with FileLock(folder / "start.lock"):
        if (found := find(folder)) is not None:
            return found
        return _start(folder, options)


def find(folder: Path) -> SharedKumo | None:
    """The stand-in that answers for a data folder, if there is one."""
    server = read_json(folder / "server.json")
    if server is None:
        return None
    try:
        with requests.Session() as session:
            session.trust_env = False  # the stand-in is on this machine: no proxy
            ping = server["url"].removesuffix("/api") + "/ping"
            about: dict[str, Any] = session.get(ping, timeout=_PING_SECONDS).json()
    except requests.RequestException:
        return None
    # Another program may use the port by now.
    if about.get("data") != str(folder):
        return None
    return SharedKumo(server["url"], API_KEY, folder, about["pid"])


def _start(folder: Path, options: Mapping[str, float | str]) -> SharedKumo:
    log = folder / "server.log"
    command = [sys.executable, "-m", "dagster_kumo.cli", "local", "--data", str(folder)]
    command += ["--port", "0"]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    detached: dict[str, Any]
    if sys.platform == "win32":
        flags = subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.DETACHED_PROCESS
        detached = {"creationflags": flags}
    else:
        # So that it outlives the caller's terminal, and signals to the caller's process group.
        detached = {"start_new_session": True}
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            **detached,
        )
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if (found := find(folder)) is not None:
            return found
        if process.poll() is not None:
            break
        time.sleep(0.05)
    process.kill()
    last = log.read_text(errors="replace")[-2000:]
    raise RuntimeError(f"The stand-in for {folder} did not start. Its log, {log}, ends:\n{last}")
