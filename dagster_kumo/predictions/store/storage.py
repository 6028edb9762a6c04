"""The directory of an asset partition, on a disk or in a bucket: how files come into it."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from upath import UPath

from dagster_kumo.predictions.files import is_local
from dagster_kumo.predictions.store.storage_errors import explained, is_denied

REPLACE_ATTEMPTS = 20
REPLACE_WAIT = 0.05  # seconds; a manifest is read in less
UPLOADS = 4  # files at a time
PARTS = 4  # of a file at a time, each of which is held in memory
PART_BYTES = 8 * 1024**2
MAX_PARTS = 10_000  # of an object in S3
_PART_OPTIONS = {
    "s3": ("chunksize", "max_concurrency"),
    "s3a": ("chunksize", "max_concurrency"),
    "gs": ("chunksize",),
    "gcs": ("chunksize",),
    "abfs": ("max_concurrency",),
    "abfss": ("max_concurrency",),
    "az": ("max_concurrency",),
}
PROBE = ".probe"
PROBE_BYTES = 1_000_000  # on a disk: one that is full takes smaller files now and then


def storage_at(directory: UPath) -> Storage:
    """The storage of a directory, on any fsspec file system. The directory need not exist."""
    return DiskStorage(directory) if is_local(directory) else BucketStorage(directory)


class Storage(ABC):
    """A directory of versions. What is written here is seen whole, or not at all."""

    def __init__(self, directory: UPath) -> None:
        self.directory = directory

    def write_errors(self, errors: type[Exception] = Exception) -> AbstractContextManager[None]:
        """Explains the errors of writing here."""
        return explained(f"{self.directory} could not be written", errors=errors)

    @abstractmethod
    def scratch_errors(self) -> AbstractContextManager[None]:
        """Explains the errors of writing to a scratch folder."""

    @abstractmethod
    def make_scratch(self, version: str) -> Path:
        """A folder on a local disk, for files on their way into a version."""

    @abstractmethod
    def put(self, local: Path, version: str, name: str) -> None:
        """Move a file from the scratch folder to its place in a version. Safe to call from threads."""

    @abstractmethod
    def replace(self, name: str, content: bytes, version: str) -> None:
        """Replace a file of the directory in one go; `version` is the one that is being written."""

    @abstractmethod
    def check_writable(self, needed: int) -> None:
        """Write a little and remove it.

        Raises:
            OSError: Nothing can be written, or `needed` bytes are not free; says why, and what to do.
        """

    @abstractmethod
    def tidy(self, version: str) -> None:
        """Remove what killed processes left in a version that is in force."""

    def file_sizes(self, folder: UPath) -> dict[str, int] | None:
        """What is in a folder, by name; None if the credentials do not allow listing it."""
        file_system = folder.fs
        file_system.invalidate_cache()
        with explained(f"{folder} could not be listed"):
            try:
                entries: Sequence[Any] = file_system.ls(folder.path, detail=True)
            except FileNotFoundError:
                return {}
            except Exception as error:
                if not is_denied(error):
                    raise
                return None
        return {str(one["name"]).rstrip("/").rpartition("/")[2]: one["size"] for one in entries}


class DiskStorage(Storage):
    """Files grow on the disk where they will stay, in a hidden folder: a rename then costs nothing."""

    def scratch_errors(self) -> AbstractContextManager[None]:
        return self.write_errors(OSError)

    def make_scratch(self, version: str) -> Path:
        folder = self._folder(version)
        with self.write_errors():
            new = [f for f in (folder, *folder.parents) if not f.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            for made in new:
                _sync_folder(made.parent)
            try:
                return Path(tempfile.mkdtemp(prefix=".", dir=folder))
            except OSError:
                with contextlib.suppress(OSError):
                    folder.rmdir()  # unless it holds the files of other processes
                raise

    def check_writable(self, needed: int) -> None:
        folder = Path(self.directory.path)
        while not folder.exists():  # what is not there yet is made once there is an output
            folder = folder.parent
        with self.write_errors():
            free = shutil.disk_usage(folder).free
            if free < needed:
                raise OSError(
                    errno.ENOSPC,
                    f"{free / 1e6:,.0f} MB are free, and the output before needs {needed / 1e6:,.0f} MB",
                )
            with tempfile.TemporaryDirectory(prefix=".", dir=folder) as scratch:
                _write_probe(Path(scratch))

    def put(self, local: Path, version: str, name: str) -> None:
        with self.write_errors():
            with local.open("rb+") as file:  # Windows syncs only what is open for writing
                os.fsync(file.fileno())
            local.replace(self._folder(version) / name)

    def replace(self, name: str, content: bytes, version: str) -> None:
        folder = Path(self.directory.path)
        with self.write_errors():
            # In the version's own folder, with which it goes should this process die here.
            temporary = self._folder(version) / f"{name}.tmp"
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            _sync_folder(temporary.parent)
            _replace(temporary, folder / name)
            _sync_folder(folder)

    def tidy(self, version: str) -> None:
        for scratch in self._folder(version).glob(".*"):
            shutil.rmtree(scratch, ignore_errors=True)

    def _folder(self, version: str) -> Path:
        return Path(self.directory.path) / version


class BucketStorage(Storage):
    """Files grow in a temporary folder of this machine; an object is seen once it is whole."""

    def __init__(self, directory: UPath) -> None:
        super().__init__(directory)
        self._uploads = threading.Semaphore(UPLOADS)

    def scratch_errors(self) -> AbstractContextManager[None]:
        return explained(
            "A temporary file could not be written on this machine, as is needed beside a bucket",
            advice="Make room in the temporary folder, or name another one with the environment variable TMPDIR.",
            errors=OSError,
        )

    def make_scratch(self, version: str) -> Path:  # noqa: ARG002 - one folder is like another
        with self.scratch_errors():
            return Path(tempfile.mkdtemp(prefix="dagster-kumo-"))

    def check_writable(self, needed: int) -> None:  # noqa: ARG002 - a bucket does not fill up
        scratch = self.make_scratch("")
        try:
            with self.scratch_errors():
                probe = _write_probe(scratch)
                os.truncate(probe, 0)
            # Under one name: where the credentials do not allow to remove it, there is one.
            target = self.directory / PROBE
            with self.write_errors():
                target.fs.put_file(str(probe), target.path)
            with contextlib.suppress(Exception):
                target.fs.rm_file(target.path)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def put(self, local: Path, version: str, name: str) -> None:
        target = self.directory / version / name
        with self.write_errors(), self._uploads:
            target.fs.put_file(str(local), target.path, **_by_parts(target, local.stat().st_size))
        local.unlink()

    def replace(self, name: str, content: bytes, version: str) -> None:  # noqa: ARG002 - see `Storage`
        path = self.directory / name
        with self.write_errors():
            path.fs.pipe_file(path.path, content)

    def tidy(self, version: str) -> None:
        pass  # scratch folders are elsewhere


def _by_parts(target: UPath, size: int) -> dict[str, Any]:
    """The options with which a file system uploads by small parts, as far as it knows them."""
    options = {"chunksize": max(PART_BYTES, -(-size // MAX_PARTS)), "max_concurrency": PARTS}
    return {name: options[name] for name in _PART_OPTIONS.get(target.protocol, ())}


def _write_probe(folder: Path) -> Path:
    probe = folder / PROBE
    with probe.open("wb") as file:
        file.write(bytes(PROBE_BYTES))
        file.flush()
        os.fsync(file.fileno())
    return probe


def _replace(source: Path, target: Path) -> None:
    """Rename over a file, which Windows refuses while somebody reads it."""
    for _ in range(REPLACE_ATTEMPTS):
        try:
            source.replace(target)
            return
        except PermissionError:
            time.sleep(REPLACE_WAIT)
    source.replace(target)


def _sync_folder(folder: Path) -> None:
    """Have the disk keep what a folder lists, so that a power cut does not undo a rename in it.

    Not all disks can: Windows opens no folders, and some network disks refuse.
    """
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
