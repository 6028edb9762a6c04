"""The store of an output: versions of Parquet files, and a manifest that names the version in force.

    <directory of the asset partition>/
        manifest.json                                   written last, atomically
        20261124T020000.123456Z-3f9a1c/part-00000.parquet ...

A reader sees either the whole new version or the whole old one: files are never changed, and the manifest is
replaced atomically (renamed on a local disk, written as one object elsewhere). Versions that are no longer in
force are removed by a later write, after a grace period for their readers. If several writers work at the same
time, the last one to commit wins, with the whole of its version.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from upath import UPath

from dagster_kumo.api.errors import KumoDataError
from dagster_kumo.api.records import OutputType, UTCDatetime
from dagster_kumo.predictions.files import StoredFile
from dagster_kumo.predictions.predictions import Predictions, Provenance
from dagster_kumo.predictions.store.storage_errors import explained

MANIFEST = "manifest.json"
FORMAT = 1
ABANDONED_AFTER = timedelta(days=1)
"""The age at which the writer of a version that was never in force counts as dead."""
_STAMP = "%Y%m%dT%H%M%S.%fZ"

# A manifest leads to nothing but the files beside it.
PlainName = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]


class StoredFileEntry(BaseModel):
    """One partition file in a manifest."""

    name: PlainName
    num_rows: int
    size_bytes: int


class _Format(BaseModel):
    """What every manifest has, whatever else changes."""

    format: int


class Manifest(BaseModel):
    """What is stored of one asset partition."""

    model_config = ConfigDict(extra="ignore")

    format: int = FORMAT
    version: PlainName
    created_at: UTCDatetime
    owner: str | None = None
    """Whose output it is, in the words of the I/O manager."""
    files: list[StoredFileEntry]
    job_id: str | None = None
    output_type: OutputType | None = None
    training_job_id: str | None = None
    prediction_time: UTCDatetime | None = None
    num_entities: int | None = None
    superseded: dict[str, UTCDatetime] = Field(default_factory=dict[str, datetime])
    """Versions that are not in force any more, and since when."""

    @property
    def num_rows(self) -> int:
        return sum(file.num_rows for file in self.files)

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


class PartitionStore:
    """The stored versions of one asset partition, in a directory of any fsspec file system.

    Args:
        directory: the directory, which need not exist.
        grace_period: how long a version is kept for its readers when it is no longer in force.
        owner: the owner of the output. If another owner's output is stored, nothing is written.
    """

    def __init__(
        self,
        directory: UPath,
        *,
        grace_period: timedelta = timedelta(hours=1),
        owner: str | None = None,
    ) -> None:
        self.directory = directory
        self.owner = owner
        self._grace_period = grace_period

    @property
    def is_local(self) -> bool:
        """Whether the files lie on a disk of this machine."""
        return self.directory.protocol in ("", "file", "local")

    def manifest(self) -> Manifest | None:
        """The manifest of the version in force; None if nothing is stored.

        Raises:
            KumoDataError: it is not a manifest, or one of a newer format.
            OSError: the store cannot be read; says why, and what to do.
        """
        with explained(f"{self.directory} could not be read"):
            return self._manifest()

    def manifest_to_replace(self) -> Manifest | None:
        """The manifest, read by a writer.

        Raises:
            KumoDataError: as `manifest` does.
            OSError: the store cannot be written to; says why, and what to do.
        """
        with self.write_errors():
            try:
                return self._manifest()
            except PermissionError:
                if self.is_local:
                    raise
                return None  # S3 without s3:ListBucket answers this if there is no object

    def _manifest(self) -> Manifest | None:
        path = self.directory / MANIFEST
        try:
            # Read from the file system itself, without listings, which may be cached.
            content: Any = path.fs.cat_file(path.path)
        except FileNotFoundError:
            return None
        try:
            written = _Format.model_validate_json(content).format
            if written != FORMAT:
                raise KumoDataError(
                    f"{path} was written by a newer dagster-kumo (format {written}). Upgrade to read it."
                )
            return Manifest.model_validate_json(content)
        except ValidationError as error:
            raise KumoDataError(f"{path} is not a manifest of dagster-kumo: {error}") from None

    def read(self) -> Predictions:
        """The version in force.

        Raises:
            FileNotFoundError: nothing has been stored here.
            KumoDataError, OSError: as `manifest` does.
        """
        manifest = self.manifest()
        if manifest is None:
            raise FileNotFoundError(
                f"Nothing is stored in {self.directory}. Materialize the asset partition first."
            )
        return self.predictions(manifest)

    @contextmanager
    def new_version(self) -> Generator[NewVersion, None, None]:
        """Write a version: put the files, then commit. If it is not committed, it is removed.

        Raises:
            KumoDataError: the output of another owner is stored here.
            OSError: the store cannot be written to; says why, and what to do.
        """
        version = self._begin(self.new_name())
        try:
            yield version
        finally:
            version.remove_scratch()
            version.discard_unless_in_force()

    @staticmethod
    def new_name() -> str:
        """A name for a version that starts now."""
        return f"{datetime.now(timezone.utc).strftime(_STAMP)}-{secrets.token_hex(3)}"

    @contextmanager
    def shared_version(self, name: str) -> Generator[NewVersion, None, None]:
        """Write to a version together with other processes, one of which commits it.

        Their files stay if one fails, so that another attempt can continue. A version that is not committed is
        removed by a later write, once it is old.

        Raises:
            KumoDataError, OSError: as `new_version` does.
        """
        version = self._begin(name)
        try:
            yield version
        finally:
            version.remove_scratch()

    def _begin(self, name: str) -> NewVersion:
        self._check_owner()
        return (NewVersionOnDisk if self.is_local else NewVersionInBucket)(self, name)

    def write_errors(self, errors: type[Exception] = Exception) -> AbstractContextManager[None]:
        """Explains the errors of writing here."""
        return explained(f"{self.directory} could not be written", errors=errors)

    def file_sizes(self, folder: UPath) -> dict[str, int] | None:
        """What lies in a folder, by name; None where the credentials do not allow to list it."""
        file_system = self.directory.fs
        file_system.invalidate_cache()
        with explained(f"{folder} could not be listed"):
            try:
                entries: Sequence[Any] = file_system.ls(folder.path, detail=True)
            except FileNotFoundError:
                return {}
            except PermissionError:
                return None
        return {
            str(entry["name"]).rstrip("/").rpartition("/")[2]: entry["size"] for entry in entries
        }

    def predictions(self, manifest: Manifest) -> Predictions:
        """The files in a manifest."""
        folder = self.directory / manifest.version
        provenance = None
        if manifest.job_id is not None and manifest.output_type is not None:
            provenance = Provenance(
                job_id=manifest.job_id,
                output_type=manifest.output_type,
                training_job_id=manifest.training_job_id,
                prediction_time=manifest.prediction_time,
                num_entities=manifest.num_entities,
            )
        return Predictions(
            [StoredFile(folder / file.name) for file in manifest.files],
            provenance=provenance,
            num_rows=manifest.num_rows,
        )

    def write_manifest(self, manifest: Manifest) -> None:
        """Replace the manifest in one go."""
        path = self.directory / MANIFEST
        content = manifest.model_dump_json(indent=2).encode()
        with self.write_errors():
            if not self.is_local:
                path.fs.pipe_file(path.path, content)
                return
            folder = Path(self.directory.path)
            # In the version's own folder, with which it goes should this process die here.
            temporary = folder / manifest.version / f"{MANIFEST}.tmp"
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            _sync_folder(temporary.parent)
            temporary.replace(folder / MANIFEST)
            _sync_folder(folder)

    def out_of_force(
        self, before: Manifest | None, new: str
    ) -> tuple[dict[str, datetime], list[str]]:
        """The versions that `new` supersedes: those to keep, since when, and those to remove.

        A version that no manifest names comes from a writer that died, or from one that still works, perhaps for
        hours. It counts as superseded only when it is old.
        """
        now = datetime.now(timezone.utc)
        since = dict(before.superseded) if before else {}
        if before:
            since[before.version] = now
        there = self._version_names()
        for name, began in there.items():
            if name not in since and now - began > max(self._grace_period, ABANDONED_AFTER):
                since[name] = now
        since.pop(new, None)
        expired = [name for name, at in since.items() if now - at > self._grace_period]
        kept = {name: at for name, at in since.items() if name in there and name not in expired}
        return kept, [name for name in expired if name in there]

    def remove(self, version: str) -> None:
        """Remove a version's files, as far as possible, unless it is in force."""
        folder = self.directory / version
        # Files that cannot be removed only cost space. File systems have their own classes of errors.
        with contextlib.suppress(Exception):
            # Read again: the version may have been committed meanwhile.
            manifest = self.manifest()
            if manifest is None or manifest.version != version:
                folder.fs.rm(folder.path, recursive=True)

    def _check_owner(self) -> None:
        manifest = self.manifest_to_replace()
        if manifest and manifest.owner and self.owner and manifest.owner != self.owner:
            raise KumoDataError(
                f"{self.directory} holds the output of {manifest.owner}: that of {self.owner} would take "
                "its place.\nGive one of them another base_path, or another name; where an output was "
                f"moved here on purpose, remove {MANIFEST} first."
            )

    def _version_names(self) -> dict[str, datetime]:
        """The versions that are there, by when they were begun; other files are none of ours."""
        names = self.file_sizes(self.directory) or {}
        return {name: began for name in names if (began := _began(name)) is not None}


