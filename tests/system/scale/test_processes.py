"""Files that are each brought by a process of its own, as Dagster's executors start them."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
from collections.abc import Iterator

import dagster as dg
import pytest

from dagster_kumo.local import LocalKumo
from tests.support import instance_in
from tests.system.runs.gate import gate_before
from tests.system.scale.definitions import fanned_out, on_dask, retried
from tests.system.scale.world import MULTIPROCESS, World

pytestmark = pytest.mark.scale
FILES = 4


@pytest.fixture
def world(tmp_path) -> Iterator[World]:
    with (
        LocalKumo(files_per_output=FILES) as kumo,
        instance_in(tmp_path / "home") as instance,
    ):
        yield World(kumo, instance, tmp_path / "store")


def processes(run: dg.JobExecutionResult) -> dict[str, int]:
    """The process of each step."""
    return {
        str(event.step_key): int(event.event_specific_data.metadata["pid"].value)
        for event in run.all_events
        if event.event_type_value == "STEP_WORKER_STARTED"
    }


def test_each_file_has_a_process_of_its_own_and_the_bytes_are_kumos(world):
    run = world.execute(fanned_out, config=MULTIPROCESS)
    assert run.success
    assert len(set(processes(run).values())) == 2 * FILES + 2
    assert len(world.launched) == 1
    assert len(world.materialized(run)) == 2
    job_id = world.launched[0]["job_id"]
    made = sorted(
        hashlib.sha256(path.read_bytes()).hexdigest()
        for path in world.kumo.data.rglob("*.parquet")
        if job_id in str(path)
    )
    stored = sorted(
        hashlib.sha256(path.read_bytes()).hexdigest() for path in world.base_path.rglob("*.parquet")
    )
    assert len(stored) == 2 * FILES
    assert stored == made


@pytest.mark.parametrize("job", [fanned_out, retried])
def test_a_process_that_is_killed_while_it_fetches_doubles_nothing(world, job):
    with gate_before(world.kumo) as gate:
        world.url = gate.url
        held = gate.hold("GET", "^/files/.*predictions/part-00002", times=1)

        def kill() -> None:
            held.wait()
            (run,) = world.instance.get_runs()
            logs = world.instance.all_logs(
                run.run_id, of_type=dg.DagsterEventType.STEP_WORKER_STARTED
            )
            (pid,) = (
                int(str(entry.dagster_event.event_specific_data.metadata["pid"].value))
                for entry in logs
                if "transfer[predictions_00002]" in str(entry.step_key)
            )
            os.kill(pid, signal.SIGKILL)
            held.release()

        killer = threading.Thread(target=kill)
        killer.start()
        run = world.execute(job, config=MULTIPROCESS)
        killer.join()
    if job is fanned_out:
        assert not run.success
        assert not world.manifests()
        world.url = world.kumo.url
        run = world.execute(job, config=MULTIPROCESS, again=run)
        assert sorted(step.partition(".")[2] for step in processes(run)) == [
            "store",
            "transfer[predictions_00002]",
        ]
    assert run.success
    assert len(world.launched) == 1
    assert len(world.materialized(run)) == 2
    for manifest in world.manifests():
        (version,) = (path for path in manifest.parent.iterdir() if path.is_dir())
        assert sorted(path.name for path in version.glob("*.parquet")) == [
            f"part-0000{i}.parquet" for i in range(FILES)
        ]
        assert not list(version.glob(".*"))  # what the killed process had begun


def test_dagsters_dask_executor_which_would_leave_out_the_files_is_refused(world):
    cluster = {"local": {"n_workers": 2, "dashboard_address": None}}
    config = {"execution": {"config": {"cluster": cluster}}}
    run = world.execute(on_dask, config=config, partition=None)
    assert not run.success
    (failure,) = [e for e in run.all_events if e.event_type_value == "STEP_FAILURE"]
    assert "The dask executor skips steps" in failure.step_failure_data.error.cause.message
    assert not world.launched
