"""A server that says any bytes at any pace, which one that speaks HTTP cannot be told to."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress


class RawServer:
    """Lets a function answer each request on its socket, which is closed after that."""

    def __init__(self, say: Callable[[socket.socket, bytes], None]) -> None:
        self.requests: list[bytes] = []
        """The head and what else came with it of each."""
        self._say = say
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.origin = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.url = f"{self.origin}/api"

    def __enter__(self) -> RawServer:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            asked = b""
            while b"\r\n\r\n" not in asked:
                if not (piece := connection.recv(65536)):
                    return
                asked += piece
            self.requests.append(asked)
            self._say(connection, asked)


def drip(connection: socket.socket, content: bytes, pause: float = 0.05) -> None:
    """Say something byte by byte, until the other side has had enough."""
    for byte in content:
        connection.sendall(bytes([byte]))
        time.sleep(pause)


def be_silent(connection: socket.socket) -> None:
    """Say nothing until the other side has had enough."""
    connection.settimeout(30)
    while connection.recv(65536):
        pass
