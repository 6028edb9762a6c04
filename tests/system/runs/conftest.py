from collections.abc import Iterator
from pathlib import Path

import pytest

from dagster_kumo import KumoClient
from dagster_kumo.api.records import BatchPredictionRequest
from dagster_kumo.local import LocalKumo
from tests.support import PURCHASE, wait_until
from tests.system.runs.processes import World, world_of


@pytest.fixture
def world(kumo: LocalKumo, tmp_path: Path) -> Iterator[World]:
    """A world in which jobs are done at once."""
    with world_of(kumo, tmp_path) as world:
        yield world


@pytest.fixture(scope="module")
def endless_kumo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKumo]:
    """A stand-in whose jobs take longer than any test; its first is done."""
    data = tmp_path_factory.mktemp("kumo")
    with LocalKumo(data) as quick:
        client = KumoClient(quick.url, quick.api_key)
        client.create_prediction_job(BatchPredictionRequest(model_training_job_id=PURCHASE))
        wait_until(lambda: quick.jobs[0]["job_status_report"]["status"] == "DONE")
    with LocalKumo(data, run_seconds=600) as kumo:
        yield kumo


@pytest.fixture
def slow_world(endless_kumo: LocalKumo, tmp_path: Path) -> Iterator[World]:
    """A world in which jobs are never done."""
    with world_of(endless_kumo, tmp_path) as world:
        yield world
