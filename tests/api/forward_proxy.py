"""A forward proxy as companies have: plain requests are passed on, https goes through a tunnel."""

from __future__ import annotations

import select
import socket
from contextlib import closing
from urllib.parse import urlsplit

from tests.api.raw_server import RawServer


class ForwardProxy(RawServer):
    """Remembers the first line of each request, and reaches any host at the address of this machine."""

    def __init__(self) -> None:
        super().__init__(self._pass_on)

    @property
    def lines(self) -> list[str]:
        """What it was asked for, for example `CONNECT kumo.test:443`."""
        return [asked.decode().partition(" HTTP/")[0] for asked in self.requests]

    def _pass_on(self, connection: socket.socket, asked: bytes) -> None:
        line, _, rest = asked.partition(b"\r\n")
        method, target, version = line.decode().split()
        tunnel = method == "CONNECT"
        url = urlsplit(f"//{target}" if tunnel else target)
        with closing(socket.create_connection(("127.0.0.1", url.port or 80))) as origin:
            if tunnel:
                connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                path = url._replace(scheme="", netloc="").geturl()
                once = rest.replace(b"Connection: keep-alive", b"Connection: close")
                origin.sendall(f"{method} {path} {version}\r\n".encode() + once)
            ends = {connection: origin, origin: connection}
            while True:
                for end in select.select(list(ends), [], [])[0]:
                    if not (piece := end.recv(65536)):
                        return
                    ends[end].sendall(piece)
