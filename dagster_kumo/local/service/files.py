"""Prediction files behind presigned urls, served as an object store does.

A url carries its expiry and a signature over method, path and expiry. It needs no API key and accepts
none. Only GET is signed, so HEAD is refused. `Range`, `If-Range` and `If-Match` are honoured. An error
is an XML document, as S3 sends it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import AsyncIterator
from email.utils import formatdate
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote, urlencode
from xml.sax.saxutils import escape

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from dagster_kumo.local.faults import Faults

_CHUNK = 256 * 1024


class FileServer:
    """Signs urls for files under a folder, and answers them."""

    def __init__(self, root: Path, secret: bytes, lifetime: float, faults: Faults) -> None:
        self._root = root
        self._secret = secret
        self._lifetime = lifetime
        self._faults = faults
        self._versions: dict[str, int] = {}

    def url(self, base: str, file: Path) -> str:
        """A fresh presigned url for a file; `base` is scheme and host."""
        path = file.relative_to(self._root).as_posix()
        issued = time.time()
        query = {
            "X-Amz-Date": f"{issued:.6f}",
            "X-Amz-Expires": f"{self._lifetime:g}",
            "X-Amz-Nonce": secrets.token_hex(8),
        }
        query["X-Amz-Signature"] = self._sign(path, query)
        return f"{base}/files/{quote(path)}?{urlencode(query)}"

    async def answer(self, request: Request) -> Response:
        """Answer a request for a file."""
        path = str(request.path_params["path"])
        if (refusal := self._refusal(request, path)) is not None:
            return refusal
        file = self._root / path
        if not file.is_file():
            return _error(404, "NoSuchKey", "The specified key does not exist.")
        if self._faults.take("change_file", request.method, request.url.path):
            self._versions[path] = self._versions.get(path, 0) + 1
        stat = await to_thread.run_sync(file.stat)
        digest = await to_thread.run_sync(_digest, file, stat.st_mtime_ns, stat.st_size)
        version = self._versions.get(path, 0)
        etag = f'"{digest}-{version}"' if version else f'"{digest}"'
        headers = {
            "ETag": etag,
            "Accept-Ranges": "bytes",
            "Last-Modified": formatdate(stat.st_mtime, usegmt=True),
            "Content-Type": "application/octet-stream",
        }
        wanted = request.headers.get("if-match")
        if wanted is not None and wanted != "*" and etag not in re.split(r"\s*,\s*", wanted):
            return _error(412, "PreconditionFailed", "The file has changed.", {"ETag": etag})

        size = stat.st_size
        start, end, status = 0, size, 200
        asked = request.headers.get("range")
        if asked is not None and request.headers.get("if-range", etag) == etag:
            span = _byte_range(asked, size)
            if span is not None:
                start, end = span
                if start >= end:
                    return _error(
                        416,
                        "InvalidRange",
                        "The requested range is not satisfiable.",
                        {"Content-Range": f"bytes */{size}"},
                    )
                status = 206
                headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        headers["Content-Length"] = str(end - start)
        return StreamingResponse(_read(file, start, end), status, headers)

    def _refusal(self, request: Request, path: str) -> Response | None:
        if request.method != "GET":
            return _error(403, "SignatureDoesNotMatch", "The url was signed for GET.")
        if "x-api-key" in request.headers or "authorization" in request.headers:
            return _error(
                400, "InvalidArgument", "A presigned url takes no key: send no credentials with it."
            )
        query = dict(request.query_params)
        given = query.pop("X-Amz-Signature", "")
        if not hmac.compare_digest(given.encode(), self._sign(path, query).encode()):
            return _error(403, "SignatureDoesNotMatch", "The signature does not match the url.")
        issued, lifetime = float(query["X-Amz-Date"]), float(query["X-Amz-Expires"])
        if time.time() > issued + lifetime or issued <= self._faults.urls_expired_at:
            return _error(403, "AccessDenied", "Request has expired")
        return None

    def _sign(self, path: str, query: dict[str, str]) -> str:
        text = "\n".join(["GET", path, *(f"{name}={query[name]}" for name in sorted(query))])
        return hmac.new(self._secret, text.encode(), hashlib.sha256).hexdigest()


def _byte_range(asked: str, size: int) -> tuple[int, int] | None:
    """The bytes that a Range header asks for; None if it must be ignored."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", asked.strip())
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        return max(size - int(last), 0), size
    return int(first), min(int(last) + 1, size) if last else size


@lru_cache(maxsize=1024)
def _digest(file: Path, mtime_ns: int, size: int) -> str:
    del mtime_ns, size  # so a changed file is a new entry of the cache
    digest = hashlib.md5(usedforsecurity=False)
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


async def _read(file: Path, start: int, end: int) -> AsyncIterator[bytes]:
    stream = await to_thread.run_sync(file.open, "rb")
    try:
        stream.seek(start)
        while start < end:
            chunk = await to_thread.run_sync(stream.read, min(_CHUNK, end - start))
            if not chunk:
                return
            start += len(chunk)
            yield chunk
    finally:
        stream.close()


def _error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> Response:
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>"
    )
    return Response(body, status, headers, media_type="application/xml")
