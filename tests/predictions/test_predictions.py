"""An output, read: the same whether it is still with Kumo or stored."""

from __future__ import annotations

import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from upath import UPath

from dagster_kumo import KumoDataError, Predictions
from dagster_kumo.predictions.files import StoredFile
from tests.predictions.outputs import write_files

pytestmark = pytest.mark.fast

COLUMNS = ["ENTITY", "ANCHOR_TIMESTAMP", "TARGET_PRED", "False_PROB", "True_PROB"]


@pytest.fixture
def served(kumo, done_job_id) -> list[pa.Table]:
    """The files that the server holds."""
    folder = kumo.data / "files" / done_job_id / "predictions"
    return [pq.read_table(path) for path in sorted(folder.glob("*.parquet"))]


def test_an_output_is_a_sequence_of_partitions(output, served):
    assert len(output) == output.num_files == len(served) == 3
    assert list(output) == list(output.iter_tables()) == served
    assert [output.table(i) for i in range(3)] == served
    assert output.table(-1) == served[-1]
    with pytest.raises(IndexError):
        output.table(3)


def test_what_is_known_of_an_output(output, done_job_id, served):
    assert output.schema.names == COLUMNS
    assert output.schema == served[0].schema
    assert output.num_rows == 23570 == sum(table.num_rows for table in served)
    assert output.job_id == done_job_id
    assert output.output_type == "predictions"
    assert output.provenance.num_entities == 23570
    assert output.provenance.training_job_id == "trainingjob-cdnow-purchase"


def test_everything_at_once(output, served):
    whole = pa.concat_tables(served)
    assert output.to_arrow() == whole
    assert output.to_pandas().equals(whole.to_pandas())


def test_piece_by_piece(output, served):
    whole = pa.concat_tables(served)
    batches = list(output.iter_batches(1000))
    assert all(isinstance(batch, pa.RecordBatch) for batch in batches)
    assert max(batch.num_rows for batch in batches) == 1000
    assert pa.Table.from_batches(batches) == whole
    assert output.to_reader().read_all() == whole
    frames = list(output.iter_pandas())
    assert [len(frame) for frame in frames] == [table.num_rows for table in served]
    assert frames[1].equals(served[1].to_pandas())


@pytest.mark.parametrize("columns", [["True_PROB"], ["True_PROB", "ENTITY"], ["ENTITY"]])
def test_columns_come_as_they_are_asked_for(output, served, columns):
    whole = pa.concat_tables(served).select(columns)
    assert output.to_arrow(columns) == whole
    assert output.to_reader(columns).read_all() == whole
    assert output.table(0, columns) == served[0].select(columns)
    assert pa.Table.from_batches(output.iter_batches(columns=columns)) == whole
    assert [list(frame.columns) for frame in output.iter_pandas(columns)] == [columns] * 3
    assert list(output.to_pandas(columns).columns) == columns
    assert next(output.iter_tables(columns)).column_names == columns


@pytest.mark.parametrize(
    "read",
    [
        lambda output, columns: output.to_arrow(columns),
        lambda output, columns: output.to_pandas(columns),
        lambda output, columns: output.to_reader(columns).read_all(),
        lambda output, columns: output.table(0, columns),
        lambda output, columns: list(output.iter_batches(columns=columns)),
        lambda output, columns: list(output.iter_pandas(columns)),
    ],
    ids=["to_arrow", "to_pandas", "to_reader", "partition", "iter_batches", "iter_pandas"],
)
def test_an_unknown_column_is_refused_with_those_that_are_there(output, read):
    with pytest.raises(KumoDataError, match=r"no column PROB.*there are: ENTITY, ANCHOR_TIMESTAMP"):
        read(output, ["ENTITY", "PROB"])


def test_the_representation_names_the_job_and_no_url(output, done_job_id):
    assert repr(output) == f"<Predictions: predictions of {done_job_id}, 3 partition files>"


