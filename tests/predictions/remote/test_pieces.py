"""One large file, fetched by pieces over several connections: what goes wrong with one piece."""

from __future__ import annotations

import base64
import hashlib
import re
import threading
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from upath import UPath

from dagster_kumo import KumoClient, KumoConnectionError, KumoDataError, Predictions
from dagster_kumo.predictions.files import StoredFile
from dagster_kumo.predictions.pieces import FOOTER_GUESS_BYTES, PIECE_BYTES
from dagster_kumo.predictions.remote.bucket import BucketFile
from dagster_kumo.predictions.remote.download import RemoteFile
from dagster_kumo.predictions.remote.output_urls import OutputUrls
from dagster_kumo.predictions.store.manifest import StoredFileEntry
from dagster_kumo.predictions.store.store import PartitionStore
from tests.predictions.outputs import fetch, parquet_bytes, store_output, write_files

ROWS = 1_500_000
PIECES = 3


def large_file(first: int) -> tuple[pa.Table, bytes]:
    rows = np.arange(first, first + ROWS)
    table = pa.table({"ENTITY": rows, "True_PROB": (rows % 1000) / 1000})
    options = {"use_dictionary": False, "compression": "none", "row_group_size": ROWS // 4}
    return table, parquet_bytes(table, **options)


TABLE, CONTENT = large_file(0)
OTHER_TABLE, OTHER = large_file(1)
SECOND = f"bytes={PIECE_BYTES}-"
"""How the range of the second piece begins."""


@pytest.fixture
def large(server, serve_file):
    """The large file as a live output; takes what is to be changed about the server's answers."""

    def large(change=lambda _, answer: answer, urls=None) -> Predictions:
        url = serve_file(CONTENT, change)
        client = KumoClient(server.url, "acme:s3cr3t", request_max_retries=1, request_timeout=5)
        addresses = OutputUrls(urls or (lambda: [url]), what="The output")
        return Predictions([RemoteFile(addresses, 0, client.files)])

    return large


@pytest.fixture
def fetched(tmp_path):
    def fetched(output: Predictions) -> bytes:
        return fetch(output.files[0], tmp_path / "part").read_bytes()

    return fetched


def once(matches, change):
    """Change the first answer to a request whose range begins like that."""
    left = [True]

    def change_once(request, answer):
        if request.headers.get("range", "").startswith(matches) and left:
            left.clear()
            change(answer)
        return answer

    return change_once


def starts(server, path: str = "") -> list[int]:
    """Where the requested ranges began, in order of arrival."""
    asked = [r.headers["range"] for r in server.requests if path in r.path and "range" in r.headers]
    return [int(re.fullmatch(r"bytes=(\d+)-\d+", one)[1]) for one in asked]


def test_the_pieces_come_over_several_connections_each_once(large, fetched, server):
    together = threading.Barrier(3)
    after_first = once(f"bytes={2 * PIECE_BYTES}-", lambda _: together.wait(30))
    second = once(SECOND, lambda _: together.wait(30))
    tail = once(f"bytes={len(CONTENT) - FOOTER_GUESS_BYTES}-", lambda _: together.wait(30))
    output = large(
        lambda request, answer: tail(request, second(request, after_first(request, answer)))
    )
    assert fetched(output) == CONTENT
    assert sorted(starts(server)) == [
        *range(0, len(CONTENT), PIECE_BYTES),
        len(CONTENT) - FOOTER_GUESS_BYTES,
    ]
    assert len({request.client_port for request in server.requests}) >= 3
    assert {request.headers.get("if-match") for request in server.requests[1:]} == {'"e"'}


def test_a_piece_that_breaks_in_the_middle_goes_on_there(large, fetched, server):
    def cut(answer):
        answer.content_length = len(answer.body)
        answer.body = answer.body[: PIECE_BYTES // 2]

    assert fetched(large(once(SECOND, cut))) == CONTENT
    (resumed,) = [at for at in starts(server) if PIECE_BYTES < at < 2 * PIECE_BYTES]
    assert PIECE_BYTES * 1.4 < resumed <= PIECE_BYTES * 1.5


def test_a_short_piece_is_completed(large, fetched, server):
    """A server may give less than was asked for, and say so."""

    def shorten(answer):
        answer.body = answer.body[:1000]
        end = PIECE_BYTES + 999
        answer.headers["Content-Range"] = f"bytes {PIECE_BYTES}-{end}/{len(CONTENT)}"

    assert fetched(large(once(SECOND, shorten))) == CONTENT
    assert PIECE_BYTES + 1000 in starts(server)


def test_a_piece_that_never_gets_on_is_given_up(large, fetched):
    def nothing(request, answer):
        if request.headers["range"].startswith(SECOND):
            answer.body, answer.content_length = b"", len(answer.body)
        return answer

    with pytest.raises(KumoConnectionError, match="2 attempts"):
        fetched(large(nothing))


@pytest.mark.parametrize("status", [429, 503])
def test_a_piece_that_the_server_is_too_busy_for_is_asked_for_again(large, fetched, server, status):
    def refuse(answer):
        answer.status, answer.body = status, b""

    assert fetched(large(once(SECOND, refuse))) == CONTENT
    assert starts(server).count(PIECE_BYTES) == 2


def test_a_url_that_expires_between_pieces_is_renewed_once(large, fetched, server):
    listed: list[str] = []

    def urls():
        listed.append(f"{server.origin}/part-0.parquet?X-Amz-Signature={len(listed)}")
        return listed[-1:]

    def expire(request, answer):
        if "Signature=0" in request.path and not request.headers["range"].startswith("bytes=0-"):
            answer.status, answer.body = 403, b"<Error>Request has expired</Error>"
        return answer

    assert fetched(large(expire, urls)) == CONTENT
    assert len(listed) == 2


def test_a_file_that_is_replaced_between_pieces_starts_over(large, fetched):
    replaced = threading.Event()

    def replace(request, answer):
        begin, end = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers["range"]).groups())
        if begin and "if-match" in request.headers:
            replaced.set()
        if replaced.is_set():
            answer.headers["ETag"] = '"other"'
            answer.body = OTHER[begin : end + 1]
            if request.headers.get("if-match") == '"e"':
                answer.status, answer.body = 412, b""
        return answer

    assert fetched(large(replace)) == OTHER


