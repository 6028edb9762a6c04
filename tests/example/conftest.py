"""The demo, run once for all tests of what it leaves behind."""

from collections.abc import Iterator

import pytest
from running_the_demo import Demo, run_demo

from dagster_kumo.local import LocalKumo


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """The demo, run for two days. A key in the environment must not lead it to an account."""
    folder = tmp_path_factory.mktemp("demo")
    try:
        run = run_demo(folder, "--days", "2", environment={"KUMO_API_KEY": "customer:no-such-key"})
        assert run.returncode == 0, run.stdout
        yield Demo(run.stdout, folder / "data", folder / "dagster_home")
    finally:
        LocalKumo.shared(folder / "data" / "kumo").stop()
