"""`LocalKumo`: a stand-in in this process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from filelock import Timeout

from dagster_kumo.local.faults import Faults
from dagster_kumo.local.folder import API_KEY, DataFolder, write_json
from dagster_kumo.local.shared import SharedKumo, find, find_or_start, serving_lock

if TYPE_CHECKING:
    from dagster_kumo.local.http.routes import Application
    from dagster_kumo.local.http.wire import RecordedRequest

_HOST = "127.0.0.1"
_NEEDED = ("anyio", "duckdb", "sklearn", "starlette", "uvicorn")
_START_SECONDS = 15.0
_STOP_SECONDS = 5.0


class LocalKumo:
    """A stand-in for the Kumo service on this machine: a real HTTP server in a thread.

    It speaks Kumo's job API and serves prediction files behind presigned urls. Its predictions come
    from a small model that is fitted on real transactions, and they change with the anchor time.
    Neither the model nor the service is Kumo's.

    Examples:
        ```python
        from dagster_kumo import KumoResource
        from dagster_kumo.local import LocalKumo

        with LocalKumo() as kumo:
            resource = KumoResource(url=kumo.url, api_key=kumo.api_key)
            ...
            assert kumo.jobs[0]["job_status_report"]["status"] == "DONE"
        ```

    With a fault:
        ```python
        with LocalKumo() as kumo:
            kumo.faults.answer(503, path=r"/prediction_jobs/[^/]+$", times=3)
            ...
        ```

    Args:
        data: The data folder. It keeps jobs, files and exports, so the next stand-in on the same
            folder continues where this one stopped. By default a temporary folder that is removed
            at the end.
        port: The port on 127.0.0.1; 0 for a free one.
        queue_seconds: How long a job stays QUEUED.
        run_seconds: How long a job is RUNNING, at least. If both are 0, a launch is answered when
            the job has ended, or after a second.
        url_lifetime: Seconds until a presigned url expires.
        api: The generation of the API: `"2"` for that of SDK 2.x, `"3"` for that of SDK 3.0.
        rbac: Whether calls must name a group, as in a deployment of 2.x with groups.
        needs_key: Whether calls must carry the API key. A self-hosted deployment may do without.
        files_per_output: How many files each output has. By default one for each worker.
        keep_requests: How many of the last requests are recorded in `requests`.
    """

    api_key = API_KEY
    """The API key. It is the same for every stand-in, and not a secret."""

    def __init__(
        self,
        data: str | os.PathLike[str] | None = None,
        *,
        port: int = 0,
        queue_seconds: float = 0.0,
        run_seconds: float = 0.0,
        url_lifetime: float = 3600.0,
        api: Literal["2", "3"] = "2",
        rbac: bool = False,
        needs_key: bool = True,
        files_per_output: int | None = None,
        keep_requests: int = 10_000,
    ) -> None:
        if api not in ("2", "3") or (rbac and api == "3"):
            raise ValueError('api is "2" or "3", and rbac goes with "2": 3.0 has projects.')
        self._given_data = None if data is None else Path(data)
        self.faults = Faults()
        """The faults to inject; see `Faults`."""

        def application(folder: DataFolder) -> Application:
            # Imported when it starts, so that importing this package stays cheap.
            from dagster_kumo.local.http.routes import Application
            from dagster_kumo.local.service.files import FileServer
            from dagster_kumo.local.service.jobs import JobRunner, JobStore
            from dagster_kumo.local.service.service import Service

            store = JobStore(folder.jobs)
            runner = JobRunner(store, queue_seconds, run_seconds)
            files = FileServer(folder.files, folder.secret, url_lifetime, self.faults)
            service = Service(folder, store, runner, files, self.faults, files_per_output)
            return Application(service, api=api, rbac=rbac, needs_key=needs_key)

        self._serve = partial(_Running, port, keep_requests, application)
        self._running: _Running | None = None

    @classmethod
    def shared(
        cls,
        data: str | os.PathLike[str],
        *,
        queue_seconds: float = 2.0,
        run_seconds: float = 6.0,
        idle_timeout: float = 1800.0,
        api: Literal["2", "3"] = "2",
    ) -> SharedKumo:
        """The stand-in of a data folder, shared by any number of processes.

        Finds the one that serves the folder, or starts one in its own process. If several
        processes ask at the same time, only one is started. It stops by itself after
        `idle_timeout` seconds without a call. The options apply only if this call starts it.

        Examples:
            ```python
            kumo = LocalKumo.shared("./kumo-data")
            resource = KumoResource(url=kumo.url, api_key=kumo.api_key)
            ```
        """
        return find_or_start(
            data,
            queue_seconds=queue_seconds,
            run_seconds=run_seconds,
            idle_timeout=idle_timeout,
            api=api,
        )

    def start(self) -> LocalKumo:
        """Start the server, and return self.

        Raises:
            ImportError: The extra `local` is not installed.
            RuntimeError: The port is taken, or another stand-in serves the data folder.
        """
        if self._running is not None:
            return self
        if missing := [name for name in _NEEDED if find_spec(name) is None]:
            raise ImportError(
                f"The stand-in needs packages that are not installed ({', '.join(missing)}). "
                "Install them with: pip install 'dagster-kumo[local]'"
            )
        temporary = self._given_data is None
        data = self._given_data or Path(tempfile.mkdtemp(prefix="local-kumo-"))
        try:
            self._running = self._serve(data)
        except BaseException:
            if temporary:
                shutil.rmtree(data, ignore_errors=True)
            raise
        return self

    def stop(self) -> None:
        """Stop the server and close all connections. Unfinished jobs run again after the next start."""
        running, self._running = self._running, None
        if running is not None:
            running.stop()
            if self._given_data is None:
                shutil.rmtree(running.folder.path, ignore_errors=True)

    def __enter__(self) -> LocalKumo:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The address of the API: `http://127.0.0.1:<port>/api`."""
        return f"http://{_HOST}:{self._started.port}/api"

    @property
    def data(self) -> Path:
        """The data folder."""
        return self._started.folder.path

    @property
    def requests(self) -> list[RecordedRequest]:
        """All requests in order of arrival, including file requests and broken ones."""
        return list(self._started.wire.requests.copy())

    def clear_requests(self) -> None:
        """Forget all recorded requests."""
        self._started.wire.requests.clear()

    @property
    def jobs(self) -> list[dict[str, Any]]:
        """The prediction jobs as the API shows them, in the order of their launch."""
        return [job.resource() for job in self._started.service.store.all("prediction_jobs")]

    @property
    def exports(self) -> list[dict[str, Any]]:
        """The exports in the order of their launch: id, status, job, output, where written."""
        exports = self._started.application.exports
        return [exports.describe(job) for job in self._started.service.store.all("artifact")]

    @property
    def idle_seconds(self) -> float:
        """Seconds since the last call; 0 while a job runs."""
        return self._started.idle_seconds

    @property
    def _started(self) -> _Running:
        if self._running is None:
            raise RuntimeError(
                "This LocalKumo is not started. Use it in a `with` block, or call start()."
            )
        return self._running


