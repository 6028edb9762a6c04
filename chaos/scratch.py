"""Temporary files, by process: what is left over shows which process has left it."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


def separate_scratch() -> None:
    """Let this process, and those that it forks, each keep temporary files in a folder of its own."""
    _enter()
    os.register_at_fork(after_in_child=_enter)


def scratch_left(folder: Path) -> Iterator[tuple[int, Path]]:
    """The temporary files of dagster-kumo in a folder, with the processes that made them."""
    for path in folder.glob("[0-9]*/*kumo*"):
        yield int(path.parent.name), path


def _enter() -> None:
    folder = Path(os.environ["TMPDIR"]) / str(os.getpid())
    folder.mkdir(exist_ok=True)
    tempfile.tempdir = str(folder)
