"""Settings of the I/O manager: taken as Dagster's users write them, refused before anything runs."""

import errno
import os
import re
import shutil
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from dagster_kumo import KumoDataError, KumoIOManager
from dagster_kumo.local import LocalKumo
from tests.api.scripted_server import Answer, ScriptedServer
from tests.support import day, files_below, metadata_of, purchase_assets, resources


def value_in_a_run(manager: KumoIOManager, field: str) -> Any:
    """What a setting is in a step."""
    seen: list[Any] = []

    @dg.asset(required_resource_keys={"manager"})
    def reader(context: dg.AssetExecutionContext) -> None:
        seen.append(getattr(context.resources.manager, field))

    dg.materialize([reader], resources={"manager": manager})
    return seen[0]


@pytest.mark.parametrize("field", ["max_parallel_downloads", "preview_rows"])
def test_numbers_come_from_the_environment(
    field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = KumoIOManager(base_path=str(tmp_path), **{field: dg.EnvVar.int("NUMBER")})
    monkeypatch.setenv("NUMBER", "3")
    assert value_in_a_run(manager, field) == 3
    monkeypatch.setenv("NUMBER", "-1")
    with pytest.raises(dg.DagsterResourceFunctionError) as refused:
        value_in_a_run(manager, field)
    assert "greater than or equal to" in str(refused.value.__cause__)


def test_a_fraction_is_not_taken_for_zero(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'Write float\(os.environ\["NUMBER"\]\)'):
        KumoIOManager(base_path=str(tmp_path), grace_period=dg.EnvVar.int("NUMBER"))


@pytest.mark.parametrize("field", ["max_parallel_downloads", "preview_rows", "grace_period"])
def test_numbers_written_out_are_checked_at_once(field: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="greater than or equal to"):
        KumoIOManager(base_path=str(tmp_path), **{field: -1})


# base_path


def materialize(base_path: str, **options: Any) -> dg.ExecuteInProcessResult:
    @dg.asset
    def up() -> pd.DataFrame:
        return pd.DataFrame({"x": [1, 2]})

    @dg.asset
    def down(up: pd.DataFrame) -> dg.MaterializeResult[Any]:
        return dg.MaterializeResult(metadata={"rows": len(up)})

    manager = KumoIOManager(base_path=base_path, statistics=False, **options)
    return dg.materialize([up, down], resources={"io_manager": manager})


@pytest.mark.parametrize(
    ("base_path", "folder"),
    [
        ("~/store", "home/store"),
        ("~", "home"),
        ("file://~/store", "home/store"),
        ("store", "work/store"),
        ("./a/../store", "work/store"),
        ("file://{tmp}/a%20b", "a%20b"),
        ("file://{tmp}//a//b/", "a/b"),
        ("local://{tmp}/a", "a"),
        ("{tmp}/a#b?c*[1]", "a#b?c*[1]"),
        ("{tmp}/a b/ü:c", "a b/ü:c"),
    ],
)
def test_a_base_path_is_where_people_expect_it(
    base_path: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("home", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    run = materialize(base_path.format(tmp=tmp_path))
    assert metadata_of(run, dg.AssetKey("down"))["rows"] == 2
    assert (tmp_path / folder / "up/manifest.json").exists()
    assert not (tmp_path / "work/~").exists()


IMPOSSIBLE: dict[str, tuple[str, dict[str, Any], str]] = {
    "empty": ("", {}, "base_path is empty"),
    "blank": (" ", {}, "base_path is empty"),
    "capitals": ("S3://bucket/x", {}, "write the scheme in small letters, s3://bucket/x"),
    "no such scheme": ("nosuch://bucket/x", {}, "base_path 'nosuch://bucket/x' cannot be used"),
    "one slash": ("s3:/bucket/x", {}, "Write s3://bucket/x"),
    "no slash": ("file:relative", {}, "or the path without the scheme"),
    "not installed": ("oss://bucket/x", {}, "Install ossfs"),
    "one slash on a disk": ("file:/data/x", {}, "Write file:///data/x, or the path without"),
    "one in another": ("simplecache::s3://bucket/x", {}, "names a file system inside another"),
    "nobody's home": ("~nobody-of-that-name/x", {}, "home directory"),
    "read only": ("https://host/x", {}, "for reading only"),
    "password": ("ftp://user:pa55@host/x", {}, "base_path holds a password"),
    "too long": (f"{{tmp}}/{'x' * 300}", {}, "Choose another folder"),
    "a file": ("{tmp}/file/x", {}, "is a file. Choose a folder"),
    "no such variable": (
        "s3://bucket",
        {"key": dg.EnvVar("NOT_SET")},
        "variable NOT_SET, which is",
    ),
    "no such option": (
        "s3://{bucket}",
        {"nonsense": "x"},
        "unexpected keyword argument 'nonsense'",
    ),
    "a secret in the answer": (
        "s3://{bucket}",
        {"client_kwargs": {"api_version": "pa55word", "aws_session_token": "pa55word"}},
        "Unable to load data for: s3/***/service-2",
    ),
    "no such bucket": ("s3://not-there/x", {}, "there is no such bucket"),
    "no name of a bucket": ("s3://b/x", {}, "there is no such bucket"),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_a_store_that_cannot_be_is_refused_before_a_job_is_launched(
    case: str, kumo: LocalKumo, s3_options: dict[str, Any], tmp_path: Path
) -> None:
    base_path, options, words = IMPOSSIBLE[case]
    (tmp_path / "file").write_text("")
    base_path = base_path.format(tmp=tmp_path, bucket="kumo")
    options = {**s3_options, **options} if base_path.startswith("s3://") else options
    with pytest.raises(dg.DagsterResourceFunctionError) as refused:
        dg.materialize(
            [purchase_assets()],
            resources=resources(kumo, base_path, storage_options=options),
            partition_key=day(5),
        )
    message = str(refused.value.__cause__)
    assert words in message
    assert "No prediction job was launched." in message
    assert "pa55" not in message
    assert not [call for call in kumo.requests if call.method == "POST"]


@pytest.mark.parametrize("base_path", ["s3://kumo/a/", "s3://kumo//a//b", "s3a://kumo/c d/ü:%20"])
def test_a_folder_of_a_bucket_is_found_however_it_is_written(
    base_path: str, s3_options: dict[str, Any]
) -> None:
    run = materialize(base_path, storage_options=s3_options)
    assert metadata_of(run, dg.AssetKey("down"))["rows"] == 2


@pytest.mark.parametrize("status", [403, 503])
def test_a_bucket_that_does_not_tell_whether_it_is_there_is_taken(
    status: int, server: ScriptedServer
) -> None:
    server.answer(Answer(b"", status=status))
    options = {
        "key": "test",
        "secret": "test",
        "endpoint_url": server.url,
        "config_kwargs": {"retries": {"max_attempts": 0}},
    }
    manager = KumoIOManager(
        base_path="s3://bucket", storage_options=options, max_parallel_downloads=3
    )
    assert value_in_a_run(manager, "max_parallel_downloads") == 3
    assert server.calls


# Stores that cannot be written to


def refused_launch(
    kumo: LocalKumo, base_path: str, expected: type[Exception], **options: Any
) -> str:
    """The message of a run that launches no job because of its store."""
    with pytest.raises(expected) as refused:
        dg.materialize(
            [purchase_assets()],
            resources=resources(kumo, base_path, **options),
            partition_key=day(5),
        )
    assert not [call for call in kumo.requests if call.method == "POST"]
    message = str(refused.value)
    assert "No prediction job was launched." in message
    return message


@pytest.mark.skipif(
    not Path("/sys/kernel").exists(), reason="needs a folder that root cannot write to"
)
def test_a_folder_without_rights_is_found_before_a_job_is_launched(kumo: LocalKumo) -> None:
    message = refused_launch(kumo, "/sys/kernel", OSError)
    assert "/sys/kernel/purchase/predictions" in message
    assert "Let the user that Dagster runs as read and write there." in message


def test_a_disk_without_room_is_found_before_a_job_is_launched(
    kumo: LocalKumo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(os, "fsync", refuse)
        assert "Make room on the disk" in refused_launch(kumo, str(tmp_path), OSError)
    assert not files_below(tmp_path)


def test_a_disk_has_room_for_what_the_partition_before_needs(
    kumo: LocalKumo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assets, stores = [purchase_assets()], resources(kumo, tmp_path)
    assert dg.materialize(assets, resources=stores, partition_key=day(6)).success
    kumo.clear_requests()
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    message = refused_launch(kumo, str(tmp_path), OSError)
    assert re.search(r"0 MB are free, and the output before needs \d+ MB", message)


def test_the_output_of_another_asset_is_found_before_a_job_is_launched(
    kumo: LocalKumo, tmp_path: Path
) -> None:
    @dg.asset(key=["purchase", "predictions", day(5)], io_manager_key="kumo_io_manager")
    def other() -> pd.DataFrame:
        return pd.DataFrame({"x": [1]})

    assert dg.materialize([other], resources=resources(kumo, tmp_path)).success
    assert "holds the output of" in refused_launch(kumo, str(tmp_path), KumoDataError)


def test_a_bucket_without_rights_is_found_before_a_job_is_launched(
    kumo: LocalKumo, server: ScriptedServer
) -> None:
    """It may be read, and not written."""
    missing = b"<Error><Code>NoSuchKey</Code></Error>"
    server.answer_to_everything(
        lambda request: (
            Answer(b"<Error><Code>AccessDenied</Code></Error>", status=403)
            if request.method == "PUT"
            else Answer(b"" if request.method == "HEAD" else missing, status=404)
        )
    )
    options = {"key": "test", "secret": "test", "endpoint_url": server.url}
    message = refused_launch(kumo, "s3://bucket", PermissionError, storage_options=options)
    assert "s3://bucket/purchase/predictions" in message


def test_nothing_is_left_of_looking_whether_a_disk_can_be_written(tmp_path: Path) -> None:
    """Not even folders: one for a partition would look as if it had been stored."""
    store = tmp_path / "data"
    KumoIOManager(base_path=str(store)).check_writable(dg.AssetKey(["shop", "a"]), day(5))
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_of_looking_whether_a_bucket_can_be_written(
    s3_options: dict[str, Any],
) -> None:
    manager = KumoIOManager(base_path="s3://kumo/probed", storage_options=s3_options)
    manager.check_writable(dg.AssetKey("a"), None)
    root = manager.root()
    assert root.fs.find(root.path) == []
