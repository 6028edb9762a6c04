"""A gate on the way to a stand-in: what a test names waits there until the test lets it pass."""

import http.client
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import urlsplit

from dagster_kumo.local import LocalKumo

Way = Literal["there", "back"]
_JOB_ID = re.compile(r"[a-z]+(?:-[a-z]+)*-[0-9a-f]{16}")
_PATIENCE = 60.0  # seconds: a step process begins in five or more when all cores are busy


class Hold:
    """Requests that wait before they reach the stand-in, or answers on their way back."""

    def __init__(self, method: str, path: str, about: str, way: Way, times: int | None) -> None:
        self._method = method
        self._path = path
        self._about = about
        self._way = way
        self._left = times
        self._let_go = threading.Event()
        self._arrival = threading.Condition()
        self._arrived = 0

    def wait(self, times: int = 1) -> None:
        """Wait until so many have come."""
        with self._arrival:
            came = self._arrival.wait_for(lambda: self._arrived >= times, _PATIENCE)
        assert came, f"{self._method} {self._path} of {self._about!r} has not come"

    def release(self) -> None:
        """Let pass what waits, and what comes later."""
        self._let_go.set()

    def stop(self, method: str, path: str, about: str, way: Way) -> None:
        """Wait here, if this is what is held."""
        if (
            way == self._way
            and method == self._method
            and re.search(self._path, path)
            and self._about in about
            and not self._let_go.is_set()
        ):
            with self._arrival:
                if self._left == 0:
                    return
                if self._left is not None:
                    self._left -= 1
                self._arrived += 1
                self._arrival.notify_all()
            self._let_go.wait(_PATIENCE)


class Gate:
    """A proxy before a stand-in. `open_to` may be another one later on."""

    def __init__(self, kumo: LocalKumo) -> None:
        self.open_to = kumo
        self._holds: list[Hold] = []
        self._launched_by: dict[str, str] = {}
        gate = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: Any) -> None: ...

            def pass_on(self) -> None:
                gate.pass_on(self)

            do_GET = do_HEAD = do_POST = do_PATCH = pass_on  # noqa: N815 - http.server's names

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args: Any) -> None: ...  # a client that was killed

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/api"

    def hold(
        self,
        method: str,
        path: str,
        *,
        about: str = "",
        way: Way = "back",
        times: int | None = None,
    ) -> Hold:
        """Hold what asks for `path`, a regular expression, and is about something; so many times.

        What a call is about is in its body, in its query, or in the request that made the job that
        its path names.
        """
        hold = Hold(method, path, about, way, times)
        self._holds.append(hold)
        return hold

    def release_all(self) -> None:
        """Hold nothing any more."""
        for hold in self._holds:
            hold.release()

    def pass_on(self, request: BaseHTTPRequestHandler) -> None:
        """Pass on a call and its answer."""
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        url = urlsplit(request.path)
        made_by = [self._launched_by.get(id, "") for id in _JOB_ID.findall(url.path)]
        about = " ".join([body.decode(), url.query, *made_by])
        for hold in list(self._holds):
            hold.stop(request.command, url.path, about, "there")
        host = urlsplit(self.open_to.url).netloc
        target = http.client.HTTPConnection(host, timeout=_PATIENCE)
        target.request(request.command, request.path, body or None, dict(request.headers))
        answer = target.getresponse()
        content = answer.read()
        target.close()
        if request.command == "POST" and body:
            for id in _JOB_ID.findall(content.decode()):
                self._launched_by.setdefault(id, about)
        for hold in list(self._holds):
            hold.stop(request.command, url.path, about, "back")
        with suppress(OSError):
            request.send_response_only(answer.status)
            for name, value in answer.headers.items():
                request.send_header(name, value)
            request.end_headers()
            request.wfile.write(content)


@contextmanager
def gate_before(kumo: LocalKumo) -> Iterator[Gate]:
    """A gate to a stand-in, for a while."""
    gate = Gate(kumo)
    threading.Thread(target=gate.server.serve_forever, args=[0.05], daemon=True).start()
    try:
        yield gate
    finally:
        gate.release_all()
        gate.server.shutdown()
        gate.server.server_close()
