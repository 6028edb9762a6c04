"""Jobs from outside Dagster under Dagster's own daemon, which is killed and started again."""

import datetime as dt
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest

from dagster_kumo import KumoClient
from dagster_kumo.api.records import BatchPredictionRequest
from dagster_kumo.local import LocalKumo
from tests.support import PURCHASE, day, instance_in, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

Found = list[tuple[str | None, str]]


@contextmanager
def daemon(home: Path, kumo: LocalKumo) -> Iterator[subprocess.Popen[bytes]]:
    """Dagster's daemon, with a code location of its own; killed at the end."""
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(home),
        "KUMO_API_KEY": kumo.api_key,
        "KUMO_API_ENDPOINT": kumo.url,
        "STORE": str(home / "store"),
    }
    command = [str(Path(sys.executable).with_name("dagster-daemon")), "run"]
    process = subprocess.Popen(
        [*command, "-m", "tests.system.e2e.outside_definitions"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_job_shows_up_once_however_often_the_daemon_is_killed(tmp_path: Path) -> None:
    with LocalKumo() as kumo, instance_in(tmp_path) as instance:
        client = KumoClient(kumo.url, kumo.api_key)

        def launch(days_ago: int) -> tuple[str, str]:
            """A job for the end of a day: the day, and the job."""
            time = dt.datetime.fromisoformat(day(days_ago - 1))
            job_id, _ = client.create_prediction_job(
                BatchPredictionRequest(model_training_job_id=PURCHASE, prediction_time=time)
            )
            return day(days_ago), job_id

        def shown(model: str) -> Found:
            key = dg.AssetKey([model, "predictions"])
            records = instance.fetch_materializations(key, limit=20).records
            events = [record.asset_materialization for record in reversed(records)]
            return [(e.partition, e.metadata["dagster-kumo/job_id"].value) for e in events if e]

        first = launch(5)
        with daemon(tmp_path, kumo):
            wait_until(lambda: shown("recorded") == shown("delivered") == [first])
        second = launch(4)
        with daemon(tmp_path, kumo):
            wait_until(lambda: shown("recorded") == shown("delivered") == [first, second])
            kumo.clear_requests()
            wait_until(lambda: len(kumo.requests) > 8)  # a few ticks more
            assert shown("recorded") == shown("delivered") == [first, second]
        assert len(kumo.jobs) == 2
        assert len(list((tmp_path / "store/delivered").rglob("*.parquet"))) == 2
        assert not (tmp_path / "store/recorded").exists()
