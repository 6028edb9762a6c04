"""Environments of their own for versions of the SDK that cannot share this one: both have one import name."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

from filelock import FileLock

ROOT = Path(__file__).parents[3]
PRE_RELEASE = "3.0.0b3"
"""Of the SDK and of the models: the newest, which pins the other."""


@cache
def python_with_sdk(version: str = PRE_RELEASE) -> str:
    """The Python of an environment with this version of the SDK, which is made if it is not there."""
    environment = ROOT / f".venv-sdk-{version}"
    made = environment / ".made"
    with FileLock(Path(sys.prefix) / f"sdk-{version}.lock"):
        if not made.exists():
            python = str(environment / "bin" / "python")
            packages = [f"kumoai=={version}", f"kumo-api=={version}", "pyarrow"]
            for command in (
                ["venv", "--quiet", "--clear", "--python", sys.executable, str(environment)],
                ["pip", "install", "--quiet", "--python", python, *packages],
            ):
                subprocess.run([sys.executable, "-m", "uv", *command], cwd=ROOT, check=True)
            made.touch()
    return str(environment / "bin" / "python")
