"""Dagster's own web server on the definitions of these tests."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from tests.support import free_port, wait_until

ROOT = Path(__file__).parents[3]
LOCATION = "tests.system.runs.definitions"
YAML = """
telemetry: {enabled: false}
run_coordinator: {module: dagster.core.run_coordinator, class: DefaultRunCoordinator}
"""
LAUNCH = """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
RE_EXECUTE = """mutation($params: ReexecutionParams!) {
    launchRunReexecution(reexecutionParams: $params) {
    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
TERMINATE = """mutation($id: String!) { terminateRun(runId: $id) {
    __typename ... on TerminateRunSuccess { run { runId } } ... on PythonError { message } } }"""
BACKFILL = """mutation($params: LaunchBackfillParams!) {
    launchPartitionBackfill(backfillParams: $params) {
    __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
RE_EXECUTE_BACKFILL = """mutation($params: ReexecutionParams!) {
    reexecutePartitionBackfill(reexecutionParams: $params) {
    __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
CANCEL_BACKFILL = """mutation($id: String!) { cancelPartitionBackfill(backfillId: $id) {
    __typename ... on CancelBackfillSuccess { backfillId } ... on PythonError { message } } }"""

START_SCHEDULE = """mutation($selector: ScheduleSelector!) {
    startSchedule(scheduleSelector: $selector) {
    __typename ... on ScheduleStateResult { scheduleState { status } } ... on PythonError { message } } }"""
START_SENSOR = """mutation($selector: SensorSelector!) { startSensor(sensorSelector: $selector) {
    __typename ... on Sensor { id } ... on PythonError { message } } }"""
STOP_SENSOR = """mutation($id: String!) { stopSensor(id: $id) { __typename } }"""


class Webserver:
    """A running web server; Dagster's default launcher runs what it is asked to launch."""

    def __init__(self, url: str, location: str = LOCATION, job: str = "make_{}") -> None:
        self._url = url
        self._repository = {
            "repositoryName": "__repository__",
            "repositoryLocationName": location,
        }
        self._job = job

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """Ask its GraphQL API."""
        answer = requests.post(
            f"{self._url}/graphql", json={"query": query, "variables": variables}, timeout=60
        )
        answer.raise_for_status()
        return answer.json()["data"]

    def launch(
        self,
        job: str,
        config: Mapping[str, Any],
        tags: Mapping[str, str],
        steps: Sequence[str] = (),
    ) -> str:
        """Launch a run, of some steps or all: its id."""
        params: dict[str, Any] = {
            "selector": {**self._repository, "jobName": self._job.format(job)},
            "runConfigData": config,
            "executionMetadata": {"tags": [{"key": k, "value": v} for k, v in tags.items()]},
        }
        if steps:
            params["stepKeys"] = list(steps)
        return self._run_id(self.ask(LAUNCH, params=params)["launchRun"])

    def re_execute(self, run_id: str) -> str:
        """Launch what a run has left undone: the id of the new run."""
        params = {"parentRunId": run_id, "strategy": "FROM_FAILURE"}
        return self._run_id(self.ask(RE_EXECUTE, params=params)["launchRunReexecution"])

    def terminate(self, run_id: str) -> None:
        """What the button does."""
        self._run_id(self.ask(TERMINATE, id=run_id)["terminateRun"])

    def backfill(
        self, assets: Sequence[Sequence[str]], partitions: Sequence[str], tags: Mapping[str, str]
    ) -> str:
        """Launch a backfill of assets, given by their paths: its id."""
        params = {
            "assetSelection": [{"path": list(path)} for path in assets],
            "partitionNames": list(partitions),
            "tags": [{"key": k, "value": v} for k, v in tags.items()],
        }
        return self._backfill_id(self.ask(BACKFILL, params=params)["launchPartitionBackfill"])

    def backfill_of_job(self, job: str, partitions: Sequence[str], tags: Mapping[str, str]) -> str:
        """Launch a backfill of a job: its id."""
        params = {
            "selector": {
                "partitionSetName": f"{self._job.format(job)}_partition_set",
                "repositorySelector": self._repository,
            },
            "partitionNames": list(partitions),
            "tags": [{"key": k, "value": v} for k, v in tags.items()],
        }
        return self._backfill_id(self.ask(BACKFILL, params=params)["launchPartitionBackfill"])

    def re_execute_backfill(self, backfill_id: str) -> str:
        """Launch what a backfill has left undone: the id of the new backfill."""
        params = {"parentRunId": backfill_id, "strategy": "FROM_FAILURE"}
        answer = self.ask(RE_EXECUTE_BACKFILL, params=params)
        return self._backfill_id(answer["reexecutePartitionBackfill"])

    def cancel_backfill(self, backfill_id: str) -> None:
        """What the button does."""
        self._backfill_id(self.ask(CANCEL_BACKFILL, id=backfill_id)["cancelPartitionBackfill"])

    def start_schedule(self, name: str) -> None:
        """Turn a schedule on."""
        selector = {**self._repository, "scheduleName": name}
        answer = self.ask(START_SCHEDULE, selector=selector)["startSchedule"]
        assert "scheduleState" in answer, answer

    @contextmanager
    def sensor(self, name: str) -> Iterator[None]:
        """A sensor is on for a while."""
        selector = {**self._repository, "sensorName": name}
        answer = self.ask(START_SENSOR, selector=selector)["startSensor"]
        assert "id" in answer, answer
        try:
            yield
        finally:
            self.ask(STOP_SENSOR, id=answer["id"])

    def is_up(self) -> bool:
        """Whether it answers, with the code location loaded."""
        query = """{ locationStatusesOrError { ... on WorkspaceLocationStatusEntries {
            entries { loadStatus } } } repositoriesOrError { ... on RepositoryConnection {
            nodes { name } } ... on PythonError { message } } }"""
        try:
            answer = self.ask(query)
        except requests.RequestException:
            return False
        entries = answer["locationStatusesOrError"]["entries"]
        if not entries or any(entry["loadStatus"] != "LOADED" for entry in entries):
            return False
        assert answer["repositoriesOrError"].get("nodes"), answer
        return True

    def _run_id(self, answer: dict[str, Any]) -> str:
        assert "run" in answer, answer
        return answer["run"]["runId"]

    def _backfill_id(self, answer: dict[str, Any]) -> str:
        assert "backfillId" in answer, answer
        return answer["backfillId"]


@contextmanager
def webserver(home: Path, environment: Mapping[str, str]) -> Iterator[Webserver]:
    """Serve the instance in a folder, for a while."""
    (home / "dagster.yaml").write_text(YAML)
    port = free_port()
    command = [str(Path(sys.executable).parent / "dagster-webserver"), "-m", LOCATION]
    with (home / "webserver.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "-h", "127.0.0.1", "-p", str(port)],
            cwd=ROOT,
            env={**os.environ, **environment, "DAGSTER_HOME": str(home)},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # Started from a background job, SIGINT would be ignored, and nothing could stop it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    try:
        server = Webserver(f"http://127.0.0.1:{port}")
        wait_until(lambda: server.is_up() or process.poll() is not None)
        assert process.poll() is None, (home / "webserver.log").read_text()
        yield server
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
