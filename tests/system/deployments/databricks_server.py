"""The Files API of a Databricks workspace, as much of it as reading a volume takes."""

from __future__ import annotations

import json
import re
import secrets
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "dapi-0123456789abcdef"
PAGE = 2  # entries of a listing, so that every directory of the tests takes several


class DatabricksServer:
    """Start with `with DatabricksServer() as workspace:`; `files` holds contents by their paths."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.presigns = True
        self.break_after: int | None = None
        self.wrong_sizes = False
        self.calls: list[str] = []
        self.signature = secrets.token_hex(8)
        handler = type("Handler", (_Handler,), {"workspace": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> DatabricksServer:
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def entries(self, directory: str) -> list[dict[str, Any]]:
        """What lies in a directory, in no order."""
        below = [path for path in reversed(self.files) if path.startswith(f"{directory}/")]
        found: dict[str, dict[str, Any]] = {}
        for path in below:
            name, slash, _ = path.removeprefix(f"{directory}/").partition("/")
            entry: dict[str, Any] = {"path": f"{directory}/{name}", "name": name}
            if slash:
                entry["is_directory"] = True
            else:
                entry |= {"is_directory": False, "file_size": len(self.files[path])}
                entry["file_size"] += self.wrong_sizes
            found[name] = entry
        return list(found.values())


class _Handler(BaseHTTPRequestHandler):
    workspace: DatabricksServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        path, query = unquote(parts.path), parse_qs(parts.query)
        self.workspace.calls.append(f"{self.command} {path}")
        authorized = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if path.startswith("/storage/"):
            signed = query.get("sig") == [self.workspace.signature]
            if not signed or "Authorization" in self.headers:
                return self._json(403, {})
            return self._file(path.removeprefix("/storage"))
        if not authorized:
            return self._error(401, "UNAUTHENTICATED", "Credential was not sent or is not valid.")
        if match := re.fullmatch(r"/api/2\.0/fs/directories(/.+)", path):
            entries = self.workspace.entries(match[1])
            if not entries:
                return self._error(404, "NOT_FOUND", "There is no directory at this path.")
            begin = int(query.get("page_token", ["0"])[0])
            page: dict[str, Any] = {"contents": entries[begin : begin + PAGE]}
            if begin + PAGE < len(entries):
                page["next_page_token"] = str(begin + PAGE)
            return self._json(200, page)
        if match := re.fullmatch(r"/api/2\.0/fs/files(/.+)", path):
            return self._file(match[1])
        return self._error(404, "ENDPOINT_NOT_FOUND", "There is no such endpoint.")

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        self.workspace.calls.append(f"POST {parts.path}")
        if parts.path != "/api/2.0/fs/create-download-url":
            return self._error(404, "ENDPOINT_NOT_FOUND", "There is no such endpoint.")
        if not self.workspace.presigns:
            info = {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "FILES_API_API_IS_NOT_ENABLED",
                "domain": "filesystem.databricks.com",
            }
            message = "Presigned URLs API is not enabled"
            error = {"error_code": "PERMISSION_DENIED", "message": message, "details": [info]}
            return self._json(403, error)
        path = parse_qs(parts.query)["path"][0]
        url = f"{self.workspace.url}/storage{path}?sig={self.workspace.signature}"
        return self._json(200, {"url": url, "headers": []})

    def _file(self, path: str) -> None:
        content = self.workspace.files.get(path)
        if content is None:
            return self._error(404, "NOT_FOUND", f"The file {path} does not exist.")
        begin = int((self.headers.get("Range") or "bytes=0-")[6:].partition("-")[0])
        status = 206 if begin else 200
        headers = {"Last-Modified": "Tue, 24 Nov 2026 00:00:00 GMT"}
        if self.workspace.break_after is not None and self.command == "GET":
            cut, self.workspace.break_after = self.workspace.break_after, None
            self._answer(status, content[begin:cut], headers, length=len(content) - begin)
            self.close_connection = True
            return None
        return self._answer(status, content[begin:], headers)

    def _error(self, status: int, code: str, message: str) -> None:
        self._json(status, {"error_code": code, "message": message})

    def _json(self, status: int, value: object) -> None:
        self._answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _answer(
        self, status: int, content: bytes, headers: dict[str, str], length: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass
