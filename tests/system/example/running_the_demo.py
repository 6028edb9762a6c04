"""The demo, run in folders of its own."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parents[3] / "example_project"


@dataclass(frozen=True)
class Demo:
    """What a run of the demo left behind."""

    output: str
    data: Path
    dagster_home: Path


def run_demo(
    folder: Path, *options: str, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run the demo with all its files below `folder`."""
    home = folder / "dagster_home"
    home.mkdir()
    shutil.copy(PROJECT / "dagster_home" / "dagster.yaml", home)
    return subprocess.run(
        [sys.executable, "-m", "example_project.demo", *options],
        env={
            **os.environ,
            "EXAMPLE_DATA": str(folder / "data"),
            "DAGSTER_HOME": str(home),
            **environment,
        },
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