def test_a_server_that_does_not_know_if_match_is_found_out_by_its_etag(large, fetched):
    with pytest.raises(KumoDataError, match="changed each time"):
        fetched(large(lambda request, answer: _tagged(answer, request.headers["range"])))


def _tagged(answer, etag):
    answer.headers["ETag"] = f'"{etag}"'
    return answer


def test_a_server_without_ranges_serves_the_file_over_one_connection(large, fetched, server):
    def whole(_, answer):
        answer.status, answer.body, answer.headers = 200, CONTENT, {}
        return answer

    assert fetched(large(whole)) == CONTENT
    assert len(server.requests) == 1


def test_a_server_that_sometimes_ignores_ranges_serves_the_file_over_one_connection(
    large, fetched, server
):
    def whole(request, answer):
        if not request.headers.get("range", "").startswith("bytes=0-"):
            answer.status, answer.body, answer.headers = 200, CONTENT, {"ETag": '"e"'}
        return answer

    assert fetched(large(whole)) == CONTENT
    assert "range" not in server.requests[-1].headers


@pytest.mark.parametrize(
    "wrong",
    [
        f"bytes 0-{PIECE_BYTES - 1}/{len(CONTENT)}",
        f"bytes {PIECE_BYTES}-{2 * PIECE_BYTES - 1}/{len(CONTENT) + 1}",
        f"bytes {PIECE_BYTES}-{2 * PIECE_BYTES}/{len(CONTENT)}",
    ],
)
def test_a_piece_with_another_place_than_asked_is_not_believed(large, fetched, wrong):
    def misplace(answer):
        answer.headers["Content-Range"] = wrong

    assert fetched(large(once(SECOND, misplace))) == CONTENT


def test_a_piece_without_its_place_is_refused(large, fetched):
    def misplace(answer):
        del answer.headers["Content-Range"]

    with pytest.raises(KumoDataError, match="came without its length"):
        fetched(large(once(SECOND, misplace)))


# Rows #####################################################################################


def test_a_large_file_is_read_as_it_is(large):
    assert large().to_arrow() == TABLE
    assert large().to_pandas().equals(TABLE.to_pandas())


def test_the_statistics_of_a_large_file_are_those_of_its_rows(large, tmp_path):
    """However its pieces arrive, they are the same as those of the same rows in small files."""
    _, one = store_output(large(), PartitionStore(UPath(tmp_path / "one")))
    parts = [TABLE.slice(at, 100_000) for at in range(0, ROWS, 100_000)]
    _, many = store_output(
        write_files(tmp_path / "files", parts), PartitionStore(UPath(tmp_path / "many"))
    )
    for name in TABLE.column_names:
        a, b = one.summary.columns[name], many.summary.columns[name]
        assert (a.count, a.nulls, a.min, a.max) == (b.count, b.nulls, b.min, b.max)
    score = one.summary.columns["True_PROB"]
    assert score.mean == pytest.approx(many.summary.columns["True_PROB"].mean)
    assert score.quantiles() == pytest.approx([0.05, 0.5, 0.95], abs=0.002)


