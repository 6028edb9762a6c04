"""An output, brought into a store: every file checked, counted and summarised on its way."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from datetime import date, datetime, timezone

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from upath import UPath

from dagster_kumo import KumoClient, KumoDataError
from dagster_kumo.predictions.files import FetchedFile
from dagster_kumo.predictions.remote.download import RemoteFile
from dagster_kumo.predictions.remote.output_urls import OutputUrls
from dagster_kumo.predictions.store.store import PartitionStore
from dagster_kumo.predictions.store.tables import as_predictions
from dagster_kumo.predictions.store.transfer import transfer
from tests.predictions.outputs import parquet_bytes, store_output, write_files

pytestmark = pytest.mark.fast

NOON = datetime(2026, 11, 24, 12, tzinfo=timezone.utc)
MIDNIGHT = datetime(2026, 11, 24, tzinfo=timezone.utc)


@pytest.fixture
def store(tmp_path) -> PartitionStore:
    return PartitionStore(UPath(tmp_path / "store"))


def test_what_came_over_is_told(store, result):
    live = result.predictions()
    stored, came = store_output(live, store)
    frame = stored.to_pandas()
    assert came.num_rows == len(frame) == 23570
    assert came.schema == live.schema
    assert [file.num_rows for file in came.files] == [table.num_rows for table in stored]
    assert came.seconds > 0
    score = came.summary.columns["True_PROB"]
    assert score.count == 23570
    assert score.mean == pytest.approx(frame["True_PROB"].astype(float).mean())
    assert (score.min, score.max) == (frame["True_PROB"].min(), frame["True_PROB"].max())
    yes = came.summary.columns["TARGET_PRED"]
    assert yes.mean == pytest.approx(frame["TARGET_PRED"].mean())
    anchor = frame["ANCHOR_TIMESTAMP"].iloc[0].tz_localize("UTC")
    assert came.anchors == (anchor, anchor)


def test_statistics_can_be_left_out(store, result):
    _, came = store_output(result.embeddings(), store, summarise=False)
    assert came.summary is None
    assert came.num_rows == 23570


def test_statistics_can_be_of_some_columns_alone(store, result):
    live = result.predictions()
    _, came = store_output(live, store, summarise=["True_PROB", "no column"])
    assert list(came.summary.columns) == ["True_PROB"]
    assert came.summary.columns["True_PROB"].count == came.summary.num_rows == 23570
    assert came.anchors is not None


def test_an_output_without_files_is_refused(store):
    with store.new_version() as version, pytest.raises(KumoDataError, match="no files"):
        transfer([], version, max_parallel=1)
    assert store.manifest() is None


def test_files_that_do_not_agree_are_stored_and_described_as_one(tmp_path, store):
    tables = [
        pa.table({"ENTITY": [1], "x": [1], "word": pa.nulls(1)}),
        pa.table({"word": ["a"], "ENTITY": [2]}),
        pa.table({"ENTITY": [3], "x": [2.5], "word": ["a"]}),
    ]
    stored, came = store_output(write_files(tmp_path / "files", tables), store)
    expected = pa.schema({"ENTITY": pa.int64(), "x": pa.float64(), "word": pa.string()})
    assert came.schema == stored.schema == expected
    x, word = came.summary.columns["x"], came.summary.columns["word"]
    assert (x.rows, x.nulls, x.min, x.max, x.mean) == (3, 1, 1, 2.5, 1.75)
    assert (word.rows, word.nulls, word.values) == (3, 1, {"a": 2})
    assert stored.to_arrow()["x"].to_pylist() == [1.0, None, 2.5]


def test_files_whose_types_cannot_be_one_are_refused_and_nothing_is_left(tmp_path, store):
    tables = [pa.table({"x": [1]}), pa.table({"x": [2]}), pa.table({"x": ["a"]})]
    output = write_files(tmp_path / "files", tables)
    with pytest.raises(KumoDataError, match=r"part-2\.parquet.*\n.*int64 vs string"):
        store_output(output, store)
    assert list((tmp_path / "store").iterdir()) == []


def test_two_columns_of_one_name_are_refused_and_nothing_is_left(tmp_path, store):
    table = pa.table([[1], [2], [3]], names=["id", "v", "v"])
    with pytest.raises(KumoDataError, match="duplicate columns: v"):
        store_output(as_predictions(table), store)
    assert list((tmp_path / "store").iterdir()) == []


def test_a_statistic_that_fails_leaves_the_data(tmp_path, store):
    """Parquet holds times beyond the calendar, which have no minimum that could be shown."""
    far = pa.array([2**62], pa.timestamp("us"))
    output = write_files(
        tmp_path / "files", [pa.table({"x": far, "y": [1]}), pa.table({"x": far, "y": [2]})]
    )
    stored, came = store_output(output, store)
    assert list(came.summary.failed) == ["x"]
    assert came.summary.columns["y"].mean == 1.5
    assert stored.num_rows == 2


def test_a_page_that_was_damaged_on_the_way_is_fetched_once_more(store, server, serve_file):
    content = parquet_bytes(
        pa.table({"x": [f"value {i}" for i in range(1000)]}), compression="zstd"
    )
    damaged = content[:4] + b"\xff" * 200 + content[204:]

    def damage_first(_, answer):
        answer.body = damaged if len(server.requests) == 1 else content
        return answer

    url = serve_file(content, damage_first)
    files = KumoClient(server.url, "acme:s3cr3t").files
    remote = RemoteFile(OutputUrls(lambda: [url], what="The output"), 0, files)
    with store.new_version() as version:
        came = transfer([remote], version, max_parallel=1)
        version.commit(came.files, None)
    assert store.read().to_arrow()["x"][-1].as_py() == "value 999"
    assert len(server.requests) == 2


def test_a_file_of_a_stage_that_was_damaged_on_the_way_is_fetched_once_more(store):
    """A stage or a volume gives a file through a client of its own, which may deliver it damaged."""
    whole = parquet_bytes(pa.table({"ENTITY": [1, 2, 3]}))
    deliveries = [b"PAR1" + bytes(len(whole) - 8) + b"PAR1", whole]

    def fetch(to, _lane):
        to.write_bytes(deliveries.pop(0))

    with store.new_version() as version:
        found = transfer([FetchedFile("@s/part", len(whole), fetch)], version, max_parallel=1)
    assert found.num_rows == 3
    assert deliveries == []


def test_a_stored_file_with_a_damaged_page_is_refused(tmp_path, store):
    output = write_files(tmp_path / "files", [pa.table({"x": [f"v{i}" for i in range(1000)]})])
    path = tmp_path / "files" / "part-0.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:4] + b"\xff" * 200 + content[204:])
    with pytest.raises(KumoDataError, match=r"part-0\.parquet is not a readable Parquet file"):
        store_output(output, store)
    assert store.manifest() is None


# Anchor times #############################################################################


@pytest.mark.parametrize(
    ("anchors", "expected"),
    [
        (pa.array([NOON.replace(tzinfo=None)] * 2, pa.timestamp("ns")), NOON),
        (pa.array([NOON.replace(tzinfo=None)] * 2, pa.timestamp("s")), NOON),
        (pa.array([NOON] * 2, pa.timestamp("us", "UTC")), NOON),
        (pa.array([NOON] * 2, pa.timestamp("ms", "America/New_York")), NOON),
        (pa.array([date(2026, 11, 24)] * 2), MIDNIGHT),
        (pa.array([date(2026, 11, 24)] * 2, pa.date64()), MIDNIGHT),
        (pa.array([int(NOON.timestamp())] * 2), NOON),
        (pa.array([int(NOON.timestamp() * 1e3)] * 2), NOON),
        (pa.array([int(NOON.timestamp()) * 10**6] * 2), NOON),
        (pa.array([int(NOON.timestamp()) * 10**9] * 2), NOON),
        (pa.array([int(NOON.timestamp()), None], pa.int64()), NOON),
        (pa.array([int(NOON.timestamp())] * 2, pa.int32()), NOON),
        (pa.array([NOON] * 2, pa.timestamp("us", "UTC")).dictionary_encode(), NOON),
    ],
    ids=str,
)
def test_the_anchor_time_is_read_whatever_its_type(tmp_path, store, anchors, expected):
    output = write_files(tmp_path / "files", [pa.table({"ANCHOR_TIMESTAMP": anchors})])
    _, came = store_output(output, store)
    assert came.anchors == (expected, expected)


@pytest.mark.parametrize(
    "anchors", [pa.nulls(2), pa.array(["soon"] * 2), pa.array([None, None], pa.timestamp("ns"))]
)
def test_an_anchor_time_that_names_no_time_is_none(tmp_path, store, anchors):
    output = write_files(tmp_path / "files", [pa.table({"ANCHOR_TIMESTAMP": anchors})])
    assert store_output(output, store)[1].anchors is None


def test_the_anchor_times_of_all_files_count(tmp_path, store):
    tables = [
        pa.table({"ANCHOR_TIMESTAMP": [when, NOON]})
        for when in (MIDNIGHT, NOON, datetime(2026, 11, 25, tzinfo=timezone.utc))
    ]
    _, came = store_output(write_files(tmp_path / "files", tables), store)
    assert came.anchors == (MIDNIGHT, datetime(2026, 11, 25, tzinfo=timezone.utc))


# Memory ###################################################################################

MEASURE = textwrap.dedent(
    """
    # What Python, numpy and Arrow have held at most, while a file is brought into a store.
    import sys, tracemalloc
    from pathlib import Path
    import pyarrow as pa
    from upath import UPath
    from tests.predictions.outputs import store_output
    from dagster_kumo import Predictions
    from dagster_kumo.predictions.files import StoredFile
    from dagster_kumo.predictions.store.store import PartitionStore

    file, store = map(Path, sys.argv[1:])
    tracemalloc.start()
    store_output(Predictions([StoredFile(UPath(file))]), PartitionStore(UPath(store)))
    print(tracemalloc.get_traced_memory()[1] + pa.default_memory_pool().max_memory())
    """
)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path):
    piece = pa.table({"ENTITY": range(200_000), "x": pa.array(range(200_000), pa.float64())})
    pieces = 30
    with pq.ParquetWriter(tmp_path / "large", piece.schema, compression="none") as writer:
        for _ in range(pieces):
            writer.write_table(piece)
    run = [sys.executable, "-c", MEASURE, str(tmp_path / "large"), str(tmp_path / "store")]
    held = int(subprocess.run(run, check=True, capture_output=True, text=True).stdout)
    assert 0 < held < piece.nbytes * pieces / 2
