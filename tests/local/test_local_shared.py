"""Restarts, one stand-in for many processes, and the command line."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest
import requests
from filelock import Timeout

from dagster_kumo.local import LocalKumo
from dagster_kumo.local.shared import serving_lock

ASK = (
    "import sys; from dagster_kumo.local import LocalKumo;"
    "k = LocalKumo.shared(sys.argv[1], queue_seconds=0, run_seconds=0, idle_timeout=30);"
    "print(k.url, k.pid)"
)


def gone(shared):
    """Whether nobody answers any more. (A process id may live on as a zombie.)"""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            requests.get(shared.url, timeout=1)
        except requests.ConnectionError:
            return True
        time.sleep(0.02)
    return False


def let_go(folder):
    """Whether no server holds the folder any more; asks nobody, so that it may fall idle."""
    with contextlib.suppress(Timeout), serving_lock(folder).acquire(timeout=5):
        return True
    return False


def test_a_port_that_is_taken_by_now_is_replaced(tmp_path):
    with LocalKumo(tmp_path / "a") as kumo:
        address = kumo.url
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "port.json").write_text((tmp_path / "a" / "port.json").read_text())
    with LocalKumo(tmp_path / "a") as kumo, LocalKumo(tmp_path / "b") as other:
        assert kumo.url == address != other.url


def test_a_restart_keeps_jobs_and_files(tmp_path, make_api):
    with LocalKumo(tmp_path) as kumo:
        api = make_api(kumo)
        job = api.run(job_tags={"key": "1"})
        frame, url = api.frame(job["job_id"]), api.urls(job["job_id"])[0]
        address = kumo.url
    with LocalKumo(tmp_path) as kumo:
        api = make_api(kumo)
        assert api.get("/prediction_jobs", key="1") == [job]
        assert api.frame(job["job_id"]).equals(frame)
        assert kumo.url == address
        assert requests.get(url, timeout=5).status_code == 200
    assert (tmp_path / "state.json").exists()


def test_an_unfinished_job_goes_on_after_a_restart(tmp_path, make_api):
    with LocalKumo(tmp_path, queue_seconds=30) as kumo:
        id = make_api(kumo).launch()
    with LocalKumo(tmp_path) as kumo:
        assert make_api(kumo).wait(id)["job_status_report"]["status"] == "DONE"


def test_a_temporary_folder_is_removed():
    with LocalKumo() as kumo:
        data = kumo.data
        assert data.is_dir()
    assert not data.exists()


def test_one_folder_has_one_server(tmp_path):
    with LocalKumo(tmp_path) as kumo:
        with pytest.raises(RuntimeError, match="Another stand-in"):
            LocalKumo(tmp_path).start()
        shared = LocalKumo.shared(tmp_path)
        assert (shared.url, shared.pid) == (kumo.url, os.getpid())


def test_a_taken_port_is_named():
    with LocalKumo() as kumo:
        port = int(kumo.url.split(":")[2].removesuffix("/api"))
        with pytest.raises(RuntimeError, match=f"Cannot listen on 127.0.0.1:{port}"):
            LocalKumo(port=port).start()


@pytest.mark.scale
def test_many_processes_share_one(tmp_path):
    asking = [
        subprocess.Popen(
            [sys.executable, "-c", ASK, str(tmp_path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    answers = {process.communicate(timeout=60)[0].strip() for process in asking}
    assert len(answers) == 1, answers
    url, pid = answers.pop().split()
    assert (tmp_path / "server.log").read_text().count("is running") == 1

    shared = LocalKumo.shared(tmp_path)
    assert (shared.url, shared.pid) == (url, int(pid))
    headers = {"X-API-Key": shared.api_key}
    assert requests.get(f"{shared.url}/v1/connectors", headers=headers, timeout=5).ok

    # It is nobody's child: neither a signal to a caller's group nor its end reaches it.
    assert os.getsid(shared.pid) == shared.pid
    shared.stop()
    assert gone(shared)
    assert not (tmp_path / "server.json").exists()


def test_a_killed_one_is_replaced_and_an_idle_one_ends(tmp_path):
    first = LocalKumo.shared(tmp_path)
    os.kill(first.pid, signal.SIGKILL)
    assert gone(first)
    assert (tmp_path / "server.json").exists()
    second = LocalKumo.shared(tmp_path, idle_timeout=2)
    assert second.pid != first.pid
    assert let_go(tmp_path)
    assert gone(second)


def test_the_command_line(tmp_path):
    command = [sys.executable, "-u", "-m", "dagster_kumo.cli", "local", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--data", str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.strip())
        if line.startswith("Press Ctrl-C"):
            break
    text = "\n".join(lines)
    assert "NOT Kumo" in text
    assert "trainingjob-cdnow-purchase " in text
    assert str(tmp_path / "exports") in text
    settings = dict(line.split("=") for line in lines if line.startswith("KUMO_"))
    headers = {"X-API-Key": settings["KUMO_API_KEY"]}
    url = settings["KUMO_API_ENDPOINT"] + "/v1/connectors"
    assert requests.get(url, headers=headers, timeout=5).ok
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=5) == 0
    process.stdout.close()


def test_the_command_line_says_what_is_missing(monkeypatch):
    from click.testing import CliRunner

    from dagster_kumo.cli import main
    from dagster_kumo.local import standin

    monkeypatch.setattr(standin, "find_spec", lambda name: None if name == "duckdb" else object())
    with pytest.raises(ImportError, match=r"duckdb.*pip install 'dagster-kumo\[local\]'"):
        LocalKumo().start()
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # this process keeps its handlers
    result = CliRunner().invoke(main, ["local"])
    assert result.exit_code == 1
    assert "duckdb" in result.output
    assert "pip install 'dagster-kumo[local]'" in result.output


def test_a_shared_one_speaks_the_generation_that_is_asked_for(tmp_path):
    shared = LocalKumo.shared(tmp_path, queue_seconds=0, run_seconds=0, idle_timeout=30, api="3")
    try:
        answer = requests.get(
            f"{shared.url}/v1/projects/default", headers={"X-API-Key": shared.api_key}, timeout=10
        )
        assert answer.json()["slug"] == "default"
    finally:
        shared.stop()