def replaced_before(piece: int):
    """The file is another one from this piece on, and what was read of it is void."""
    replaced = threading.Event()

    def replace(request, answer):
        begin, end = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers["range"]).groups())
        if begin == piece * PIECE_BYTES:
            replaced.set()
        if replaced.is_set():
            answer.headers["ETag"] = '"other"'
            answer.body = OTHER[begin : end + 1]
        return answer

    return replace


@pytest.mark.parametrize("piece", range(1, PIECES))
def test_a_frame_of_a_file_that_was_replaced_has_the_rows_of_the_new_one(large, piece):
    assert large(replaced_before(piece)).to_pandas().equals(OTHER_TABLE.to_pandas())


def test_a_frame_of_a_file_that_arrived_damaged_has_the_rows_of_the_second_transfer(large):
    def state(request, answer):
        answer.headers["x-ms-blob-content-md5"] = md5
        return damage(request, answer)

    def zero(answer):
        answer.body = bytes(len(answer.body))

    md5 = base64.b64encode(hashlib.md5(CONTENT).digest()).decode()
    damage = once(SECOND, zero)
    assert large(state).to_pandas().equals(TABLE.to_pandas())


def test_a_frame_is_not_made_of_a_part_of_a_file(large):
    def cut(request, answer):
        if request.headers["range"].startswith(f"bytes={2 * PIECE_BYTES}-"):
            answer.status, answer.body = 404, b""
        return answer

    with pytest.raises(KumoDataError, match="404"):
        large(cut).to_pandas()


def test_statistics_of_a_file_that_was_replaced_are_those_of_the_new_one(large, tmp_path):
    """Rows of the old version may have been summarised before that was known."""
    stored, transferred = store_output(
        large(replaced_before(2)), PartitionStore(UPath(tmp_path / "store"))
    )
    entity = transferred.summary.columns["ENTITY"]
    assert (entity.rows, entity.min, entity.max) == (ROWS, 1, ROWS)
    assert stored.to_arrow() == OTHER_TABLE


# Buckets ##################################################################################


@pytest.fixture(scope="module")
def stored_large(s3_options) -> UPath:
    """The large file, as it is stored in a bucket."""
    store = PartitionStore(UPath("s3://kumo/large", **s3_options))
    with store.new_version() as version:
        (version.scratch / "part").write_bytes(CONTENT)
        version.put(version.scratch / "part", "part-00000.parquet")
        entry = StoredFileEntry(name="part-00000.parquet", num_rows=ROWS, size_bytes=len(CONTENT))
        version.commit([entry], None)
    (file,) = store.read().files
    return file.upath


def test_a_large_file_goes_into_a_bucket_by_parts(stored_large):
    """The tag of an object that was uploaded in n parts ends with -n."""
    assert stored_large.fs.info(stored_large.path)["ETag"].strip('"').endswith(f"-{PIECES}")


def test_a_large_file_comes_from_a_bucket_by_pieces(stored_large, tmp_path):
    arrived: list[tuple[int, int]] = []
    watcher = SimpleNamespace(begin=lambda _: None, arrived=arrived.append)
    assert (
        fetch(StoredFile(stored_large), tmp_path / "part", watcher=watcher).read_bytes() == CONTENT
    )
    assert len(arrived) == PIECES + 1
    assert max(end - start for start, end in arrived) == PIECE_BYTES


def test_a_file_of_a_bucket_that_is_replaced_between_pieces_is_refused(stored_large, tmp_path):
    place = stored_large.parent / "replaced.parquet"
    place.write_bytes(CONTENT)
    replace = SimpleNamespace(begin=lambda _: place.write_bytes(OTHER), arrived=lambda _: None)
    with pytest.raises(KumoDataError, match="changed while it was read"):
        fetch(BucketFile(place, len(CONTENT)), tmp_path / "part", watcher=replace)


def test_a_file_whose_columns_begin_nowhere_is_refused(tmp_path):
    plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    content = parquet_bytes(pa.table({"x": [1, 2, 3]}), store_schema=False, **plain)
    # The first page is at byte 4, which the footer says of the column, and then of its row group.
    place = content.rindex(b"\x26\x08", 0, content.rindex(b"\x26\x08"))
    damaged = content[: place + 1] + b"\x00" + content[place + 2 :]
    (tmp_path / "part").write_bytes(damaged)
    assert pq.read_metadata(tmp_path / "part").row_group(0).column(0).data_page_offset == 0
    output = Predictions([StoredFile(UPath(tmp_path / "part"))])
    with pytest.raises(KumoDataError):
        store_output(output, PartitionStore(UPath(tmp_path / "store")))
