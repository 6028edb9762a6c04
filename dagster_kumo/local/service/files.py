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
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlencode
from xml.sax.saxutils import escape

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from dagster_kumo.local.faults import Faults

_ONE_RANGE = re.compile(r"bytes=(\d+-\d*|-\d+)")


class _File(FileResponse):
    chunk_size = 256 * 1024


@dataclass(frozen=True)
class FileServer:
    """Signs urls for files under a folder, and answers them."""

    root: Path
    secret: bytes
    lifetime: float
    faults: Faults
    _versions: dict[str, int] = field(default_factory=dict[str, int], init=False)

    def url(self, base: str, file: Path) -> str:
        """A fresh presigned url for a file; `base` is scheme and host."""
        path = file.relative_to(self.root).as_posix()
        issued = time.time()
        query = {
            "X-Amz-Date": f"{issued:.6f}",
            "X-Amz-Expires": f"{self.lifetime:g}",
            "X-Amz-Nonce": secrets.token_hex(8),
        }
        query["X-Amz-Signature"] = self._sign(path, query)
        return f"{base}/files/{quote(path)}?{urlencode(query)}"

    async def answer(self, request: Request) -> Response:
        """Answer a request for a file."""
        path = str(request.path_params["path"])
        if (refusal := self._refusal(request, path)) is not None:
            return refusal
        file = self.root / path
        if not file.is_file():
            return _error(404, "NoSuchKey", "The specified key does not exist.")
        if self.faults.take("change_file", request.method, request.url.path):
            self._versions[path] = self._versions.get(path, 0) + 1
        answer = _File(file, media_type="application/octet-stream", stat_result=file.stat())
        etag = answer.headers["etag"]
        if version := self._versions.get(path):
            etag = answer.headers["etag"] = f'"{version}-{etag[1:]}'
        wanted = request.headers.get("if-match", "*")
        if wanted != "*" and etag not in re.split(r"\s*,\s*", wanted):
            return _error(412, "PreconditionFailed", "The file has changed.", {"ETag": etag})
        if not _ONE_RANGE.fullmatch(request.headers.get("range", "")):
            # An object store ignores other ranges. Starlette would refuse them, or send several parts.
            request.scope["headers"] = [h for h in request.headers.raw if h[0] != b"range"]
        return answer

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
        if time.time() > issued + lifetime or issued <= self.faults.urls_expired_at:
            return _error(403, "AccessDenied", "Request has expired")
        return None

    def _sign(self, path: str, query: dict[str, str]) -> str:
        text = "\n".join(["GET", path, *(f"{name}={query[name]}" for name in sorted(query))])
        return hmac.new(self.secret, text.encode(), hashlib.sha256).hexdigest()


def _error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> Response:
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>"
    )
    return Response(body, status, headers, media_type="application/xml")
