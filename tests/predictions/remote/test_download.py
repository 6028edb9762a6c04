"""A file of a live output, fetched: what was cut goes on, what expired is asked for again."""

from __future__ import annotations

import re
import time
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from upath import UPath

from dagster_kumo import KumoClient, KumoConnectionError, KumoDataError, Predictions
from dagster_kumo.predictions.pieces import PIECE_BYTES
from dagster_kumo.predictions.remote.download import CHUNK_BYTES, RemoteFile
from dagster_kumo.predictions.remote.output_urls import OutputUrls
from dagster_kumo.predictions.store.store import PartitionStore
from dagster_kumo.predictions.streams import Lane, Streams
from tests.api.raw_server import RawServer, be_silent, drip
from tests.predictions.outputs import fetch, parquet_bytes, store_output, write_files

FIRST_PIECE = f"bytes=0-{PIECE_BYTES - 1}"
FIRST = r"^/files/.*part-00000"


@pytest.fixture
def served(kumo, done_job_id) -> list[bytes]:
    """The files that the server holds."""
    folder = kumo.data / "files" / done_job_id / "embeddings"
    return [path.read_bytes() for path in sorted(folder.glob("*.parquet"))]


@pytest.fixture
def download(result, tmp_path):
    """Fetches one file of the embeddings: its bytes."""

    def download(index: int = 0) -> bytes:
        target = tmp_path / "target.parquet"
        fetch(result.embeddings().files[index], target)
        return target.read_bytes()

    return download


def file_requests(kumo) -> list:
    return [request for request in kumo.requests if request.path.startswith("/files/")]


def ranges(kumo) -> list[str | None]:
    return [request.headers.get("range") for request in file_requests(kumo)]


def test_the_bytes_are_those_that_are_served(download, kumo, served):
    assert [download(index) for index in range(3)] == served
    assert ranges(kumo) == [FIRST_PIECE] * 3


def test_a_cut_transfer_goes_on_where_it_broke(download, kumo, served):
    kumo.faults.cut(after_bytes=200_000)
    kumo.faults.cut(after_bytes=100_000)
    assert download() == served[0]
    begin, again, last = ranges(kumo)
    assert begin == FIRST_PIECE
    resumed = [int(re.fullmatch(r"bytes=(\d+)-\d+", asked)[1]) for asked in (again, last)]
    # The bytes of a chunk that broke in the middle may come twice, and no others.
    assert 200_000 - CHUNK_BYTES <= resumed[0] <= 200_000
    assert resumed[0] + 100_000 - CHUNK_BYTES <= resumed[1] <= resumed[0] + 100_000
    etags = {request.headers.get("if-match") for request in file_requests(kumo)[1:]}
    assert len(etags) == 1
    assert etags != {None}


def test_a_transfer_that_gets_on_is_not_given_up(download, kumo, served):
    """More cuts than there are retries: each piece that comes starts the count anew."""
    kumo.faults.cut(after_bytes=70_000, times=6)
    assert download() == served[0]
    assert len(file_requests(kumo)) == 7


def test_a_transfer_that_does_not_get_on_is_given_up(download, kumo):
    kumo.faults.cut(after_bytes=0, times=None)
    with pytest.raises(KumoConnectionError, match="2 attempts"):
        download()
    assert len(file_requests(kumo)) == 2


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_passing_trouble_is_repeated(download, kumo, served, status):
    kumo.faults.answer(status, path=FIRST)
    assert download() == served[0]


def test_a_trouble_that_stays_is_told_with_its_attempts(download, kumo):
    kumo.faults.answer(503, path=FIRST, times=None)
    with pytest.raises(KumoConnectionError, match="503 2 times in a row"):
        download()


def test_a_dropped_connection_is_repeated(download, kumo, served):
    kumo.faults.drop(path=FIRST)
    assert download() == served[0]