class _Running:
    """A running server, until `stop`."""

    def __init__(
        self,
        port: int,
        keep_requests: int,
        application: Callable[[DataFolder], Application],
        data: Path,
    ) -> None:
        import uvicorn

        from dagster_kumo.local.http.wire import Connection, Wire

        self.folder = DataFolder(data)
        self._lock = serving_lock(self.folder.path)
        # A server that is stopping no longer answers, but may hold the lock a moment longer.
        alive = find(self.folder.path) is not None
        try:
            self._lock.acquire(timeout=0.0 if alive else _STOP_SECONDS)
        except Timeout:
            raise RuntimeError(
                f"Another stand-in serves {self.folder.path}. Stop it first, use another data "
                "folder, or share it: LocalKumo.shared(data)."
            ) from None
        try:
            self._socket = _listen_again(port, self.folder.port)
            self.port: int = self._socket.getsockname()[1]
            self.folder.port = self.port
            self.application = application(self.folder)
            self.application.resume()
        except BaseException:
            self._lock.release()
            raise

        self.service = self.application.service
        self.wire = Wire(self.application.app, self.service.faults, keep_requests)
        self._server = uvicorn.Server(
            uvicorn.Config(
                self.wire,
                http=Connection,
                ws="none",
                loop="asyncio",
                lifespan="off",
                log_config=None,
                log_level="critical",
                access_log=False,
                # As long as a load balancer's: a client that polls keeps its connection.
                timeout_keep_alive=75,
            )
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._serving: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name="local-kumo", daemon=True)
        self._thread.start()
        deadline = time.monotonic() + _START_SECONDS
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                self._lock.release()
                raise RuntimeError(f"The stand-in did not start on port {self.port}.")
            time.sleep(0.005)
        write_json(
            self.folder.path / "server.json",
            {"url": f"http://{_HOST}:{self.port}/api", "pid": os.getpid()},
        )

    def _run(self) -> None:
        async def serve() -> None:
            self._loop, self._serving = asyncio.get_running_loop(), asyncio.current_task()
            with contextlib.suppress(asyncio.CancelledError):
                await self._server.serve(sockets=[self._socket])

        asyncio.run(serve())

    def stop(self) -> None:
        """Stop the server and close all connections."""
        self.service.runner.stop()
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop may have ended already
            self._loop.call_soon_threadsafe(self._end)
        self._thread.join(_STOP_SECONDS)
        (self.folder.path / "server.json").unlink(missing_ok=True)
        self._lock.release()

    def _end(self) -> None:
        # uvicorn's own shutdown waits for its next tick, and then for the connections.
        for server in self._server.servers:
            server.close()
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()
        assert self._serving is not None
        self._serving.cancel()

    @property
    def idle_seconds(self) -> float:
        """Seconds since the last call; 0 while a job runs."""
        return 0.0 if self.service.runner.busy else time.monotonic() - self.wire.last_at


def _listen_again(port: int, before: int) -> socket.socket:
    """Listen on a port. Any port is the one before, if that is free: links to pages of jobs stay valid."""
    if port == 0 and before:
        with contextlib.suppress(RuntimeError):
            return _listen(before)
    return _listen(port)


def _listen(port: int) -> socket.socket:
    # The protocol is named, else asyncio leaves Nagle's algorithm on: 40 ms more for each answer.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":  # on Windows the option would let two servers share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((_HOST, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise RuntimeError(
            f"Cannot listen on {_HOST}:{port}: {error.strerror}. Choose another port, or 0 for a "
            "free one."
        ) from error
    return listener