def test_paths_are_where_the_files_are(output, served):
    assert len(output.paths) == 3
    if output.paths[0].startswith("http"):
        assert all("X-Amz-Signature=" in path for path in output.paths)
    elif output.paths[0].startswith("s3://"):
        assert output.paths[2].endswith("part-00002.parquet")
    else:
        assert [pq.read_table(path) for path in output.paths] == served


def test_a_dataset_reads_stored_files_lazily(output, served):
    if output.paths[0].startswith("http"):
        with pytest.raises(KumoDataError, match=r"\.to_reader\(\)"):
            output.to_dataset()
        return
    dataset = output.to_dataset()
    assert dataset.count_rows() == 23570
    assert dataset.to_table(columns=["ENTITY"]) == pa.concat_tables(served).select(["ENTITY"])


def test_an_empty_output_has_no_schema():
    empty = Predictions([])
    assert (len(empty), list(empty), empty.num_rows, empty.paths) == (0, [], 0, [])
    assert (empty.job_id, empty.output_type) == (None, None)
    for read in (lambda: empty.schema, empty.to_arrow, empty.to_pandas, empty.to_dataset):
        with pytest.raises(KumoDataError, match="no partition files"):
            read()


# What moves ###############################################################################


def sent_bytes(kumo) -> int:
    """How much of the files the server sent."""
    sizes = {path.name: path.stat().st_size for path in kumo.data.rglob("embeddings/*.parquet")}
    total = 0
    for request in kumo.requests:
        if not request.path.startswith("/files/"):
            continue
        first, _, last = (
            request.headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")
        )
        size = sizes[request.path.rpartition("/")[2]]
        total += int(last) if not first else (int(last) + 1 if last else size) - int(first)
    return total


def test_reading_one_column_of_a_live_output_moves_few_bytes(kumo, result):
    whole = result.embeddings().to_arrow()
    all_of_it = sent_bytes(kumo)
    kumo.clear_requests()
    entities = result.embeddings().to_arrow(["ENTITY"])
    assert entities == whole.select(["ENTITY"])
    assert sent_bytes(kumo) < all_of_it / 3


def test_schema_and_rows_of_a_live_output_come_from_footers(kumo, result):
    embeddings = result.embeddings()
    kumo.clear_requests()
    assert (embeddings.num_rows, embeddings.schema.names) == (23570, ["ENTITY", "EMBEDDING"])
    ranges = [r.headers.get("range") for r in kumo.requests]
    assert len(ranges) == 3
    assert all(asked.startswith("bytes=-") for asked in ranges)


def test_nothing_is_fetched_before_it_is_asked_for(kumo, result):
    iterator = iter(result.predictions())
    assert not [r for r in kumo.requests if r.path.startswith("/files/")]
    next(iterator)
    assert [r for r in kumo.requests if "part-00000.parquet" in r.path]


def test_a_live_output_cannot_be_pickled_and_a_stored_one_can(result, tmp_path):
    with pytest.raises(TypeError, match="KumoIOManager"):
        pickle.dumps(result.predictions())
    stored = write_files(tmp_path, [pa.table({"x": [1]})])
    assert pickle.loads(pickle.dumps(stored)).to_arrow().to_pydict() == {"x": [1]}


# Files that are not what they should be ###################################################


def test_partitions_of_one_output_may_differ_in_what_can_be_promoted(tmp_path):
    files = [pa.table({"x": pa.nulls(2)}), pa.table({"x": ["a", "b"]})]
    assert write_files(tmp_path, files).to_arrow()["x"].to_pylist() == [None, None, "a", "b"]


@pytest.mark.parametrize(
    "tables",
    [
        [pa.table({"x": pa.nulls(2)}), pa.table({"x": ["a", "b"]})],
        [pa.table({"x": ["a", "b"]}), pa.table({"x": pa.nulls(2)})],
        [pa.table({"x": [1]}), pa.table({"x": [2], "y": ["a"]}), pa.table({"y": ["b"], "x": [3]})],
    ],
)
def test_a_reader_has_the_types_of_the_table(tmp_path, tables):
    output = write_files(tmp_path, tables)
    assert output.to_reader().read_all() == output.to_arrow()
    assert output.to_reader(["x"]).read_all() == output.to_arrow(["x"])


