from collections.abc import Iterator

import pytest

from dagster_kumo.local import LocalKumo
from tests.system.production.deployment import Deployment, deployment


@pytest.fixture(scope="session")
def _slow_kumo() -> Iterator[LocalKumo]:
    with LocalKumo(run_seconds=16, files_per_output=2) as kumo:
        yield kumo


@pytest.fixture(scope="session")
def _quick_kumo() -> Iterator[LocalKumo]:
    with LocalKumo(run_seconds=3, files_per_output=2) as kumo:
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


@pytest.fixture
def quick(production: Deployment, _quick_kumo: LocalKumo) -> Iterator[Deployment]:
    """The deployment before a server that takes three seconds for a job."""
    slow = production.gate.open_to
    production.gate.open_to = _quick_kumo
    yield production
    _quick_kumo.faults.clear()
    production.gate.open_to = slow
