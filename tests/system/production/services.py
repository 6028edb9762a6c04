"""Dagster as it is run in production: a code server, a daemon and a web server, each a process of its own.

The tests with PostgreSQL and `make chaos` both start it from here.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

import dagster as dg

from tests.support import free_port, wait_until
from tests.system.runs.webserver import Webserver

ROOT = Path(__file__).parents[3]
YAML = """
telemetry: {{enabled: false}}
nux: {{enabled: false}}
{storage}
concurrency:
  pools: {{default_limit: 2}}
  runs:
    max_concurrent_runs: {runs_at_once}
    tag_concurrency_limits: [{{key: dagster-kumo/hold, value: until_done, limit: 0}}]
run_coordinator:
  module: dagster.core.run_coordinator
  class: QueuedRunCoordinator
  config: {{dequeue_interval_seconds: 1}}
run_monitoring:
  enabled: true
  poll_interval_seconds: {poll_seconds}
  start_timeout_seconds: 300
  # Else the slots of a pool that a killed process holds are never free again.
  free_slots_after_run_end_seconds: 5
run_retries: {{enabled: true, max_retries: {max_retries}}}
compute_logs:
  {{module: dagster.core.storage.noop_compute_log_manager, class: NoOpComputeLogManager}}
"""
START_SECONDS = 300.0


class Services:
    """What runs for one code location, from its `with` to its end.

    Args:
        home: their `DAGSTER_HOME`, a folder that is there.
        location: the module with the definitions.
        postgres_url: where runs and events are stored; None for SQLite below `home`.
        environment: of the processes, besides this one's.
        max_retries: how often Dagster retries a run.
        runs_at_once: how many runs go on at a time; the others wait.
        poll_seconds: how often the daemon looks after the runs.
    """

    def __init__(
        self,
        home: Path,
        location: str,
        *,
        postgres_url: str | None,
        environment: Mapping[str, str],
        max_retries: int = 3,
        runs_at_once: int = 10,
        poll_seconds: int = 1,
    ) -> None:
        self._home = home
        self._environment = {**environment, "DAGSTER_HOME": str(home)}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        storage = f'storage: {{postgres: {{postgres_url: "{postgres_url}"}}}}'
        yaml = YAML.format(
            storage=storage if postgres_url else "",
            max_retries=max_retries,
            runs_at_once=runs_at_once,
            poll_seconds=poll_seconds,
        )
        (home / "dagster.yaml").write_text(yaml)
        port, web_port = free_port(), free_port()
        server = f"{{host: 127.0.0.1, port: {port}, location_name: {location}}}"
        (home / "workspace.yaml").write_text(f"load_from: [{{grpc_server: {server}}}]")
        workspace = ("-w", str(home / "workspace.yaml"))
        address = ("-h", "127.0.0.1", "-p")
        self._commands = {
            "code server": ("dagster", "api", "grpc", "-m", location, *address, str(port)),
            "web server": ("dagster_webserver", *workspace, *address, str(web_port)),
            "daemon": ("tests.system.production.daemon", "run", *workspace),
        }
        self._port = port
        self.instance = dg.DagsterInstance.from_config(str(home))
        self.web = Webserver(f"http://127.0.0.1:{web_port}", location, "{}")

    def __enter__(self) -> "Services":
        try:
            self.start("code server")
            self._wait_for("code server", lambda: _answers(self._port))
            self.start("web server")
            self.start("daemon")
            self._wait_for("web server", self.web.is_up)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def start(self, name: str) -> None:
        """Start the code server, the web server or the daemon."""
        with (self._home / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", *self._commands[name]],
                cwd=ROOT,
                env={**os.environ, **self._environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self, name: str) -> None:
        """Kill one of them, to be started again. The code server takes its workers, the runs, with it."""
        process = self._processes.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)

    def _wait_for(self, name: str, is_up: Callable[[], bool]) -> None:
        process = self._processes[name]
        wait_until(lambda: is_up() or process.poll() is not None, seconds=START_SECONDS)
        assert process.poll() is None, (self._home / f"{name}.log").read_text()

    def _end(self) -> None:
        for name in list(self._processes):
            self.kill(name)
        self.instance.dispose()


def _answers(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0
