"""Places that outputs are kept in: disks and object stores, with the rules and errors of each."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from upath import UPath

from dagster_kumo.predictions.store.store import PartitionStore
from tests.api.scripted_server import Answer
from tests.predictions.outputs import content, write_version

pytestmark = pytest.mark.fast


def test_a_base_path_that_is_a_file_says_so(tmp_path):
    (tmp_path / "file").write_text("x")
    store = PartitionStore(UPath(tmp_path / "file" / "asset"))
    for use in (store.read, lambda: write_version(store, "one")):
        with pytest.raises(NotADirectoryError, match=r"(?s)asset could not be .*\n.*is a file"):
            use()
    assert (tmp_path / "file").read_text() == "x"


def test_a_bucket_that_does_not_exist_says_so(s3_options):
    store = PartitionStore(UPath("s3://no-such-bucket/asset", **s3_options))
    with pytest.raises(FileNotFoundError, match=r"(?s)could not be written.*\n.*bucket"):
        write_version(store, "one")


def test_a_store_whose_parents_do_not_exist_is_made(tmp_path):
    store = PartitionStore(UPath(tmp_path / "not" / "yet" / "there"))
    with pytest.raises(FileNotFoundError, match="Materialize"):
        store.read()
    write_version(store, "one")
    assert content(store) == {"one"}


# Disks #####################################################################################


def refusing(
    refused: Callable[[int], bool], call: Callable[[int], object], code: int
) -> Callable[[int], object]:
    """A call of the system that is refused for some files."""

    def refuse(descriptor: int) -> object:
        if refused(descriptor):
            raise OSError(code, os.strerror(code))
        return call(descriptor)

    return refuse


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EIO])
def test_a_disk_that_cannot_sync_folders_is_stored_to(tmp_path, monkeypatch, code):
    def is_folder(descriptor: int) -> bool:
        return stat.S_ISDIR(os.fstat(descriptor).st_mode)

    monkeypatch.setattr(os, "fsync", refusing(is_folder, os.fsync, code))
    store = PartitionStore(UPath(tmp_path / "asset"))
    write_version(store, "one")
    assert content(store) == {"one"}


def test_a_disk_that_fails_to_sync_a_file_is_an_error(tmp_path, monkeypatch):
    def is_file(descriptor: int) -> bool:
        return stat.S_ISREG(os.fstat(descriptor).st_mode)

    monkeypatch.setattr(os, "fsync", refusing(is_file, os.fsync, errno.EIO))
    with pytest.raises(OSError, match="could not be written: Input/output error"):
        write_version(PartitionStore(UPath(tmp_path / "asset")), "one")


@pytest.mark.skipif(os.name == "nt", reason="imitates Windows")
def test_files_are_synced_as_windows_asks_for_it(tmp_path, monkeypatch):
    import fcntl

    def is_open_for_reading(descriptor: int) -> bool:
        mode = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
        return stat.S_ISREG(os.fstat(descriptor).st_mode) and mode == os.O_RDONLY

    monkeypatch.setattr(os, "fsync", refusing(is_open_for_reading, os.fsync, errno.EBADF))
    store = PartitionStore(UPath(tmp_path / "asset"))
    write_version(store, "one")
    assert content(store) == {"one"}


@pytest.fixture
def manifest_in_use(monkeypatch) -> list[Path]:
    """Windows' rule for a file that somebody reads, imitated for manifests: no other one takes its place.

    Each path in the list stands for a reader, who has ended by the next attempt.
    """
    readers: list[Path] = []
    replace = Path.replace

    def replace_as_windows_does(source: Path, target: Path) -> Path:
        if Path(target).name == "manifest.json" and readers:
            readers.pop()
            raise PermissionError(errno.EACCES, "The process cannot access the file", str(target))
        return replace(source, target)

    # Not os.replace, which Python 3.10 looks up only once.
    monkeypatch.setattr(Path, "replace", replace_as_windows_does)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    return readers


def test_a_manifest_that_is_being_read_on_windows_is_replaced_afterwards(tmp_path, manifest_in_use):
    store = PartitionStore(UPath(tmp_path / "asset"))
    write_version(store, "one")
    manifest_in_use += [tmp_path] * 3
    write_version(store, "two")
    assert content(store) == {"two"}
    manifest_in_use += [tmp_path] * 1000
    with pytest.raises(PermissionError, match="could not be written: The process cannot access"):
        write_version(store, "three")
    assert content(store) == {"two"}


def test_a_scratch_file_that_cannot_be_removed_is_left(tmp_path, monkeypatch):
    """Windows removes no file that is open."""
    store = PartitionStore(UPath(f"memory://{tmp_path.name}"))
    write_version(store, "one", files=3)

    def refuse(path: str, **_: object) -> None:
        raise PermissionError(errno.EACCES, "The process cannot access the file", path)

    monkeypatch.setattr(os, "unlink", refuse)
    assert content(store) == {"one"}


# Object stores #############################################################################


def test_without_a_temporary_folder_a_bucket_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "not there"))
    with pytest.raises(FileNotFoundError, match=r"temporary file could not be written.*\n.*TMPDIR"):
        write_version(PartitionStore(UPath(f"memory://{tmp_path.name}")), "one")


class Strict(MemoryFileSystem):
    """A bucket that may be read and written, and not listed, as S3 without `s3:ListBucket`."""

    protocol = "strict"

    def ls(self, *_, **__):
        raise PermissionError("Access Denied")

    def cat_file(self, path, *args, **options):
        try:
            return super().cat_file(path, *args, **options)
        except FileNotFoundError:
            raise PermissionError("Forbidden") from None


class Google(Strict):
    """The same bucket with the errors of gcsfs, which have no class of their own."""

    protocol = "google"

    def ls(self, path, *_, **__):
        raise OSError(f"Forbidden: {path}\nstorage.objects.list is missing")


@pytest.mark.parametrize("bucket", [Strict, Google])
def test_a_bucket_that_may_not_be_listed_is_stored_to(tmp_path, bucket):
    fsspec.register_implementation(bucket.protocol, bucket, clobber=True)
    store = PartitionStore(UPath(f"{bucket.protocol}://{tmp_path.name}"), grace_period=timedelta(0))
    for name in ("one", "two"):
        write_version(store, name)
        assert content(store) == {name}


@pytest.mark.slow
def test_a_bucket_that_does_not_tell_whether_something_is_stored_says_what_it_may_be(server):
    server.answer(Answer(b"", status=403))
    options = {"key": "test", "secret": "test", "endpoint_url": server.url}
    store = PartitionStore(UPath("s3://bucket/asset", **options))
    with pytest.raises(PermissionError, match="could not be read: Forbidden") as error:
        store.read()
    assert "Either nothing is stored there, or the credentials may not read it" in str(error.value)
    assert "Materialize it first" in str(error.value)
    assert "s3:ListBucket" in str(error.value)


class HttpResponseError(Exception):
    """Azure's errors, imitated as azure.core has them: no OSErrors, and texts of many lines."""

    def __init__(self, status_code: int, code: str) -> None:
        super().__init__(
            f"What is wrong: https://host/c?sig=s3cr3t\nRequestId:7\nErrorCode:{code}\nContent: <?xml ..."
        )
        self.status_code = status_code


