from collections.abc import Iterator

import pytest

from dagster_kumo.local import LocalKumo
from tests.system.production.deployment import Deployment, deployment


@pytest.fixture(scope="session")
def _slow_kumo() -> Iterator[LocalKumo]:
    with LocalKumo(run_seconds=16, files_per_output=2) as kumo:
        yield kumo


@pytest.fixture(scope="session")
def _deployment(
    _slow_kumo: LocalKumo, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    with deployment(_slow_kumo, tmp_path_factory.mktemp("production")) as production:
        yield production


@pytest.fixture
def production(_deployment: Deployment) -> Iterator[Deployment]:
    """A deployment whose server takes sixteen seconds for a job, without the faults of other tests."""
    yield _deployment
    _deployment.gate.release_all()
    _deployment.gate.open_to.faults.clear()