class NewVersion(ABC):
    """A version that is being written: files are put into it, then it is committed."""

    def __init__(self, store: PartitionStore, name: str) -> None:
        self._store = store
        self._name = name
        self._folder = store.directory / name
        self._state: Literal["open", "committing", "committed"] = "open"
        self.scratch = self._make_scratch()
        """A folder on a local disk, for files on their way into the version."""

    @abstractmethod
    def _make_scratch(self) -> Path: ...

    @abstractmethod
    def scratch_errors(self) -> AbstractContextManager[None]:
        """Explains the errors of writing to `scratch`."""

    @abstractmethod
    def put(self, local: Path, name: str) -> None:
        """Move a file from `scratch` to its place in the version. Safe to call from threads."""

    def commit(
        self, files: Sequence[StoredFileEntry], provenance: Provenance | None
    ) -> Predictions:
        """Put the version in force.

        Raises:
            KumoDataError: a file is gone, or has another length.
        """
        store = self._store
        self._check_files(files)
        kept, expired = store.out_of_force(store.manifest_to_replace(), self._name)
        manifest = Manifest(
            version=self._name,
            created_at=datetime.now(timezone.utc),
            owner=store.owner,
            files=list(files),
            job_id=provenance.job_id if provenance else None,
            output_type=provenance.output_type if provenance else None,
            training_job_id=provenance.training_job_id if provenance else None,
            prediction_time=provenance.prediction_time if provenance else None,
            num_entities=provenance.num_entities if provenance else None,
            superseded=kept,
        )
        self._state = "committing"
        store.write_manifest(manifest)
        self._state = "committed"
        if store.is_local:  # what processes left that were killed while they wrote here
            for scratch in Path(self._folder.path).glob(".*"):
                shutil.rmtree(scratch, ignore_errors=True)
        for version in expired:
            store.remove(version)
        return store.predictions(manifest)

    def _check_files(self, files: Sequence[StoredFileEntry]) -> None:
        """Compare the folder with what the manifest will say: another writer, or a person, may have
        taken a writer that was at work for days for a dead one."""
        sizes = self._store.file_sizes(self._folder) if files else {}
        for file in files if sizes is not None else ():
            size = (sizes or {}).get(file.name)
            if size != file.size_bytes:
                found = "is not there any more" if size is None else f"has {size} bytes now"
                raise KumoDataError(
                    f"{self._folder / file.name} had {file.size_bytes} bytes when it was written, and "
                    f"{found}. It is not stored, and what was stored before stays in force.\n"
                    "Has something else removed or changed it? Materialize again."
                )

    def remove_scratch(self) -> None:
        """Remove the scratch folder."""
        shutil.rmtree(self.scratch, ignore_errors=True)

    def discard_unless_in_force(self) -> None:
        """Remove the version, unless it has been committed."""
        if not self._may_be_in_force():
            self._store.remove(self._name)

    def _may_be_in_force(self) -> bool:
        """Whether the manifest names this version, if that can be read.

        This is possible although the commit raised an error: the answer of an object store was lost, or the
        process was interrupted right after the write.
        """
        if self._state != "committing":
            return self._state == "committed"
        try:
            manifest = self._store.manifest()
        except (KumoDataError, OSError):
            return True  # too many files only cost space; missing files would be a loss
        return manifest is not None and manifest.version == self._name


