"""What 1,000 held runs cost, on PostgreSQL: the ticks of the hold sensor, and Dagster's queue.

`python -m benchmarks.held_runs [--runs 1000]`
"""

import argparse
import statistics
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import dagster as dg

# The daemon's look at the queue has no other name.
from dagster._core.storage.dagster_run import DagsterRunStatus
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon

from dagster_kumo import BatchPrediction
from dagster_kumo.local import LocalKumo
from tests.sensor.hold.queued_runs import QueuedRuns
from tests.support import PURCHASE, purchase_assets
from tests.system.production.postgres import postgres

YAML = """
telemetry: {{enabled: false}}
storage: {{postgres: {{postgres_url: "{url}"}}}}
concurrency:
  runs:
    max_concurrent_runs: 10
    tag_concurrency_limits: [{{key: dagster-kumo/hold, value: until_done, limit: 0}}]
run_coordinator: {{module: dagster.core.run_coordinator, class: QueuedRunCoordinator}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.held_runs", description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--ticks", type=int, default=5, help="while all jobs go on")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = stack.enter_context(postgres())
        kumo = LocalKumo(folder / "kumo", run_seconds=3600, keep_requests=100_000)
        stack.enter_context(kumo)
        (folder / "dagster.yaml").write_text(YAML.format(url=url))
        instance = stack.enter_context(dg.DagsterInstance.from_config(str(folder)))
        _measure(instance, kumo, folder, arguments.runs, arguments.ticks)


def _measure(
    instance: dg.DagsterInstance, kumo: LocalKumo, folder: Path, runs: int, ticks: int
) -> None:
    # Not days: the stand-in has no data for so many.
    keys = [str(number) for number in range(runs)]
    assets = purchase_assets(
        partitions_def=dg.StaticPartitionsDefinition(keys),
        prediction=BatchPrediction(training_job_id=PURCHASE, anchor=None),
    )
    held = QueuedRuns(
        [assets],
        instance=instance,
        url=kumo.url,
        api_key=kumo.api_key,
        store=folder / "store",
    )
    started = time.monotonic()
    for key in keys:
        held.add(key)
    print(f"{runs} runs created in {time.monotonic() - started:.0f} s", flush=True)
    kumo.clear_requests()
    while len(kumo.jobs) < runs:
        _tick(held, kumo, "launching")
    seconds = [_tick(held, kumo, "waiting") for _ in range(ticks)]
    print(f"median of a tick that waits: {statistics.median(seconds):.1f} s")
    daemon = QueuedRunCoordinatorDaemon(interval_seconds=5)
    config = instance.get_concurrency_config()
    for _ in range(3):
        started = time.monotonic()
        assert daemon._get_runs_to_dequeue(instance, config, None) == []
        print(f"Dagster's look at its queue: {time.monotonic() - started:.2f} s", flush=True)
    queued = instance.get_runs_count(dg.RunsFilter(statuses=[DagsterRunStatus.QUEUED]))
    assert queued == runs, queued


def _tick(held: QueuedRuns, kumo: LocalKumo, what: str) -> float:
    kumo.clear_requests()
    cpu, started = time.process_time(), time.monotonic()
    said = held.tick()
    seconds = time.monotonic() - started
    calls = Counter(request.method for request in kumo.requests)
    print(f"{what}: {seconds:.1f} s ({time.process_time() - cpu:.1f} s of CPU with the stand-in's), {dict(calls)}. {said}", flush=True)  # fmt: skip
    return seconds


if __name__ == "__main__":
    main()
