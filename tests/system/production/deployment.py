"""A Dagster as it is run in production: PostgreSQL, a code server, a daemon and a web server."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from dagster_kumo.local import LocalKumo
from tests.support import free_port, wait_until
from tests.system.production.postgres import postgres
from tests.system.runs.gate import Gate, gate_before
from tests.system.runs.webserver import Webserver

ROOT = Path(__file__).parents[3]
LOCATION = "tests.system.production.definitions"
YAML = """
telemetry: {{enabled: false}}
nux: {{enabled: false}}
storage: {{postgres: {{postgres_url: "{postgres}"}}}}
run_coordinator:
  module: dagster.core.run_coordinator
  class: QueuedRunCoordinator
  config: {{dequeue_interval_seconds: 1}}
run_monitoring: {{enabled: true, poll_interval_seconds: 1, start_timeout_seconds: 120}}
run_retries: {{enabled: true, max_retries: 3}}
compute_logs:
  {{module: dagster.core.storage.noop_compute_log_manager, class: NoOpComputeLogManager}}
"""
END_SECONDS = 300.0


@dataclass
class Deployment:
    """What runs, and what it leaves."""

    instance: dg.DagsterInstance
    web: Webserver
    gate: Gate
    home: Path

    def launch(self, job: str, *partitions: str, tags: Mapping[str, str] = {}) -> str:
        """Launch a run of a job for a partition, or for a range of them: its id."""
        days = {
            "dagster/asset_partition_range_start": partitions[0],
            "dagster/asset_partition_range_end": partitions[-1],
        }
        one = {"dagster/partition": partitions[0]}
        return self.web.launch(job, {}, {**(days if partitions[1:] else one), **tags})

    def attempts(self, run_id: str) -> list[dg.DagsterRun]:
        """A run and its retries, oldest first."""
        again = self.instance.get_runs(dg.RunsFilter(tags={"dagster/root_run_id": run_id}))
        first = self.instance.get_run_by_id(run_id)
        return [run for run in (first, *reversed(again)) if run is not None]

    def wait_for_end(self, run_id: str) -> dg.DagsterRun:
        """Wait until a run has ended, and its retries: the last of them."""

        def ended() -> bool:
            last = self.attempts(run_id)[-1]
            if last.status == dg.DagsterRunStatus.FAILURE:
                # A run that has just failed has no tag yet that says whether it is retried.
                return last.tags.get("dagster/will_retry") == "false"
            return last.is_finished

        wait_until(ended, seconds=END_SECONDS)
        return self.attempts(run_id)[-1]

    def jobs(self, model: str) -> list[dict[str, Any]]:
        """The prediction jobs that were launched for a model's assets, oldest first."""
        asset = f"{model}/"
        return [
            j
            for j in self.gate.open_to.jobs
            if j["tags"].get("dagster.asset", "").startswith(asset)
        ]

    def materialized(self, *path: str) -> dict[str | None, set[str]]:
        """The jobs that an asset was materialized from, by partition."""
        found: dict[str | None, set[str]] = {}
        for record in self.instance.fetch_materializations(dg.AssetKey(path), limit=1000).records:
            made = record.asset_materialization
            assert made is not None
            job_id = str(made.metadata["dagster-kumo/job_id"].value)
            found.setdefault(made.partition, set()).add(job_id)
        return found

    def lines(self, run_id: str) -> list[str]:
        """What a run and its retries have logged."""
        entries = [e for run in self.attempts(run_id) for e in self.instance.all_logs(run.run_id)]
        return [entry.user_message for entry in entries if not entry.is_dagster_event]


@contextmanager
def deployment(kumo: LocalKumo, home: Path) -> Iterator[Deployment]:
    """A deployment for a while, whose runs find a stand-in behind a gate."""
    with ExitStack() as stack:
        url = stack.enter_context(postgres())
        gate = stack.enter_context(gate_before(kumo))
        (home / "dagster.yaml").write_text(YAML.format(postgres=url))
        port, web_port = free_port(), free_port()
        (home / "workspace.yaml").write_text(
            f"load_from: [{{grpc_server: {{host: 127.0.0.1, port: {port}, location_name: {LOCATION}}}}}]"
        )
        environment = {
            "DAGSTER_HOME": str(home),
            "KUMO_API_ENDPOINT": gate.url,
            "KUMO_API_KEY": kumo.api_key,
            "STORE": str(home / "store"),
        }
        workspace = ["-w", str(home / "workspace.yaml")]
        instance = stack.enter_context(dg.DagsterInstance.from_config(str(home)))
        for name, *command in (
            ("dagster", "api", "grpc", "-m", LOCATION, "-h", "127.0.0.1", "-p", str(port)),
            ("dagster-webserver", *workspace, "-h", "127.0.0.1", "-p", str(web_port)),
            ("dagster-daemon", "run", *workspace),
        ):
            log = home / f"{name}.log"
            stack.enter_context(_process(name, command, environment, log))
            if command[0] == "api":
                wait_until(lambda port=port: _answers(port), seconds=END_SECONDS)
        web = Webserver(f"http://127.0.0.1:{web_port}", LOCATION, "{}")
        wait_until(web.is_up, seconds=END_SECONDS)
        yield Deployment(instance, web, gate, home)


@contextmanager
def _process(
    name: str, arguments: Sequence[str], environment: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    program = str(Path(sys.executable).parent / name)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program, *arguments],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        # Whatever it started dies with it: runs are workers of the code server.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


def _answers(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0