class Azure(MemoryFileSystem):
    """A container that answers as the test tells it; what adlfs passes on of it, imitated."""

    protocol = "azure"
    answers: ClassVar[dict[str, tuple[int, str]]] = {}

    def _refuse(self, call: str) -> None:
        if call in self.answers:
            raise HttpResponseError(*self.answers[call])

    def cat_file(self, *args, **options):
        self._refuse("read")
        return super().cat_file(*args, **options)

    def put_file(self, *args, **options):
        self._refuse("write")
        return super().put_file(*args, **options)

    def ls(self, *args, **options):
        self._refuse("list")
        return super().ls(*args, **options)


@pytest.fixture
def azure(tmp_path, monkeypatch) -> PartitionStore:
    fsspec.register_implementation("azure", Azure, clobber=True)
    monkeypatch.setattr(Azure, "answers", {})
    return PartitionStore(UPath(f"azure://{tmp_path.name}"))


@pytest.mark.parametrize(
    ("call", "answer", "error", "advice"),
    [
        ("read", (403, "AuthorizationPermissionMismatch"), PermissionError, "read"),
        ("write", (403, "AuthorizationPermissionMismatch"), PermissionError, "read and write"),
        ("write", (401, "NoAuthenticationInformation"), PermissionError, "read and write"),
        ("write", (404, "ContainerNotFound"), FileNotFoundError, "must exist"),
        ("write", (409, "ContainerBeingDeleted"), OSError, "base_path"),
        ("list", (503, "ServerBusy"), OSError, "base_path"),
    ],
)
def test_an_error_of_azure_is_explained(azure, call, answer, error, advice):
    azure.directory.fs.answers[call] = answer
    use = azure.read if call == "read" else lambda: write_version(azure, "one")
    with pytest.raises(error, match=r"could not be \w+: What is wrong: https://host/c") as caught:
        use()
    assert advice in str(caught.value)
    assert not any(word in str(caught.value) for word in ("s3cr3t", "RequestId", "xml"))


def test_a_container_of_azure_that_may_not_be_listed_is_stored_to(azure):
    azure.directory.fs.answers["list"] = (403, "AuthorizationPermissionMismatch")
    write_version(azure, "one")
    assert content(azure) == {"one"}
