"""The checksum of a whole file, if its storage states a reliable one.

An ETag is not reliable: whether it is the MD5 of the bytes depends on how the file was written and encrypted.
CRC32C and CRC64NVME cannot be computed with the standard library.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CHUNK_BYTES = 1024**2


class _Crc32:
    digest_size = 4

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes, /) -> None:
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self.digest_size, "big")


_DIGESTS = {
    "SHA-512": hashlib.sha512,
    "SHA-256": hashlib.sha256,
    "SHA-1": lambda: hashlib.sha1(usedforsecurity=False),
    "MD5": lambda: hashlib.md5(usedforsecurity=False),
    "CRC32": _Crc32,
}
_AZURE = "x-ms-blob-content-md5"  # of the file, whatever part of it the answer gives
_BY_ALGORITHM = {"sha": "SHA-1", "sha-256": "SHA-256", "sha-512": "SHA-512", "md5": "MD5"}
_BY_HEADER = {
    "x-amz-checksum-sha256": "SHA-256",
    "x-amz-checksum-sha1": "SHA-1",
    "x-amz-checksum-crc32": "CRC32",
    "content-md5": "MD5",
    _AZURE: "MD5",
}


class Checksum:
    """The checksum of a file that the headers of an answer state.

    Most headers are about what the answer gives: the whole file, if it `is_whole`, or a part.
    """

    def __init__(self, headers: Mapping[str, str], *, is_whole: bool = True) -> None:
        stated = _stated(headers, is_whole)
        self.kind = next((kind for kind in _DIGESTS if kind in stated), None)
        """The kind of checksum, for example `MD5`; None if none is stated."""
        self._expected = stated.get(self.kind or "")

    def matches(self, path: Path) -> bool:
        """Whether a local file has the checksum as stated. True if none is stated."""
        if self.kind is None:
            return True
        digest: Any = _DIGESTS[self.kind]()
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
        return digest.digest() == self._expected


def _stated(headers: Mapping[str, str], is_whole: bool) -> dict[str, bytes]:
    """The checksums of the whole file that the headers state, by kind."""
    stated: dict[str, str] = {}
    # These headers state several. In HTTP's newer ones each value is between colons.
    of_file = ("digest", "repr-digest", "x-goog-hash")
    for name in (*of_file, "content-digest") if is_whole else of_file:
        if (
            name == "x-goog-hash"
            and headers.get("x-goog-stored-content-encoding", "identity") != "identity"
        ):
            continue  # it is that of the compressed file, which may have been unpacked during the transfer
        for item in headers.get(name, "").split(","):
            algorithm, _, value = item.strip().partition("=")
            stated[_BY_ALGORITHM.get(algorithm.lower(), "")] = value.strip(":")
    # S3 also states checksums of the checksums of an upload's parts.
    composite = headers.get("x-amz-checksum-type", "FULL_OBJECT") != "FULL_OBJECT"
    for name, kind in _BY_HEADER.items():
        of_answer = name in headers and not (composite and name.startswith("x-amz-"))
        if of_answer and (is_whole or name == _AZURE):
            stated[kind] = headers[name].strip()
    return {kind: value for kind, text in stated.items() if (value := _decoded(kind, text))}


def _decoded(kind: str, text: str) -> bytes | None:
    """The checksum; None if the value is not of that kind, such as S3's `...-3` for an upload in 3 parts."""
    try:
        value = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return value if kind in _DIGESTS and len(value) == _DIGESTS[kind]().digest_size else None
