"""Dagster's web UI on the example project, as a person has it: webserver, daemon, browser."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests
from example_project.which_kumo import promote_first_model
from playwright.sync_api import Page, expect, sync_playwright

from dagster_kumo import KumoClient
from dagster_kumo.local import LocalKumo
from tests.support import free_port, wait_until

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "example_project"
SCREENSHOTS = ROOT / "screenshots"
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


# The UI tells nobody that something has happened: it is asked, but not all the time.
wait_for = partial(wait_until, seconds=120, pause=0.3)


@dataclass
class Dagit:
    """A running web UI, by its address, and the folder in which the example keeps its files."""

    url: str
    data: Path

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """Ask its GraphQL API."""
        answer = requests.post(
            f"{self.url}/graphql", json={"query": query, "variables": variables}, timeout=30
        )
        answer.raise_for_status()
        return answer.json()["data"]

    def launch(
        self,
        *assets: str,
        day: str | None = None,
        tags: Mapping[str, str] = {},
        config: Mapping[str, Any] = {},
    ) -> str:
        """Launch a run of some assets with their checks: its id."""
        query = """mutation($run: ExecutionParams!) { launchRun(executionParams: $run) {
            ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
        answer = self.ask(
            query,
            run={
                "mode": "default",
                "selector": {
                    "repositoryName": "__repository__",
                    "repositoryLocationName": "example_project",
                    "jobName": "__ASSET_JOB",
                    "assetSelection": [{"path": asset.split("/")} for asset in assets],
                },
                "runConfigData": config,
                "executionMetadata": {
                    "tags": [
                        {"key": key, "value": value}
                        for key, value in {
                            **tags,
                            **({"dagster/partition": day} if day else {}),
                        }.items()
                    ]
                },
            },
        )["launchRun"]
        assert "run" in answer, answer
        return answer["run"]["runId"]

    def tags(self, run_id: str) -> dict[str, str]:
        """The tags of a run."""
        query = "query($id: ID!) { runOrError(runId: $id) { ... on Run { tags { key value } } } }"
        found = self.ask(query, id=run_id)["runOrError"]["tags"]
        return {tag["key"]: tag["value"] for tag in found}

    def wait_for_run(self, run_id: str) -> str:
        """Wait until a run has ended: its status."""
        query = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"

        def ended() -> str | None:
            status = self.ask(query, id=run_id)["runOrError"].get("status")
            return status if status in ("SUCCESS", "FAILURE", "CANCELED") else None

        return wait_for(ended)

    def job_of(self, asset: str, day: str) -> str | None:
        """The Kumo job that a partition was last made from; None where it was not."""
        made = self._last_made(asset, day)
        entries = made["metadataEntries"] if made else []
        return next((e["text"] for e in entries if e["label"] == "dagster-kumo/job_id"), None)

    def is_made(self, asset: str, day: str) -> bool:
        """Whether a partition is materialized."""
        return self.run_of(asset, day) is not None

    def run_of(self, asset: str, day: str) -> str | None:
        """The run that a partition was last made by."""
        made = self._last_made(asset, day)
        return made["runId"] if made else None

    def _last_made(self, asset: str, day: str) -> dict[str, Any] | None:
        query = """query($key: AssetKeyInput!, $days: [String!]) { assetNodeOrError(assetKey: $key) {
            ... on AssetNode { latestMaterializationByPartition(partitions: $days) {
            runId metadataEntries { label ... on TextMetadataEntry { text } } } } } }"""
        node = self.ask(query, key={"path": asset.split("/")}, days=[day])["assetNodeOrError"]
        (made,) = node["latestMaterializationByPartition"]
        return made

    def wait_until_loaded(self, seconds: float = 90) -> None:
        """Wait until every code location is loaded, and has not failed to load."""
        query = """{ workspaceOrError { ... on Workspace { locationEntries {
            loadStatus locationOrLoadError { __typename ... on PythonError { message } } } } } }"""

        def loaded() -> bool:
            try:
                entries = self.ask(query)["workspaceOrError"]["locationEntries"]
            except requests.RequestException:
                return False  # the server has not come up yet
            for entry in entries:
                found = entry["locationOrLoadError"] or {}
                assert found.get("__typename") != "PythonError", found["message"]
            return bool(entries) and all(entry["loadStatus"] == "LOADED" for entry in entries)

        wait_for(loaded, seconds=seconds)


@pytest.fixture(scope="session")
def kumo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKumo]:
    """The stand-in, in this process, so that a test sees its jobs and can let one fail.

    The example finds it by its folder; its jobs take the time that the example's own would.
    """
    folder = tmp_path_factory.mktemp("data") / "kumo"
    with LocalKumo(folder, port=free_port(), queue_seconds=0.5, run_seconds=1.5) as local_kumo:
        promote_first_model(KumoClient(local_kumo.url, local_kumo.api_key))
        yield local_kumo


@pytest.fixture(scope="session")
def dagit(kumo: LocalKumo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dagit]:
    home = tmp_path_factory.mktemp("dagster_home")
    shutil.copy(EXAMPLE / "dagster_home" / "dagster.yaml", home)
    port = free_port()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("KUMO_")}
    path = [str(ROOT), *filter(None, [environment.get("PYTHONPATH")])]
    environment |= {
        "DAGSTER_HOME": str(home),
        "EXAMPLE_DATA": str(kumo.data.parent),
        "PYTHONPATH": os.pathsep.join(path),
    }
    command = [str(Path(sys.executable).parent / "dg"), "dev", "--port", str(port)]
    with (tmp_path_factory.mktemp("log") / "dagit.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--workspace", str(Path(__file__).with_name("workspace.yaml"))],
            cwd=EXAMPLE,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # Started from a background job, SIGINT would be ignored, and nothing could stop it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            found = Dagit(f"http://127.0.0.1:{port}", kumo.data.parent)
            found.wait_until_loaded()
            yield found
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)


@pytest.fixture(scope="session")
def browser_page() -> Iterator[Page]:
    SCREENSHOTS.mkdir(exist_ok=True)
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    assert chromium, "There is no Chromium: `make e2e` installs it on Debian and Ubuntu."
    expect.set_options(timeout=30_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)
        context = browser.new_context(
            viewport={"width": 1600, "height": 1000}, timezone_id="UTC", locale="en-US"
        )
        context.set_default_timeout(30_000)
        yield context.new_page()
        browser.close()
