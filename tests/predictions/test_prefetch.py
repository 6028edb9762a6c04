"""Live files, fetched several at once, ahead of who reads them, and no more of them than is read."""

from __future__ import annotations

import itertools
import os
import signal
import tempfile
import threading
import time

import pyarrow as pa
import pytest

from dagster_kumo import KumoClient, KumoConnectionError, Predictions
from dagster_kumo.predictions.prefetch import READY
from dagster_kumo.predictions.remote.download import RemoteFile
from dagster_kumo.predictions.remote.output_urls import OutputUrls
from dagster_kumo.predictions.store.store import PartitionStore
from dagster_kumo.predictions.streams import FEWEST
from tests.api.scripted_server import Answer
from tests.predictions.outputs import parquet_bytes, store_output
from tests.support import wait_until

FILES = 12


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """Where scratch files go."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def live(server):
    """A live output of small files; `before(number)` is called before each answer."""

    def live(before=lambda _: None, files: int = FILES) -> Predictions:
        contents = [parquet_bytes(pa.table({"x": [number]})) for number in range(files)]

        def answer(request):
            number = int(request.path.rpartition("/")[2])
            return before(number) or Answer(contents[number])

        server.answer_by(answer)
        urls = [f"{server.origin}/{number}" for number in range(files)]
        transport = KumoClient(server.url, "acme:s3cr3t", request_max_retries=0).files
        addresses = OutputUrls(lambda: urls, what="The output")
        return Predictions([RemoteFile(addresses, i, transport) for i in range(files)])

    return live


def nothing_is_left(folder) -> bool:
    names = [thread.name for thread in threading.enumerate()]
    return not any(name.startswith("kumo-") for name in names) and list(folder.iterdir()) == []


def test_several_files_are_fetched_at_once_and_come_in_order(live):
    together = threading.Barrier(FEWEST)
    # Which files these are is not certain: a thread may be late.
    first = itertools.count()
    output = live(lambda _: next(first) < FEWEST and together.wait(30) and None)
    assert output.to_arrow()["x"].to_pylist() == list(range(FILES))


def test_a_slow_first_file_comes_first(live):
    others = threading.Event()

    def before(number):
        if number == 0:
            others.wait(30)
        elif number == FEWEST - 1:
            others.set()

    assert [table["x"][0].as_py() for table in live(before)] == list(range(FILES))


def test_no_more_is_fetched_than_a_slow_reader_takes(live, server):
    tables = iter(live())
    for taken in (1, 2, 3):
        next(tables)
        time.sleep(0.1)  # for what should not happen
        assert taken <= len(server.requests) <= taken + FEWEST + READY - 1


def test_who_stops_reading_stops_the_fetching(live, scratch):
    tables = iter(live())
    next(tables)
    tables.close()
    assert nothing_is_left(scratch)


def test_an_error_stops_the_fetching(live, scratch):
    output = live(lambda number: Answer(b"", 500) if number == 1 else None)
    with pytest.raises(KumoConnectionError, match="500"):
        output.to_pandas()
    assert nothing_is_left(scratch)


def test_an_interrupt_stops_the_fetching(live, server, scratch):
    def interrupt(number):
        # Python drops what a signal raises while it collects garbage: then it is sent again.
        if number in (5, 100):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        live(interrupt, files=200).to_pandas()
    # An interrupt while a pool starts its thread keeps the pool from waiting for it; the thread ends by itself.
    wait_until(lambda: nothing_is_left(scratch))
    assert len(server.requests) < 200


def test_an_interrupt_stops_a_transfer_and_leaves_nothing(live, scratch, server):
    def interrupt(number):
        # Python drops what a signal raises while it collects garbage: then it is sent again.
        if number in (5, 100):
            os.kill(os.getpid(), signal.SIGINT)

    store = PartitionStore(_folder(scratch))
    with pytest.raises(KeyboardInterrupt):
        store_output(live(interrupt, files=200), store)
    assert list((scratch / "store").iterdir()) == []
    assert len(server.requests) < 200


def test_a_transfer_fetches_no_more_files_at_once_than_it_may(live, tmp_path):
    lock, now, most = threading.Lock(), 0, 0

    def before(_):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.02)
        with lock:
            now -= 1

    store_output(live(before), PartitionStore(_folder(tmp_path)))  # which asks for two at once
    assert most == 2


def _folder(path):
    from upath import UPath

    return UPath(path / "store")


# Columns ##################################################################################

WIDE = pa.table({f"c{i:02}": pa.array(range(i, i + 20_000), pa.int64()) for i in range(40)})


@pytest.fixture
def wide(server, serve_file):
    """A wide live output of two row groups, and how many bytes of it were sent in which parts."""
    content = parquet_bytes(WIDE, row_group_size=10_000, use_dictionary=False, compression="none")
    sent: list[int] = []

    def note(_, answer):
        sent.append(len(answer.body))
        return answer

    url = serve_file(content, note)
    transport = KumoClient(server.url, "acme:s3cr3t").files
    remote = RemoteFile(OutputUrls(lambda: [url], what="The output"), 0, transport)
    return Predictions([remote]), sent


COLUMN_BYTES = 20_000 * 8
FOOTER_BYTES = 64 * 1024


@pytest.mark.parametrize(
    ("columns", "parts"),
    [(["c03"], 2), (["c03", "c04"], 2), (["c04", "c03"], 2), (["c03", "c30"], 4)],
    ids=str,
)
def test_only_the_columns_that_are_read_are_fetched(wide, columns, parts):
    """One part for the footer, then one for each row group and place in it; neighbours are one part."""
    output, sent = wide
    assert output.to_arrow(columns) == WIDE.select(columns)
    assert len(sent) == 1 + parts
    assert sum(sent) == pytest.approx(FOOTER_BYTES + len(columns) * COLUMN_BYTES, rel=0.05)


def test_columns_can_be_read_in_batches_and_as_a_frame(wide):
    output, sent = wide
    assert pa.Table.from_batches(output.iter_batches(3000, ["c07"])) == WIDE.select(["c07"])
    assert output.to_pandas(["c07"]).equals(WIDE.select(["c07"]).to_pandas())
    assert sum(sent) < 2 * (FOOTER_BYTES + COLUMN_BYTES) * 1.05


def test_a_column_of_lists_is_fetched_with_its_elements(server, serve_file):
    table = pa.table({"e": [1, 2], "v": [[1.0], [2.0, 3.0]], "v.x": [5, 6]})
    url = serve_file(parquet_bytes(table))
    transport = KumoClient(server.url, "acme:s3cr3t").files
    remote = RemoteFile(OutputUrls(lambda: [url], what="The output"), 0, transport)
    assert Predictions([remote]).to_arrow(["v"]) == table.select(["v"])


def test_a_footer_longer_than_the_first_guess_is_fetched_whole(server, serve_file):
    table = pa.table({f"{'long' * 40}{i}": [i] for i in range(500)})
    url = serve_file(parquet_bytes(table))
    transport = KumoClient(server.url, "acme:s3cr3t").files
    remote = RemoteFile(OutputUrls(lambda: [url], what="The output"), 0, transport)
    name = table.column_names[250]
    assert Predictions([remote]).to_arrow([name]) == table.select([name])
