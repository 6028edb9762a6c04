"""Dagster's web UI on the example project, as a person has it: webserver, daemon, browser."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from playwright.sync_api import Page, expect, sync_playwright

ROOT = Path(__file__).parents[2]
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


@dataclass
class Dagit:
    """A running web UI, by its address."""

    url: str
    data: Path

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """Ask its GraphQL API."""
        answer = requests.post(
            f"{self.url}/graphql", json={"query": query, "variables": variables}, timeout=30
        )
        answer.raise_for_status()
        return answer.json()["data"]

    def wait_for_run(self, run_id: str, seconds: float = 120) -> str:
        """Wait until a run has ended: its status."""
        query = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            status = self.ask(query, id=run_id)["runOrError"].get("status")
            if status in ("SUCCESS", "FAILURE", "CANCELED"):
                return status
            time.sleep(0.3)
        raise AssertionError(f"Run {run_id} is still {status}")

    def wait_until_loaded(self, seconds: float = 90) -> None:
        """Wait until every code location is loaded, and has not failed to load."""
        query = """{ workspaceOrError { ... on Workspace { locationEntries {
            loadStatus locationOrLoadError { __typename ... on PythonError { message } } } } } }"""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                entries = self.ask(query)["workspaceOrError"]["locationEntries"]
            except requests.RequestException:
                entries = []
            for entry in entries:
                found = entry["locationOrLoadError"] or {}
                assert found.get("__typename") != "PythonError", found["message"]
            if entries and all(entry["loadStatus"] == "LOADED" for entry in entries):
                return
            time.sleep(0.5)
        raise AssertionError("The code location did not load.")


@pytest.fixture(scope="session")
def dagit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dagit]:
    home = tmp_path_factory.mktemp("dagster_home")
    data = tmp_path_factory.mktemp("data")
    shutil.copy(EXAMPLE / "dagster_home" / "dagster.yaml", home)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("KUMO_")}
    environment |= {"DAGSTER_HOME": str(home), "EXAMPLE_DATA": str(data)}
    with (tmp_path_factory.mktemp("log") / "dagit.log").open("w") as log:
        process = subprocess.Popen(
            [str(Path(sys.executable).parent / "dg"), "dev", "--port", str(port)],
            cwd=EXAMPLE,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # Started from a background job, SIGINT would be ignored, and nothing could stop it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            found = Dagit(f"http://127.0.0.1:{port}", data)
            found.wait_until_loaded()
            yield found
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            finally:
                # The stand-in that the runs share is a process of its own.
                subprocess.run(["pkill", "-f", "--", f"--data {data}"], check=False)


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
