"""A file's bytes, held against the checksum that its storage tells."""

from __future__ import annotations

import base64
import hashlib
import zlib

import pyarrow as pa
import pytest
from upath import UPath

from dagster_kumo import KumoClient, KumoDataError, Predictions
from dagster_kumo.predictions.pieces import PIECE_BYTES
from dagster_kumo.predictions.remote.download import RemoteFile
from dagster_kumo.predictions.remote.output_urls import OutputUrls
from dagster_kumo.predictions.store.store import PartitionStore
from tests.predictions.outputs import parquet_bytes, store_output

# Without compression a changed value is Parquet as before, so that nothing else would notice.
CONTENT = parquet_bytes(
    pa.table({"ENTITY": range(40_000)}), use_dictionary=False, compression="none"
)
WHOLE = f"bytes=0-{PIECE_BYTES - 1}"
DAMAGED = CONTENT[:1000] + b"\xff" + CONTENT[1001:]


def text(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


MD5 = text(hashlib.md5(CONTENT).digest())
SHA1 = text(hashlib.sha1(CONTENT).digest())
SHA256 = text(hashlib.sha256(CONTENT).digest())
SHA512 = text(hashlib.sha512(CONTENT).digest())
CRC32 = text(zlib.crc32(CONTENT).to_bytes(4, "big"))
OTHER = text(hashlib.md5(DAMAGED).digest())

TOLD = {
    "Google": {"x-goog-hash": f"crc32c=n03x6A==,md5={MD5}"},
    "Google, not packed": {
        "x-goog-hash": f"md5={MD5}",
        "x-goog-stored-content-encoding": "identity",
    },
    "Azure": {"Content-MD5": MD5},
    "S3 SHA-256": {"x-amz-checksum-sha256": SHA256, "x-amz-checksum-type": "FULL_OBJECT"},
    "S3 SHA-1": {"x-amz-checksum-sha1": SHA1},
    "S3 CRC32": {"x-amz-checksum-crc32": CRC32},
    "HTTP, older": {"Digest": f"unixsum=30637,SHA-256={SHA256}"},
    "HTTP": {"Repr-Digest": f"unknown=:AAAA:, sha-512=:{SHA512}:"},
    "HTTP, of the content": {"Content-Digest": f"sha-256=:{SHA256}:"},
    "the best one": {"Repr-Digest": f"sha-256=:{SHA256}:", "Content-MD5": OTHER},
}
NOT_TOLD = {
    "nothing": {},
    "an ETag": {"ETag": f'"{hashlib.md5(DAMAGED).hexdigest()}"', "x-amz-server-side-encryption": "AES256"},
    "S3, of parts": {"x-amz-checksum-sha256": f"{SHA256}-3"},
    "S3, of parts by type": {"x-amz-checksum-crc32": "AAAAAA==", "x-amz-checksum-type": "COMPOSITE"},
    "Google, packed": {"x-goog-hash": f"md5={OTHER}", "x-goog-stored-content-encoding": "gzip"},
    "unknown kinds": {"x-goog-hash": "crc32c=AAAAAA==", "x-amz-checksum-crc64nvme": "AAAAAAAAAAA="},
    "no checksum": {"Content-MD5": "?", "Digest": "md5,,=,SHA-256=AAAA", "Repr-Digest": "\u00b2=::"},
    "hexadecimal": {"Content-MD5": hashlib.md5(DAMAGED).hexdigest()},
}  # fmt: skip


@pytest.fixture
def served(server, serve_file):
    """A file of a storage that tells `headers`; its first `damaged` deliveries are damaged."""

    def served(headers: dict[str, str], *, damaged: int = 0) -> Predictions:
        def change(request, answer):
            if request.headers.get("range") in (WHOLE, None):
                answer.body = DAMAGED if len(server.requests) <= damaged else CONTENT
            answer.headers = {**answer.headers, **headers}
            return answer

        url = serve_file(CONTENT, change)
        files = KumoClient(server.url, "acme:s3cr3t", request_max_retries=1).files
        remote = RemoteFile(OutputUrls(lambda: [url], what="The output"), 0, files)
        return Predictions([remote])

    return served


@pytest.mark.parametrize("headers", TOLD.values(), ids=TOLD)
def test_a_file_that_came_damaged_is_fetched_again(served, server, headers):
    assert served(headers, damaged=1).to_arrow()["ENTITY"].to_pylist() == list(range(40_000))
    assert len(server.requests) == 2


@pytest.mark.parametrize("headers", TOLD.values(), ids=TOLD)
def test_a_file_as_it_was_told_is_fetched_once(served, server, headers):
    assert served(headers).to_arrow().num_rows == 40_000
    assert len(server.requests) == 1


@pytest.mark.parametrize("headers", NOT_TOLD.values(), ids=NOT_TOLD)
def test_what_is_no_checksum_of_the_file_is_not_compared(served, server, headers):
    assert served(headers).to_arrow().num_rows == 40_000
    assert len(server.requests) == 1


def test_a_file_that_stays_damaged_is_refused_and_nothing_is_stored(served, server, tmp_path):
    store = PartitionStore(UPath(tmp_path / "store"))
    with pytest.raises(KumoDataError, match=r"part-00000\.parquet, fetched 3 times, .*MD5"):
        store_output(served({"Content-MD5": MD5}, damaged=9), store)
    assert store.manifest() is None
    assert len(server.requests) == 3


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_a_transfer_that_was_cut_is_compared_as_a_whole(served, server, knows_ranges):
    """The pieces are those of a good file, and the checksum is told with the first one."""
    output = served({"Content-MD5": MD5})
    whole = server.answer_of

    def cut_first(request):
        if not knows_ranges:
            request.headers.pop("range", None)
        answer = whole(request)
        if len(server.requests) == 1:
            answer.body, answer.content_length = CONTENT[:100_000], len(CONTENT)
        elif knows_ranges:
            answer.headers["Content-MD5"] = text(hashlib.md5(answer.body).digest())
        return answer

    server.answer_by(cut_first)
    assert output.to_arrow().num_rows == 40_000
    assert len(server.requests) == 2


def test_damage_before_a_cut_is_found(served, server):
    output = served({"Content-MD5": MD5})
    whole = server.answer_of

    def damage_and_cut(request):
        answer = whole(request)
        if len(server.requests) == 1:
            answer.body, answer.content_length = DAMAGED[:100_000], len(CONTENT)
        return answer

    server.answer_by(damage_and_cut)
    assert output.to_arrow()["ENTITY"].to_pylist() == list(range(40_000))
    assert [request.headers.get("range") for request in server.requests] == [
        WHOLE,
        f"bytes=100000-{len(CONTENT) - 1}",
        WHOLE,
    ]
