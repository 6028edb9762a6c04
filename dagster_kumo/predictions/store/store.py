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
import secrets
import shutil
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Literal

from upath import UPath

from dagster_kumo.api.errors import KumoDataError
from dagster_kumo.predictions.files import StoredFile, is_local
from dagster_kumo.predictions.predictions import Predictions, Provenance
from dagster_kumo.predictions.store.manifest import MANIFEST, Manifest, StoredFileEntry
from dagster_kumo.predictions.store.storage import storage_at
from dagster_kumo.predictions.store.storage_errors import explained, is_denied

ABANDONED_AFTER = timedelta(days=1)
"""The age at which the writer of a version that was never in force counts as dead."""
_STAMP = "%Y%m%dT%H%M%S.%fZ"
_OF_THE_JOB = {"job_id", "output_type", "training_job_id", "prediction_time", "num_entities"}
"""What a manifest keeps of the provenance."""

_PERHAPS_NOTHING = (
    "Either nothing is stored there, or the credentials may not read it: without permission to list, a bucket "
    "does not tell which.\nMaterialize it first. If it is stored, allow to read objects (s3:GetObject), and to "
    "list them (s3:ListBucket)."
)


class PartitionStore:
    """The stored versions of one asset partition, in a directory of any fsspec file system. It need not exist.

    A version that is no longer in force is kept for its readers for the `grace_period`. If the output of another
    `owner` is stored, nothing is written.
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
        self.storage = storage_at(directory)
        self._grace_period = grace_period

    def manifest(self) -> Manifest | None:
        """The manifest of the version in force; None if nothing is stored.

        Raises:
            KumoDataError: It is not a manifest, or one of a newer format.
            OSError: The store cannot be read; says why, and what to do.
        """
        denied = "" if is_local(self.directory) else _PERHAPS_NOTHING
        with explained(f"{self.directory} could not be read", denied=denied):
            return self._manifest()

    def manifest_to_replace(self) -> Manifest | None:
        """The manifest, read by a writer.

        Raises:
            KumoDataError: As `manifest` does.
            OSError: The store cannot be written to; says why, and what to do.
        """
        with self.storage.write_errors():
            try:
                return self._manifest()
            except Exception as error:
                if is_local(self.directory) or not is_denied(error):
                    raise
                return None  # S3 without s3:ListBucket answers this if there is no object

    def _manifest(self) -> Manifest | None:
        path = self.directory / MANIFEST
        try:
            # Read from the file system itself, without listings, which may be cached.
            content: Any = path.fs.cat_file(path.path)
        except FileNotFoundError:
            return None
        return Manifest.parse(content, str(path))

    def check_writable(self, needed: int = 0) -> None:
        """Check that a version of `needed` bytes could be written, without writing one.

        Raises:
            KumoDataError: The output of another owner is stored here.
            OSError: The store cannot be written to; says why, and what to do.
        """
        self._check_owner()
        self.storage.check_writable(needed)

    def read(self) -> Predictions:
        """The version in force.

        Raises:
            FileNotFoundError: Nothing has been stored here.
            KumoDataError, OSError: As `manifest` does.
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
            KumoDataError: The output of another owner is stored here.
            OSError: The store cannot be written to; says why, and what to do.
        """
        with self.shared_version(self.new_name()) as version:
            try:
                yield version
            finally:
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
            KumoDataError, OSError: As `new_version` does.
        """
        self._check_owner()
        version = NewVersion(self, name)
        try:
            yield version
        finally:
            version.remove_scratch()

    def predictions(self, manifest: Manifest) -> Predictions:
        """The files in a manifest."""
        folder = self.directory / manifest.version
        provenance = None
        if manifest.job_id is not None and manifest.output_type is not None:
            provenance = Provenance(**manifest.model_dump(include=_OF_THE_JOB))
        return Predictions(
            [StoredFile(folder / file.name) for file in manifest.files],
            provenance=provenance,
            num_rows=manifest.num_rows,
        )

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
        """The existing versions, by the time they were started. Other files are ignored."""
        names = self.storage.file_sizes(self.directory) or {}
        return {name: began for name in names if (began := _began(name)) is not None}


class NewVersion:
    """A version that is being written. Put files into it, then commit it."""

    def __init__(self, store: PartitionStore, name: str) -> None:
        self._store = store
        self._storage = store.storage
        self._name = name
        self._folder = store.directory / name
        self._state: Literal["open", "committing", "committed"] = "open"
        self.scratch = self._storage.make_scratch(name)
        """A folder on a local disk, for files that will be moved into the version."""

    def scratch_errors(self) -> AbstractContextManager[None]:
        """Explain errors while writing to `scratch`."""
        return self._storage.scratch_errors()

    def put(self, local: Path, name: str) -> None:
        """Move a file from `scratch` to its place in the version. Safe to call from threads."""
        self._storage.put(local, self._name, name)

    def commit(
        self, files: Sequence[StoredFileEntry], provenance: Provenance | None
    ) -> Predictions:
        """Put the version in force.

        Raises:
            KumoDataError: A file is gone, or has another length.
        """
        store = self._store
        self._check_files(files)
        kept, expired = store.out_of_force(store.manifest_to_replace(), self._name)
        of_the_job: dict[str, Any] = {name: getattr(provenance, name, None) for name in _OF_THE_JOB}
        manifest = Manifest(
            version=self._name,
            created_at=datetime.now(timezone.utc),
            owner=store.owner,
            files=list(files),
            superseded=kept,
            **of_the_job,
        )
        self._state = "committing"
        self._storage.replace(MANIFEST, manifest.model_dump_json(indent=2).encode(), self._name)
        self._state = "committed"
        self._storage.tidy(self._name)
        for version in expired:
            store.remove(version)
        return store.predictions(manifest)

    def _check_files(self, files: Sequence[StoredFileEntry]) -> None:
        """Compare the folder with the new manifest: another writer, or a person, may have taken a writer that has
        worked for days for a dead one."""
        sizes = self._storage.file_sizes(self._folder) if files else {}
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
        """Whether the manifest names this version.

        It may after an error of the commit: an object store's answer was lost, or the process was interrupted.
        """
        if self._state != "committing":
            return self._state == "committed"
        try:
            manifest = self._store.manifest()
        except (KumoDataError, OSError):
            return True  # too many files only cost space; missing files would be a loss
        return manifest is not None and manifest.version == self._name


def _began(version: str) -> datetime | None:
    """The start time of a version, from its name; None for other names."""
    stamp, separator, tail = version.rpartition("-")
    if not separator or not tail.isalnum():
        return None
    try:
        return datetime.strptime(stamp, _STAMP).replace(tzinfo=timezone.utc)
    except ValueError:
        return None
