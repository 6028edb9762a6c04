"""Outputs that lie in a bucket of the customer's, read through fsspec; and addresses that are refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import s3fs

from dagster_kumo import (
    KumoDataError,
    KumoError,
    KumoResource,
)
from tests.predictions.outputs import fetch, parquet_bytes
from tests.system.deployments.deployment import shows_the_whole_way
from tests.system.deployments.kumo_server import DeployedKumo
from tests.system.other_server import ROWS_PER_FILE

BUCKET = "kumo-outputs"


@pytest.fixture
def bucket(s3_options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> s3fs.S3FileSystem:
    """A bucket, with its credentials where the file system finds them by itself."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret-of-aws")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_options["endpoint_url"])
    s3fs.S3FileSystem.clear_instance_cache()
    file_system = s3fs.S3FileSystem()
    if not file_system.exists(BUCKET):
        file_system.mkdir(BUCKET)
    return file_system


@pytest.fixture
def server(bucket: s3fs.S3FileSystem, tmp_path: Path) -> Iterator[DeployedKumo]:
    home = f"{BUCKET}/{tmp_path.name}"
    with DeployedKumo(
        lambda path, content: bucket.pipe_file(f"{home}/{path}", content),
        lambda output: [f"s3://{home}/{output}"],
    ) as server:
        yield server


def test_a_directory_in_a_bucket_is_read_in_order(result, bucket):
    (address,) = result.predictions_urls()
    for name in ("/_SUCCESS", "/_temporary/0/x.parquet", "_old/part-0.parquet"):
        bucket.pipe_file(f"{address}{name}", b"not of this output")
    predictions = result.predictions()
    assert predictions.paths == [f"{address}/part-0.parquet", f"{address}/part-1.parquet"]
    assert predictions.to_arrow()["ENTITY"].to_pylist() == list(range(2 * ROWS_PER_FILE))
    assert predictions.to_arrow(["ENTITY"]).num_rows == predictions.num_rows == 2 * ROWS_PER_FILE
    # Unlike presigned urls these addresses last, and so other engines may read them.
    assert predictions.to_dataset().count_rows() == 2 * ROWS_PER_FILE


def test_a_file_in_a_bucket_is_read(result, server):
    (directory,) = result.predictions_urls()
    server.addresses = lambda _: [f"{directory}/part-1.parquet"]
    assert result.predictions().to_arrow()["ENTITY"][0].as_py() == ROWS_PER_FILE


def test_a_new_listing_sees_new_files(result):
    assert result.predictions().num_files == 2
    (address,) = result.predictions_urls()
    other = s3fs.S3FileSystem(skip_instance_cache=True)
    other.pipe_file(f"{address}/part-2.parquet", parquet_bytes(pa.table({"ENTITY": [1]})))
    assert result.predictions().num_files == 3


def test_a_file_that_changes_its_length_is_a_data_error(result, bucket, tmp_path: Path):
    predictions = result.predictions()
    bucket.pipe_file(predictions.paths[0], parquet_bytes(pa.table({"ENTITY": [1]})))
    with pytest.raises(KumoDataError, match="bytes"):
        fetch(predictions.files[0], tmp_path / "part.parquet")


@pytest.mark.parametrize("place", ["nothing/here", "no-such-bucket"])
def test_where_nothing_lies_there_is_a_data_error(result, server, place):
    address = f"s3://{BUCKET}/{place}" if "/" in place else f"s3://{place}/out"
    server.addresses = lambda _: [address]
    with pytest.raises(KumoDataError, match=place):
        result.predictions()


@pytest.mark.parametrize("scheme", ["gs", "abfss"])
def test_the_package_that_a_bucket_needs_is_named(result, server, scheme):
    """Neither gcsfs nor adlfs is installed for the tests."""
    server.addresses = lambda _: [f"{scheme}://container@account.dfs.core.windows.net/out"]
    with pytest.raises(
        KumoError, match="pip install gcsfs" if scheme == "gs" else "pip install adlfs"
    ):
        result.predictions()


@pytest.mark.parametrize(
    "address",
    [
        "file:///etc/passwd",
        "/etc/passwd",
        "local:///etc/passwd",
        "memory://somewhere/part-0.parquet",
        "dbfs::file:///etc/passwd",
        "s3://bucket::file:///etc/passwd",
        "s3://x?sig=s1g::file:///etc/passwd",
        "simplecache::s3://bucket/x",
        "zip://x.parquet::file:///tmp/x.zip",
        "S3://bucket/../../etc",
        "s3://bucket/../other/x",
        "ftp://host/part-0.parquet",
        "reference://",
        "http:///part-0.parquet?sig=s1g",
        "",
    ],
)
def test_other_addresses_are_refused_and_their_query_is_not_shown(result, server, address):
    server.addresses = lambda _: [address]
    with pytest.raises(KumoDataError) as caught:
        result.predictions()
    assert "s1g" not in str(caught.value)


def test_assets_are_materialized_from_a_bucket_and_exported(server, tmp_path: Path):
    kumo = KumoResource(url=server.url, api_key=server.api_key)
    metadata = shows_the_whole_way(server, kumo, tmp_path)
    assert metadata["dagster/row_count"] == 2 * ROWS_PER_FILE
    assert "s3cret-of-aws" not in str(metadata)
