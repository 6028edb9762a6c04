"""Where outputs are kept: a reader sees the whole of one version, whatever happens to the writer."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import requests
from upath import UPath

from dagster_kumo import KumoDataError
from dagster_kumo.predictions.predictions import Provenance
from dagster_kumo.predictions.store.store import PartitionStore
from tests.api.scripted_server import Answer
from tests.predictions.outputs import content, put_files, store_output, write_version

pytestmark = pytest.mark.fast


def versions(directory: UPath) -> list[str]:
    """The folders of versions that are there."""
    directory.fs.invalidate_cache()
    names = [path.rstrip("/").rpartition("/")[2] for path in directory.fs.ls(directory.path, False)]
    return sorted(name for name in names if name != "manifest.json")


# Layout ###################################################################################


def test_the_layout_is_versions_of_files_and_one_manifest(directory, result, kumo):
    live = result.predictions()
    stored, transferred = store_output(live, PartitionStore(directory), live.provenance)
    (version,) = versions(directory)
    names = [f"part-0000{i}.parquet" for i in range(3)]
    assert sorted(path.name for path in (directory / version).iterdir()) == names
    manifest = json.loads((directory / "manifest.json").read_text())
    assert manifest["format"] == 1
    assert manifest["version"] == version
    assert [file["name"] for file in manifest["files"]] == names
    assert sum(file["num_rows"] for file in manifest["files"]) == transferred.num_rows == 23570
    sizes = [(directory / version / name).stat().st_size for name in names]
    assert [file["size_bytes"] for file in manifest["files"]] == sizes
    assert sum(sizes) == transferred.size_bytes
    assert manifest["job_id"] == live.job_id
    assert "http" not in json.dumps(manifest)
    assert kumo.api_key not in json.dumps(manifest)
    assert stored.num_rows == 23570


def test_what_is_known_of_an_output_is_read_back(directory):
    store = PartitionStore(directory)
    provenance = Provenance(
        job_id="bp-1",
        output_type="embeddings",
        training_job_id="trainingjob-1",
        prediction_time=datetime(2026, 11, 24, tzinfo=timezone.utc),
        num_entities=7,
    )
    with store.new_version() as version:
        version.commit([], provenance)
    assert store.read().provenance == provenance


def test_nothing_stored_is_a_missing_file(directory):
    store = PartitionStore(directory)
    assert store.manifest() is None
    with pytest.raises(FileNotFoundError, match="Materialize the asset partition"):
        store.read()


MANIFEST = (
    '{"format": 1, "version": "%s", "created_at": "2020-01-01T00:00:00Z", '
    '"files": [{"name": "%s", "num_rows": 1, "size_bytes": 1}]}'
)


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        ('{"format": 2, "versions": {}}', "newer dagster-kumo .format 2.. Upgrade"),
        ('{"format": 1}', "not a manifest"),
        ("[]", "not a manifest"),
        ("", "not a manifest"),
        ("\x00", "not a manifest"),
        (MANIFEST % ("../20200101T000000.000000Z-aaaaaa", "part-00000.parquet"), "not a manifest"),
        (MANIFEST % ("/etc", "part-00000.parquet"), "not a manifest"),
        (MANIFEST % ("20200101T000000.000000Z-aaaaaa", "../../secret.parquet"), "not a manifest"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_a_data_error(tmp_path, manifest, said):
    (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(KumoDataError, match=said):
        PartitionStore(UPath(tmp_path)).read()


def test_what_a_manifest_of_the_same_format_adds_does_no_harm(tmp_path):
    store = PartitionStore(UPath(tmp_path))
    write_version(store, "one")
    manifest = json.loads((tmp_path / "manifest.json").read_text()) | {"checksums": {"a": "b"}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert content(store) == {"one"}


# Versions #################################################################################


def test_a_new_version_takes_the_place_of_the_one_before(directory):
    store = PartitionStore(directory)
    for name in ("one", "two"):
        write_version(store, name)
        assert content(store) == {name}


def test_a_reader_in_progress_keeps_its_version_for_the_grace_period(directory):
    store = PartitionStore(directory, grace_period=timedelta(hours=1))
    before = write_version(store, "one")
    for _ in range(3):
        write_version(store, "two")
    assert before.to_arrow()["ENTITY"].to_pylist() == ["one", "one"]
    assert len(versions(directory)) == 4


def test_after_the_grace_period_a_version_is_removed_by_a_later_write(directory):
    store = PartitionStore(directory, grace_period=timedelta(0))
    for name in ("one", "two", "three"):
        write_version(store, name)
    assert len(versions(directory)) == 2  # the one in force, and the one that it has just replaced
    assert content(store) == {"three"}


def test_what_a_dead_writer_left_is_removed_and_nothing_else(directory):
    dead = "20200101T000000.000000Z-abc123"
    foreign = ["notes", "20200101", "20200101T000000.000000Z-a/b".partition("/")[0] + "!"]
    for name in (dead, *foreign):
        (directory / name).mkdir(parents=True, exist_ok=True)
        (directory / name / "file").write_text("x")
    store = PartitionStore(directory, grace_period=timedelta(0))
    write_version(store, "one")
    write_version(store, "two")
    assert set(foreign) <= set(versions(directory))
    assert dead not in versions(directory)


def test_a_version_that_is_not_committed_leaves_nothing(directory):
    store = PartitionStore(directory)
    write_version(store, "one")
    before = versions(directory)

    class Interrupt(BaseException):
        pass

    def write_and_stop() -> None:
        with store.new_version() as version:
            scratches.append(version.scratch)
            (version.scratch / "x").write_text("x")
            version.put(version.scratch / "x", "part-00000.parquet")
            raise Interrupt

    scratches: list[Path] = []
    with pytest.raises(Interrupt):
        write_and_stop()
    assert versions(directory) == before
    assert not scratches[0].exists()
    assert content(store) == {"one"}


def test_of_concurrent_writers_one_wins_whole_and_readers_see_whole_versions(directory):
    write_version(PartitionStore(directory), "first")
    names = {"a", "b", "c"}
    together = threading.Barrier(len(names) + 1)
    seen: list[set[str]] = []
    writing = threading.Event()

    def write(name: str) -> None:
        store = PartitionStore(directory)
        together.wait()
        for _ in range(3):
            write_version(store, name)

    def read() -> None:
        store = PartitionStore(directory)
        together.wait()
        while not writing.is_set():
            seen.append(content(store))

    with ThreadPoolExecutor(len(names) + 1) as pool:
        reader = pool.submit(read)
        for future in [pool.submit(write, name) for name in names]:
            future.result()
        writing.set()
        reader.result()
    assert seen
    assert all(len(one) == 1 and one <= {"first"} | names for one in seen)
    assert len(content(PartitionStore(directory))) == 1


def test_a_writer_that_others_overtake_twice_commits_a_whole_version(directory):
    store = PartitionStore(directory, grace_period=timedelta(0))
    with store.new_version() as slow:
        entries = put_files(slow, "slow")
        for name in ("one", "two", "three"):
            write_version(store, name)
        slow.commit(entries, None)
    assert content(store) == {"slow"}


@pytest.mark.parametrize("change", ["removed", "cut"])
def test_a_version_that_lost_a_file_is_not_put_in_force(directory, change):
    store = PartitionStore(directory)
    write_version(store, "one")
    before = versions(directory)

    def write_and_lose_a_file() -> None:
        with store.new_version() as version:
            entries = put_files(version, "two")
            (new,) = set(versions(directory)) - set(before)
            lost = directory / new / "part-00001.parquet"
            lost.fs.rm(lost.path) if change == "removed" else lost.write_bytes(b"PAR1")
            version.commit(entries, None)

    with pytest.raises(KumoDataError, match=r"part-00001.parquet had \d+ bytes.*\n.*again"):
        write_and_lose_a_file()
    assert content(store) == {"one"}
    assert versions(directory) == before


def test_the_version_in_force_is_never_removed(directory):
    store = PartitionStore(directory, grace_period=timedelta(0))
    write_version(store, "one")
    manifest = store.manifest()
    assert manifest is not None
    store.remove(manifest.version)
    assert content(store) == {"one"}


@pytest.mark.skipif(os.name == "nt", reason="Windows opens no folders")
def test_a_commit_outlives_a_power_cut(tmp_path, monkeypatch):
    """All that the manifest names is on the disk before it is renamed, and so is the rename after it."""
    store = PartitionStore(UPath(tmp_path / "asset" / "day"))
    synced: list[tuple[str, bool]] = []
    sync = os.fsync

    def observed(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        kind = "/" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else ""
        synced.append((name + kind, (tmp_path / "asset" / "day" / "manifest.json").exists()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", observed)
    write_version(store, "one")
    (version,) = versions(store.directory)
    before = [name for name, in_force in synced if not in_force]
    assert before == [
        "day/",  # lists the version
        "asset/",
        f"{tmp_path.name}/",
        "scratch-0",
        "scratch-1",
        "manifest.json.tmp",
        f"{version}/",
    ]
    assert [name for name, in_force in synced if in_force] == ["day/"]


def test_the_output_of_another_owner_is_not_replaced(directory):
    """Asset `a`, partition `b`, and asset `a/b` have the same folder."""
    write_version(PartitionStore(directory, owner="a, partition b"), "one")
    with pytest.raises(KumoDataError, match=r"of a, partition b: that of a/b .*\n.*base_path"):
        write_version(PartitionStore(directory, owner="a/b"), "two")
    assert content(PartitionStore(directory)) == {"one"}
    write_version(PartitionStore(directory, owner="a, partition b"), "three")
    assert content(PartitionStore(directory)) == {"three"}


# Writers that fail at every step ##########################################################


@pytest.fixture
def s3_with_faults(server, s3_options):
    """S3 behind a wire that fails at the n-th call that changes something."""

    class Wire:
        def __init__(self) -> None:
            self.fail_at = -1
            self.carry_out = False
            self.for_good = False
            self.changes: list[str] = []
            self.after: Callable[[str], None] = lambda _: None

        def pass_on(self, request) -> Answer:
            failing = False
            if request.method != "GET" and request.method != "HEAD":
                self.changes.append(request.path)
                step = len(self.changes) - 1
                failing = step == self.fail_at or (self.for_good and step > self.fail_at >= 0)
            if failing and not self.carry_out:
                return Answer(b"", 403)
            ours = ("host", "expect", "connection", "accept-encoding")
            headers = {k: v for k, v in request.headers.items() if k not in ours}
            said = requests.request(
                request.method,
                s3_options["endpoint_url"] + request.path,
                data=request.body,
                headers=headers | {"host": server.origin.removeprefix("http://")},
                timeout=10,
            )
            if failing:
                return Answer(b"", 403)
            self.after(f"{request.method} {request.path}")
            kept = {k: v for k, v in said.headers.items() if k.lower() in ("etag", "content-type")}
            length = int(said.headers["Content-Length"]) if request.method == "HEAD" else -1
            return Answer(said.content, said.status_code, kept, length)

    wire = Wire()
    server.answer_by(wire.pass_on)
    # A plain body, which the wire can read, and no second attempts, which would hide the failure.
    config = {"request_checksum_calculation": "when_required", "retries": {"max_attempts": 1}}
    return wire, {**s3_options, "endpoint_url": server.origin, "config_kwargs": config}


@pytest.mark.parametrize(
    ("carry_out", "for_good"),
    [(False, False), (True, False), (False, True)],
    ids=["one call refused", "one answer lost", "all calls refused from then on"],
)
def test_an_object_store_that_fails_at_any_step_leaves_a_whole_version(
    s3_with_faults, s3_options, tmp_path, carry_out, for_good
):
    wire, options = s3_with_faults
    steps = 0
    while True:
        wire.fail_at = -1
        place = f"s3://kumo/{tmp_path.name}/{steps}"
        sound = PartitionStore(UPath(place, **s3_options))
        write_version(sound, "old")
        wire.changes.clear()
        wire.fail_at, wire.carry_out, wire.for_good = steps, carry_out, for_good
        failed = False
        try:
            write_version(PartitionStore(UPath(place, **options)), "new")
        except OSError:
            failed = True
        found = content(sound)
        assert found == {"new"} if not failed else found in ({"old"}, {"new"})
        assert found == {"old"} or not failed or carry_out
        if failed and not for_good:
            assert len(versions(sound.directory)) == (1 if found == {"old"} else 2)
        if not failed:
            break
        steps += 1
        assert steps < 10
    assert steps == 3  # two files and the manifest


def test_a_writer_that_counted_as_dead_keeps_what_it_commits_while_its_remover_is_at_work(
    s3_with_faults, s3_options, tmp_path
):
    wire, options = s3_with_faults
    place = f"s3://kumo/{tmp_path.name}"
    sound = PartitionStore(UPath(place, **s3_options), grace_period=timedelta(hours=1))
    write_version(sound, "old")
    with sound.new_version() as slow:
        entries = put_files(slow, "slow")
        path = sound.directory / "manifest.json"
        known = json.loads(path.read_text())
        (slow_name,) = set(versions(sound.directory)) - {known["version"]}
        path.write_text(json.dumps(known | {"superseded": {slow_name: "2020-01-01T00:00:00Z"}}))

        def commit_the_slow_one(call: str) -> None:
            if call.startswith("PUT") and call.endswith("manifest.json"):
                wire.after = lambda _: None
                slow.commit(entries, None)

        wire.after = commit_the_slow_one
        write_version(PartitionStore(UPath(place, **options)), "new")
    assert content(sound) == {"slow"}


SCRIPT = textwrap.dedent(
    """
    # Writes a version again and again, each time failing one step later, in a process of its own;
    # then where it may not write; then in several processes at once.
    import errno, itertools, json, os, shutil, signal, sys, tempfile
    from pathlib import Path
    import numpy, pandas, pyarrow.parquet  # once, or each of the forked processes would
    from upath import UPath
    from dagster_kumo.predictions.store.store import PartitionStore
    from tests.predictions.outputs import write_version

    root = Path(sys.argv[1])

    def write(place, said):
        try:
            write_version(PartitionStore(UPath(place)), "new")
        except OSError as error:
            os.write(said, str(error).encode())
            os._exit(1)
        os._exit(0)

    for how, step in itertools.product(["killed", "disk full"], range(100)):
        place = root / how / f"step-{step}"
        if (root / how / "ended").exists():
            continue
        shutil.copytree(root / "before", place)
        with (root / how / f"{step}.said").open("wb") as said:
            child = os.fork()
            if child == 0:
                left = [step]

                def fail(event, arguments):
                    changes = event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir") or (
                        event == "open" and isinstance(arguments[1], str) and arguments[1] != "rb"
                    )
                    if changes and str(place) in str(arguments[0]):
                        left[0] -= 1
                        if left[0] == -1 and how == "killed":
                            os.kill(os.getpid(), signal.SIGKILL)
                        if left[0] == -1:
                            raise OSError(errno.ENOSPC, "No space left on device")

                sys.addaudithook(fail)
                write(place, said.fileno())
            if os.waitpid(child, 0)[1] == 0:
                (root / how / "ended").touch()

    with tempfile.TemporaryDirectory() as open_to_all, (root / "denied").open("wb") as said:
        os.chmod(open_to_all, 0o755)
        place = Path(shutil.copytree(root / "before", f"{open_to_all}/store"))
        for folder in (place, *(p for p in place.iterdir() if p.is_dir())):
            folder.chmod(0o555)
        child = os.fork()
        if child == 0:
            if os.geteuid() == 0:  # who may write anywhere
                os.setuid(65534)
            write(place, said.fileno())
        assert os.waitpid(child, 0)[1] != 0
        (root / "denied-content").write_text(
            PartitionStore(UPath(place)).read().to_arrow()["ENTITY"][0].as_py()
        )
        place.chmod(0o755)

    place = shutil.copytree(root / "before", root / "together")
    begin, wait = os.pipe()
    children = []
    for name in ("a", "b", "c"):
        child = os.fork()
        if child == 0:
            os.close(wait)
            os.read(begin, 1)
            for _ in range(5):
                write_version(PartitionStore(UPath(place)), name)
            os._exit(0)
        children.append(child)
    os.close(wait)
    seen = []
    while children:
        seen.append(PartitionStore(UPath(place)).read().to_arrow()["ENTITY"].to_pylist())
        if os.waitpid(children[-1], os.WNOHANG)[0]:
            children.pop()
    seen.append(PartitionStore(UPath(place)).read().to_arrow()["ENTITY"].to_pylist())
    (root / "seen").write_text(json.dumps(seen))
    """
)


@pytest.fixture(scope="module")
def failed_writes(tmp_path_factory) -> Path:
    """What is on the disk after writes that failed at their first step, their second, ..."""
    root = tmp_path_factory.mktemp("failed-writes")
    write_version(PartitionStore(UPath(root / "before")), "old")
    subprocess.run([sys.executable, "-c", SCRIPT, str(root)], check=True, timeout=110)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "disk full"])
def test_a_disk_or_a_writer_that_fails_at_any_step_leaves_a_whole_version(failed_writes, how):
    steps = sorted((failed_writes / how).glob("step-*"), key=lambda path: int(path.name[5:]))
    assert len(steps) >= 6
    found = [content(PartitionStore(UPath(step))) for step in steps]
    assert found[0] == {"old"}
    assert found[-1] == {"new"}
    assert all(one in ({"old"}, {"new"}) for one in found)
    if how == "disk full":
        said = [(failed_writes / how / f"{step.name[5:]}.said").read_text() for step in steps]
        for text, step in zip(said, steps, strict=True):
            if text:
                assert text.startswith(f"[Errno 28] {step} could not be written: No space left")
                assert "\nMake room on the disk" in text
        assert sum(map(bool, said)) >= 6
    before = sorted(path.name for path in (failed_writes / "before").iterdir())
    for step, one in zip(steps, found, strict=True):
        if how == "disk full" and one == {"old"}:
            assert sorted(path.name for path in step.iterdir()) == before, step
        for left in {path.name for path in step.iterdir()} - {*before, "manifest.json"}:
            # As if it had been left there long ago.
            (step / left).rename(step / f"20200101T000000.000000Z-{left[-6:]}")
        later = PartitionStore(UPath(step), grace_period=timedelta(0))
        for _ in range(2):
            write_version(later, "next")
        assert content(later) == {"next"}
        kept = {path.name for path in step.iterdir()}
        assert len(kept) == 3, kept  # the manifest, the version in force, the one before


def test_a_store_that_may_not_be_written_to_says_so_and_keeps_its_version(failed_writes):
    said = (failed_writes / "denied").read_text()
    assert said.startswith("[Errno 13]")
    assert "store could not be written: Permission denied" in said
    assert "\nLet the user that Dagster runs as read and write there." in said
    assert (failed_writes / "denied-content").read_text() == "old"


def test_of_writers_in_several_processes_one_wins_whole(failed_writes):
    seen = json.loads((failed_writes / "seen").read_text())
    assert len(seen) > 1
    assert all(one in (["old"] * 2, ["a"] * 2, ["b"] * 2, ["c"] * 2) for one in seen)
    assert seen[-1] != ["old"] * 2
