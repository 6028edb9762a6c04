"""The vendor's SDK, as the tests call it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

from packaging.version import Version

PYTHON = os.environ.get("KUMO_SDK_PYTHON", sys.executable)
"""The Python whose SDK is asked: this one's, or that of another environment (`make compat`)."""


@cache
def version_of(package: str, python: str = PYTHON) -> Version:
    """The version of a package in the environment of the SDK."""
    code = f"from importlib.metadata import version; print(version({package!r}))"
    said = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return Version(said.stdout.strip())


class SdkError(Exception):
    """What the SDK raised, in its own words."""


class Sdk:
    """The SDK in a process of its own; see `sdk_side` for what can be called."""

    def __init__(self, python: str = PYTHON) -> None:
        side = Path(__file__).with_name("sdk_side.py")
        environment = {k: v for k, v in os.environ.items() if not k.startswith("KUMO_")}
        self._process = subprocess.Popen(
            [python, "-W", "ignore", str(side)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def __enter__(self) -> Sdk:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def __call__(self, call: str, *args: Any, **options: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        message = {"call": call, "args": args, "options": options}
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the process of the SDK ended"
        answer = json.loads(line)
        if "error" in answer:
            raise SdkError(answer["error"]) from RuntimeError(answer["trace"])
        return answer["value"]
