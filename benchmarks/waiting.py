"""Seconds of a run and of its worker: the run waits for Kumo, or is held in the queue.

As a program it is the worker: it executes one run that has left the queue.
"""

import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from dagster_kumo.local import LocalKumo
from tests.sensor.hold.queued_runs import HOLD, QueuedRuns
from tests.support import day, instance_in, purchase_assets


@dataclass(frozen=True)
class Seconds:
    """Of a run, and of its process with all that it imports."""

    run: float
    worker: float

    def __str__(self) -> str:
        return f"run {self.run:.0f} s, worker {self.worker:.0f} s"


def measure(job_seconds: float) -> tuple[Seconds, Seconds]:
    """A job of so many seconds: when the run waits for it, and when it is held."""
    with tempfile.TemporaryDirectory() as folder, LocalKumo(run_seconds=job_seconds) as kumo:
        home = Path(folder)
        with instance_in(home / "dagster") as instance:
            runs = _queued_runs(home, instance, kumo.url, kumo.api_key)
            waiting = runs.add(day(2), {HOLD: "released"})
            held = runs.add(day(1))
            with ThreadPoolExecutor() as thread:
                waited = thread.submit(_work, home, runs, waiting, kumo)
                while runs.is_held(held) or not waited.done():
                    runs.tick()
                    time.sleep(1)  # a sensor has a pause between its ticks too
            return waited.result(), _work(home, runs, held, kumo)


def _queued_runs(home: Path, instance: dg.DagsterInstance, url: str, key: str) -> QueuedRuns:
    return QueuedRuns(
        [purchase_assets()],
        instance=instance,
        url=url,
        api_key=key,
        store=home / "store",
        settings={"poll_interval": 120.0},
    )


def _work(home: Path, runs: QueuedRuns, run_id: str, kumo: LocalKumo) -> Seconds:
    started = time.monotonic()
    command = [sys.executable, "-m", "benchmarks.waiting", str(home), kumo.url, kumo.api_key, run_id]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    worker = time.monotonic() - started
    stats = runs.instance.get_run_stats(run_id)
    assert runs.run(run_id).status == dg.DagsterRunStatus.SUCCESS
    assert stats.start_time is not None
    assert stats.end_time is not None
    return Seconds(stats.end_time - stats.start_time, worker)


def main() -> None:
    home, url, key, run_id = sys.argv[1:]
    with instance_in(Path(home) / "dagster") as instance:
        _queued_runs(Path(home), instance, url, key).execute(run_id)


if __name__ == "__main__":
    main()
