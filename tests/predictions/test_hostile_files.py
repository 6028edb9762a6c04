"""Files made by somebody who means harm: reading them runs nothing and reads nothing else."""

from __future__ import annotations

import pickle
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pytest
from upath import UPath

from dagster_kumo import KumoClient, KumoDataError, Predictions
from dagster_kumo.predictions.remote.download import RemoteFile
from dagster_kumo.predictions.remote.locations import files_at
from dagster_kumo.predictions.remote.output_urls import OutputUrls
from dagster_kumo.predictions.store.store import PartitionStore
from tests.predictions.outputs import fetch, parquet_bytes, store_output


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("where", ["field", "schema"])
def test_a_pickle_in_a_file_is_not_opened(server, serve_file, tmp_path, where):
    trap = tmp_path / "trap"
    pickled = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(Touch(trap)),
    }
    schema = pa.schema(
        [pa.field("ENTITY", pa.int64(), metadata=pickled if where == "field" else None)],
        metadata=pickled if where == "schema" else None,
    )
    url = serve_file(parquet_bytes(pa.table({"ENTITY": [1, 2]}, schema=schema)))
    files = KumoClient(server.url, "acme:s3cr3t").files
    output = Predictions([RemoteFile(OutputUrls(lambda: [url], what="It"), 0, files)])
    stored, _ = store_output(output, PartitionStore(UPath(tmp_path / "store")))
    for read in (output, stored):
        assert read.to_arrow()["ENTITY"].to_pylist() == [1, 2]
        assert read.to_arrow(["ENTITY"]).num_rows == 2
        with suppress(KeyError):  # before 21, pyarrow makes no frame of such a column
            assert list(read.to_pandas()["ENTITY"]) == [1, 2]
    assert not trap.exists()
    pickle.loads(pickled[b"ARROW:extension:metadata"])
    assert trap.exists()  # so that it was a trap


@pytest.mark.parametrize(
    "address",
    [
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "ftp://host/part-0.parquet?sig=s1g",
        "\\\\host\\share\\part-0.parquet",
        "C:\\part-0.parquet",
        "//host/share/part-0.parquet",
        "../part-0.parquet",
        "~/part-0.parquet",
        "github://org:repo@/x.parquet",
        "dbfs:/etc/passwd",
        "dbfs:/Volumes/a/b/c/../../../../etc/passwd",
        "dbfs:/Volumes/../../etc/passwd/x/y",
        "@stage/x' 'file:///etc/",
        "\x00",
    ],
)
def test_places_that_no_output_lies_at_are_refused(client, address):
    with pytest.raises(KumoDataError) as caught:
        files_at(OutputUrls(lambda: [address], what="The output"), client.files, None)
    assert "s1g" not in str(caught.value)


def test_a_renewed_address_may_not_lead_to_this_machine(server, serve_file, tmp_path):
    """The first list is honest, the one after the url has expired is not."""

    def expired(_, answer):
        answer.status = 403
        return answer

    listings = [[serve_file(b"", expired)], ["file:///etc/passwd"]]
    addresses = OutputUrls(lambda: listings.pop(0), what="The output")
    remote = RemoteFile(addresses, 0, KumoClient(server.url, "acme:s3cr3t").files)
    with pytest.raises(KumoDataError, match="has moved"):
        fetch(remote, tmp_path / "part")
