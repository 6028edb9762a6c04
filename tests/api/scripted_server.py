"""A server that answers as a test tells it, for what the stand-in would never do."""

from __future__ import annotations

import http.server
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

AUTHENTICATION = "/api/v1/authentication"
ABOUT_THE_SERVER = {AUTHENTICATION: (b"{}", 404), "/api/config": (b"{}", 200)}
"""What a client asks once, and a server of 2.x without groups answers."""


@dataclass
class Request:
    """A request as it came in."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    client_port: int
    at: float


@dataclass
class Answer:
    """What the server says to one request."""

    body: bytes = b"{}"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    content_length: int | None = -1
    """None leaves the length out; -1 tells the true one; another number is told, true or not."""


class ScriptedServer:
    """Gives its answers one after the other, the last one for ever, and remembers what it was asked."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.answer_of: Callable[[Request], Answer] = lambda _: Answer(status=404)
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def _handle(self) -> None:
                server._handle(self)

            do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _handle  # noqa: N815

            def log_message(self, *args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.socket.listen(256)  # many clients at once
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # clients that hang up are no news
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.origin = f"http://127.0.0.1:{self._server.server_port}"
        self.url = f"{self.origin}/api"

    def answer(self, *answers: Answer) -> None:
        """Give these answers in turn to all but the questions about the server itself."""
        left = list(answers)

        def next_answer(request: Request) -> Answer:
            if request.path in ABOUT_THE_SERVER:
                return Answer(*ABOUT_THE_SERVER[request.path])
            return left.pop(0) if len(left) > 1 else left[0]

        self.answer_of = next_answer

    def answer_by(self, answer: Callable[[Request], Answer]) -> None:
        """Let a function answer all but the question for the generation: it is a server of 2.x."""
        about = Answer(*ABOUT_THE_SERVER[AUTHENTICATION])
        self.answer_of = lambda request: (
            about if request.path == AUTHENTICATION else answer(request)
        )

    def answer_to_everything(self, answer: Callable[[Request], Answer]) -> None:
        """Let a function answer."""
        self.answer_of = answer

    @property
    def calls(self) -> list[Request]:
        """All requests but the questions about the server itself."""
        return [request for request in self.requests if request.path not in ABOUT_THE_SERVER]

    def use_tls(self, certificate: Path) -> None:
        """Speak TLS from now on."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handle(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        request = Request(
            handler.command,
            handler.path,
            {name.lower(): value for name, value in handler.headers.items()},
            handler.rfile.read(int(handler.headers.get("Content-Length", 0))),
            handler.client_address[1],
            time.time(),
        )
        self.requests.append(request)
        answer = self.answer_of(request)
        handler.send_response(answer.status)
        for name, value in answer.headers.items():
            handler.send_header(name, value)
        length = len(answer.body) if answer.content_length == -1 else answer.content_length
        if length is not None:
            handler.send_header("Content-Length", str(length))
        handler.close_connection |= length != len(answer.body)
        try:
            handler.end_headers()
            handler.wfile.write(answer.body)
        except OSError:
            handler.close_connection = True  # the client had enough