@pytest.mark.parametrize(
    "read",
    [
        Predictions.to_arrow,
        Predictions.to_pandas,
        Predictions.to_dataset,
        lambda p: p.to_reader().read_all(),
        lambda p: p.schema,
    ],
)
def test_partitions_that_do_not_fit_together_are_a_data_error(tmp_path, read):
    files = [pa.table({"x": [1]}), pa.table({"x": ["a"]})]
    with pytest.raises(KumoDataError, match="do not fit together"):
        read(write_files(tmp_path, files))


def damaged_page(content: bytes) -> bytes:
    """A file whose footer is right and whose pages are not."""
    return content[:4] + b"\xff" * (len(content) // 2) + content[4 + len(content) // 2 :]


BY_BATCHES = {
    "iter_batches": lambda output: output.iter_batches(10_000),
    "to_reader": Predictions.to_reader,
    "to_dataset": lambda output: output.to_dataset().to_batches(batch_size=10_000),
}


@pytest.mark.parametrize(
    ("read", "groups"),
    [
        ("iter_batches", 1),
        ("iter_batches", 400),
        ("to_reader", 1),
        ("to_reader", 400),
        ("to_dataset", 400),  # Arrow reads a dataset by whole row groups, a few of them ahead
    ],
)
def test_a_file_larger_than_memory_can_be_read_by_batches(tmp_path, read, groups):
    rows = 4_000_000
    numbers = pa.array(range(rows // groups), pa.float64())
    group = pa.table({"ENTITY": numbers, "x": numbers})
    path = tmp_path / "part-0.parquet"
    with pq.ParquetWriter(path, group.schema, compression="none", use_dictionary=False) as writer:
        for _ in range(groups):
            writer.write_table(group, row_group_size=rows)
    del group, numbers
    before, came, held = pa.total_allocated_bytes(), 0, 0
    for batch in BY_BATCHES[read](Predictions([StoredFile(UPath(path))])):
        came += batch.num_rows
        held = max(held, pa.total_allocated_bytes() - before)
    assert came == rows
    assert held < path.stat().st_size / 3


@pytest.fixture(params=["missing", "empty", "text", "cut", "damaged page"])
def bad_file(request, tmp_path) -> Predictions:
    path = tmp_path / "part-0.parquet"
    pq.write_table(pa.table({"x": [f"value {i}" for i in range(1000)]}), path, compression="zstd")
    content = path.read_bytes()
    if request.param == "missing":
        path.unlink()
    else:
        path.write_bytes(
            {
                "empty": b"",
                "text": b"no Parquet, but long enough to be one",
                "cut": content[:-10],
                "damaged page": damaged_page(content),
            }[request.param]
        )
    return Predictions([StoredFile(UPath(path))])


@pytest.mark.parametrize(
    "read",
    [
        Predictions.to_arrow,
        Predictions.to_pandas,
        lambda output: output.table(0),
        lambda output: list(output.iter_batches()),
        lambda output: output.to_reader().read_all(),
        lambda output: output.to_arrow(["x"]),
    ],
)
def test_a_bad_file_is_a_data_error_that_names_it(bad_file, read):
    with pytest.raises(KumoDataError, match=r"part-0\.parquet"):
        read(bad_file)


@pytest.mark.parametrize("place", ["memory", "s3"])
def test_a_stored_file_that_is_gone_is_a_data_error(place, s3_options):
    url = {"memory": "memory://gone/part-0.parquet", "s3": "s3://kumo/gone/part-0.parquet"}[place]
    options = s3_options if place == "s3" else {}
    with pytest.raises(KumoDataError, match=r"part-0\.parquet"):
        Predictions([StoredFile(UPath(url, **options))]).to_arrow()