def test_an_expired_url_is_asked_for_again(kumo, result, served):
    embeddings = result.embeddings()
    kumo.faults.expire_urls()
    assert list(embeddings) == [pq.read_table(pa.BufferReader(content)) for content in served]
    renewals = [r for r in kumo.requests if r.path.endswith("get_embedding_df_urls")]
    assert len(renewals) == 2  # the three files share the fresh urls


def test_a_url_that_expires_in_mid_transfer_is_renewed_and_resumed(kumo, result, served, tmp_path):
    remote = result.embeddings().files[0]
    kumo.faults.cut(after_bytes=100_000)
    kumo.faults.answer(403, body=b"<Error>Request has expired</Error>", path=FIRST, after=1)
    fetch(remote, tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == served[0]
    assert [r.status for r in file_requests(kumo)] == [206, 403, 206]


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_file_that_stays_away_is_a_data_error(download, kumo, status):
    kumo.faults.answer(status, path=FIRST, times=None)
    with pytest.raises(KumoDataError, match=rf"answered {status}, also by a fresh url"):
        download()
    assert len(file_requests(kumo)) == 3


def test_a_file_that_changed_starts_over(download, kumo, served):
    kumo.faults.cut(after_bytes=100_000)
    kumo.faults.change_file(path=FIRST)
    assert download() == served[0]
    first, refused, again = file_requests(kumo)
    assert (first.status, refused.status, again.status) == (206, 412, 206)
    assert again.headers["range"] == FIRST_PIECE
    assert "if-match" not in again.headers


def test_a_file_that_always_changes_is_a_data_error(download, kumo):
    kumo.faults.cut(after_bytes=100_000, times=None)
    kumo.faults.change_file(path=FIRST, times=None)
    with pytest.raises(KumoDataError, match="changed each time while it was read"):
        download()


def test_head_is_never_used(kumo, result, tmp_path):
    store_output(result.embeddings(), store_at(tmp_path))
    result.embeddings().to_arrow(["ENTITY"])
    assert {request.method for request in file_requests(kumo)} == {"GET"}


def test_the_store_of_files_gets_no_key(kumo, result):
    result.embeddings().to_arrow()
    for request in file_requests(kumo):
        assert not {"x-api-key", "authorization", "cookie"} & set(request.headers)


def store_at(path) -> PartitionStore:
    return PartitionStore(UPath(path / "store"))


# Into a store #############################################################################


def test_bytes_stored_are_bytes_served(kumo, result, served, tmp_path):
    kumo.faults.cut(after_bytes=100_000)
    stored, _ = store_output(result.embeddings(), store_at(tmp_path))
    assert stored.paths == sorted(stored.paths)
    assert [Path(path).read_bytes() for path in stored.paths] == served


def test_a_corrupt_file_is_fetched_once_more(kumo, result, tmp_path):
    kumo.faults.corrupt(path=FIRST)
    stored, _ = store_output(result.embeddings(), store_at(tmp_path))
    assert stored.to_arrow().num_rows == 23570
    assert len([r for r in file_requests(kumo) if "part-00000" in r.path]) == 2


def test_a_file_that_stays_corrupt_is_refused_and_nothing_is_left(kumo, result, tmp_path):
    kumo.faults.corrupt(path=FIRST, times=None)
    store = store_at(tmp_path)
    with pytest.raises(KumoDataError, match=r"part-00000\.parquet is not a readable Parquet"):
        store_output(result.embeddings(), store)
    assert len([r for r in file_requests(kumo) if "part-00000" in r.path]) == 2
    assert store.manifest() is None
    assert list((tmp_path / "store").glob("**/*.parquet*")) == []


# Servers that the stand-in is not #########################################################


CONTENT = parquet_bytes(
    pa.table({"ENTITY": range(60_000), "x": [float(i % 977) for i in range(60_000)]})
)


@pytest.fixture
def remote(server, serve_file):
    """A file of the scripted server; takes what is to be changed about its answers."""

    def remote(change=lambda _, answer: answer, content: bytes = CONTENT) -> RemoteFile:
        url = serve_file(content, change)
        client = KumoClient(server.url, "acme:s3cr3t", request_max_retries=1, request_timeout=5)
        return RemoteFile(OutputUrls(lambda: [url], what="The output"), 0, client.files)

    return remote


def test_a_file_without_its_length_is_refused(remote, tmp_path):
    def without_length(_, answer):
        answer.status, answer.content_length = 200, None
        return answer

    with pytest.raises(KumoDataError, match="came without its length"):
        fetch(remote(without_length), tmp_path / "target")


def test_a_server_that_knows_no_ranges_starts_over(remote, server, tmp_path):
    def cut_once(_, answer):
        answer.status, answer.headers = 200, {}
        answer.body, answer.content_length = CONTENT, len(CONTENT)
        if len(server.requests) == 1:
            answer.body = CONTENT[: CHUNK_BYTES // 4]
        return answer

    fetch(remote(cut_once), tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == CONTENT


def test_a_server_that_knows_no_ranges_and_always_cuts_is_given_up(remote, server, tmp_path):
    def always_cut(_, answer):
        answer.status, answer.headers = 200, {}
        answer.body, answer.content_length = CONTENT[:100_000], len(CONTENT)
        return answer

    with pytest.raises(KumoConnectionError):
        fetch(remote(always_cut), tmp_path / "target")
    assert len(server.requests) <= 4


def test_a_server_that_sends_another_part_than_asked_is_not_believed(remote, server, tmp_path):
    def cut_then_shift(request, answer):
        if len(server.requests) == 1:
            answer.body, answer.content_length = CONTENT[:100_000], len(CONTENT)
        elif "range" in request.headers and len(server.requests) == 2:
            answer.body = CONTENT[50_000:]
            span = f"bytes 50000-{len(CONTENT) - 1}/{len(CONTENT)}"
            answer.headers["Content-Range"] = span
        return answer

    fetch(remote(cut_then_shift), tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == CONTENT


def test_a_file_without_a_byte_is_not_parquet(remote):
    file = remote(content=b"")
    with pytest.raises(KumoDataError, match=r"part-00000\.parquet is not a readable Parquet"):
        Predictions([file]).to_arrow()
    with pytest.raises(KumoDataError, match=r"part-00000\.parquet is not a readable Parquet"):
        _ = Predictions([file]).schema


def test_a_redirected_file_is_not_followed(remote, elsewhere, tmp_path):
    def redirect(_, answer):
        answer.status, answer.headers = 302, {"Location": f"{elsewhere.origin}/x?sig=s1g"}
        return answer

    with pytest.raises(KumoDataError, match="answered 302") as caught:
        fetch(remote(redirect), tmp_path / "target")
    assert elsewhere.requests == []
    assert "s1g" not in str(caught.value)


def test_a_part_of_a_file_that_changed_in_between_is_refused(remote, server):
    table = pa.table({f"c{i}": [float(i * j) for j in range(20_000)] for i in range(20)})
    content = parquet_bytes(table, row_group_size=5_000, use_dictionary=False)

    def change_after_the_footer(request, answer):
        if len(server.requests) > 1:
            if "if-match" in request.headers:
                answer.status, answer.body = 412, b""
            answer.headers["ETag"] = '"other"'
        return answer

    live = Predictions([remote(change_after_the_footer, content)])
    with pytest.raises(KumoDataError, match="changed each time while it was read"):
        live.to_arrow(["c1"])


def test_columns_are_read_from_a_server_that_sends_the_whole_file(remote, server):
    def without_ranges(_, answer):
        answer.status, answer.headers, answer.body = 200, {}, CONTENT
        return answer

    live = Predictions([remote(without_ranges)])
    assert live.to_arrow(["x"]) == pq.read_table(pa.BufferReader(CONTENT), columns=["x"])
    assert len(server.requests) == 1


def test_a_broken_part_is_fetched_again(remote, server):
    def cut_first(_, answer):
        if len(server.requests) == 1:
            answer.content_length = len(answer.body)
            answer.body = answer.body[:10]
        return answer

    live = Predictions([remote(cut_first)])
    assert live.num_rows == 60_000


def test_parts_of_an_expired_url_are_asked_for_by_a_fresh_one(kumo, result):
    embeddings = result.embeddings()
    kumo.faults.expire_urls()
    assert embeddings.num_rows == 23570


def test_a_listing_that_grew_is_refused(tmp_path, serve_file, server):
    url = serve_file(CONTENT, lambda _, answer: _refused(answer))
    listings = [[url], [url, url]]
    addresses = OutputUrls(lambda: listings.pop(0), what="The output")
    client = KumoClient(server.url, "acme:s3cr3t", request_max_retries=0)
    with pytest.raises(KumoDataError, match="had 1 files and has 2 now"):
        fetch(RemoteFile(addresses, 0, client.files), tmp_path / "target")


def _refused(answer):
    answer.status = 403
    return answer


def test_fresh_urls_may_come_in_any_order():
    old = [f"https://h/part-{i}?sig=old" for i in range(3)]
    listings = [old, [url.replace("old", "new") for url in reversed(old)]]
    addresses = OutputUrls(lambda: listings.pop(0), what="The output")
    assert addresses.all() == old
    assert addresses.renewed(0, old[0]) == "https://h/part-0?sig=new"
    assert addresses.renewed(2, old[2]) == "https://h/part-2?sig=new"
    assert listings == []


def test_a_transfer_can_be_stopped(remote, tmp_path):
    streams = Streams()
    try:
        file = remote(lambda _, answer: streams.stop() or answer)
        with pytest.raises(KumoDataError, match="was stopped"):
            file.fetch_to(tmp_path / "target", Lane(streams, 0, file.name))
    finally:
        streams.close()


def test_a_stored_output_is_copied_as_it_is(tmp_path):
    tables = [pa.table({"ENTITY": [1, 2]}), pa.table({"ENTITY": [3]})]
    stored, _ = store_output(write_files(tmp_path / "a", tables), store_at(tmp_path))
    assert list(stored) == tables


# Servers that are slow, or go on for ever #################################################


def part_of(server: RawServer, *, timeout: float = 0.3) -> RemoteFile:
    client = KumoClient(server.url, "acme:s3cr3t", request_max_retries=1, request_timeout=timeout)
    url = f"{server.origin}/part-00000.parquet?X-Amz-Signature=s1g"
    return RemoteFile(OutputUrls(lambda: [url], what="The output"), 0, client.files)


def head_of(asked: bytes, content: bytes = CONTENT) -> tuple[bytes, bytes]:
    """What S3 says to a request for a file, and the bytes that follow."""
    found = re.search(rb"Range: bytes=(\d+)-", asked)
    begin = int(found[1]) if found else 0
    status = b"206 Partial Content" if found else b"200 OK"
    span = b"Content-Range: bytes %d-%d/%d\r\n" % (begin, len(content) - 1, len(content))
    length = b'Content-Length: %d\r\nETag: "e"\r\n\r\n' % (len(content) - begin)
    return b"HTTP/1.1 " + status + b"\r\n" + (span if found else b"") + length, content[begin:]


def ranges_asked(server: RawServer) -> list[int]:
    found = [re.search(rb"Range: bytes=(\d+)-", asked) for asked in server.requests]
    return [int(match[1]) if match else 0 for match in found]


@pytest.mark.parametrize(
    "stall",
    [lambda connection, _: be_silent(connection), drip],
    ids=["then silent", "then byte by byte"],
)
def test_a_stalled_transfer_goes_on_where_it_stopped(tmp_path, stall):
    def say(connection, asked):
        head, body = head_of(asked)
        if len(server.requests) <= 2:  # more than there are retries: it got on in between
            connection.sendall(head + body[:30_000])
            stall(connection, body[30_000:])
        connection.sendall(head + body)

    with RawServer(say) as server:
        fetch(part_of(server, timeout=0.5), tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == CONTENT
    begun = ranges_asked(server)
    got_on = [after - before for before, after in pairwise(begun)]
    assert len(begun) == 3
    assert all(30_000 <= came < 30_100 for came in got_on)


def test_a_transfer_that_hardly_gets_on_is_given_up(tmp_path):
    def say(connection, asked):
        head, body = head_of(asked)
        connection.sendall(head + body[:10])

    with RawServer(say) as server, pytest.raises(KumoConnectionError, match="2 attempts"):
        fetch(part_of(server), tmp_path / "target")
    assert ranges_asked(server) == [0, 10]


def test_a_slow_transfer_is_not_given_up(tmp_path):
    def say(connection, asked):
        head, body = head_of(asked, CONTENT[:10_000])
        connection.sendall(head)
        for begin in range(0, len(body), 500):
            connection.sendall(body[begin : begin + 500])
            time.sleep(0.07)

    with RawServer(say) as server:
        fetch(part_of(server, timeout=1), tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == CONTENT[:10_000]
    assert len(server.requests) == 1


ENDLESS = {
    "as a part": b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-999/1000\r\n",
    "as chunks": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nTransfer-Encoding: chunked\r\n",
}


@pytest.mark.parametrize("head", ENDLESS.values(), ids=ENDLESS)
def test_no_more_is_written_than_the_length_that_was_told(tmp_path, head):
    def say(connection, _):
        connection.sendall(head + b"\r\n")
        while True:
            connection.sendall(b"fa0\r\n" + b"x" * 4000 + b"\r\n")

    with RawServer(say) as server, pytest.raises(KumoDataError, match="more than the 1000 bytes"):
        fetch(part_of(server), tmp_path / "target")
    assert (tmp_path / "target").stat().st_size <= 1000


def test_a_file_that_the_disk_has_no_room_for_is_refused_before_it_is_written(tmp_path):
    def say(connection, _):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % 10**17)
        while True:
            connection.sendall(b"x" * 10_000)

    with RawServer(say) as server, pytest.raises(KumoDataError, match=rf"{10**17} bytes .*room"):
        fetch(part_of(server), tmp_path / "target")
    assert (tmp_path / "target").stat().st_size == 0


@pytest.mark.parametrize("length", ["\u00b2", "9" * 5000, "-1", "1e3", ""])
def test_a_length_that_is_none_is_refused(tmp_path, length):
    def say(connection, _):
        told = f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\nabc"
        connection.sendall(told.encode("latin-1"))

    with RawServer(say) as server, pytest.raises(KumoDataError, match="without its length"):
        fetch(part_of(server), tmp_path / "target")


def test_a_footer_that_claims_to_be_gigantic_is_refused():
    """The last 64 kB of a file of 10**17 bytes, whose footer would be 4 GB of it."""
    tail = b"x" * (64 * 1024 - 8) + b"\xff\xff\xff\xff" + b"PAR1"

    def say(connection, _):
        length = 10**17
        connection.sendall(
            b"HTTP/1.1 206 Partial Content\r\nContent-Length: %d\r\n" % len(tail)
            + b"Content-Range: bytes %d-%d/%d\r\n\r\n" % (length - len(tail), length - 1, length)
            + tail
        )

    with RawServer(say) as server, pytest.raises(KumoDataError, match="damaged"):
        _ = Predictions([part_of(server)]).schema
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "host", ["a" * 64, ".", "a..b", "[::1%25lo]", "x" * 300, "\u00ad", "127.1"]
)
def test_an_address_that_no_host_has_is_a_connection_error(tmp_path, server, host):
    files = KumoClient(server.url, "acme:s3cr3t", request_max_retries=0).files
    url = f"http://{host}:1/part-0.parquet?X-Amz-Signature=s1g"
    with pytest.raises(KumoConnectionError) as caught:
        fetch(RemoteFile(OutputUrls(lambda: [url], what="The output"), 0, files), tmp_path / "x")
    assert "s1g" not in str(caught.value)
