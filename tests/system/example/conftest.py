"""The demo, run once for all tests of what it leaves behind."""

import pytest
from running_the_demo import Demo, run_demo

from dagster_kumo.local import LocalKumo


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """The demo, run for two days. A key in the environment must not lead it to an account.

    It finds a stand-in that runs already, whose jobs do not take their time.
    """
    folder = tmp_path_factory.mktemp("demo")
    with LocalKumo(folder / "data" / "kumo"):
        run = run_demo(folder, "--days", "2", environment={"KUMO_API_KEY": "customer:no-such-key"})
    assert run.returncode == 0, run.stdout
    return Demo(run.stdout, folder / "data", folder / "dagster_home")