class NewVersionOnDisk(NewVersion):
    """Files grow on the disk where they will stay, in a hidden folder: a rename then costs nothing."""

    def _make_scratch(self) -> Path:
        folder = Path(self._folder.path)
        with self._store.write_errors():
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

    def scratch_errors(self) -> AbstractContextManager[None]:
        return self._store.write_errors(OSError)

    def put(self, local: Path, name: str) -> None:
        with self._store.write_errors():
            with local.open("rb+") as file:  # Windows syncs only what is open for writing
                os.fsync(file.fileno())
            local.replace(Path(self._folder.path) / name)


class NewVersionInBucket(NewVersion):
    """Files grow in a temporary folder of this machine."""

    def _make_scratch(self) -> Path:
        with self.scratch_errors():
            return Path(tempfile.mkdtemp(prefix="dagster-kumo-"))

    def scratch_errors(self) -> AbstractContextManager[None]:
        return explained(
            "A temporary file could not be written on this machine, as is needed beside a bucket",
            advice="Make room in the temporary folder, or name another one with the environment variable TMPDIR.",
            errors=OSError,
        )

    def put(self, local: Path, name: str) -> None:
        target = self._folder / name
        with self._store.write_errors():
            target.fs.put_file(str(local), target.path)
        local.unlink()


def _began(version: str) -> datetime | None:
    """The start time of a version, from its name; None for other names."""
    stamp, separator, tail = version.rpartition("-")
    if not separator or not tail.isalnum():
        return None
    try:
        return datetime.strptime(stamp, _STAMP).replace(tzinfo=timezone.utc)
    except ValueError:
        return None


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
