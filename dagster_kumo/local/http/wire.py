"""The layer between socket and service: records every request and injects network faults."""

# uvicorn's protocol class is untyped where it is extended here:
# pyright: reportUnknownMemberType=false, reportMissingTypeStubs=false

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from dagster_kumo.local.faults import Fault, Faults

_TRANSPORT = "dagster_kumo.transport"


@dataclass
class RecordedRequest:
    """A request. `json` is the parsed body, None if there is none."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    json: Any
    # None until it is answered. It stays None if the connection breaks first.
    status: int | None = None


class Recorder:
    """The last requests, in order of arrival."""

    def __init__(self, keep: int) -> None:
        self._requests: deque[RecordedRequest] = deque(maxlen=keep)
        self._lock = threading.Lock()
        self.last_at = time.monotonic()

    def add(self, request: RecordedRequest) -> None:
        """Record a request."""
        with self._lock:
            self._requests.append(request)
            self.last_at = time.monotonic()

    @property
    def requests(self) -> list[RecordedRequest]:
        """The recorded requests."""
        with self._lock:
            return list(self._requests)

    def clear(self) -> None:
        """Forget all recorded requests."""
        with self._lock:
            self._requests.clear()


class Connection(H11Protocol):
    """uvicorn's protocol, which lets the application break the connection."""

    open_transports: set[asyncio.Transport]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        app = self.app

        async def with_transport(scope: Any, receive: Any, send: Any) -> None:
            scope[_TRANSPORT] = transport
            await app(scope, receive, send)

        self.app = with_transport
        self.open_transports.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.open_transports.discard(self.transport)


class Wire:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp, faults: Faults, recorder: Recorder) -> None:
        self._app = app
        self._faults = faults
        self._recorder = recorder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, path = str(scope["method"]), str(scope["path"])
        body = await _read_body(receive)
        request = _record(scope, body)
        self._recorder.add(request)

        if fault := self._faults.take("delay", method, path):
            await asyncio.sleep(fault.options["seconds"])
        if self._faults.take("drop", method, path):
            await _break_connection(scope, receive)
            return
        if fault := self._faults.take("answer", method, path):
            request.status = fault.options["status"]
            await _answer(fault, method, send)
            return

        async def replay() -> Message:
            nonlocal body
            if body is None:
                return await receive()
            chunk, body = body, None
            return {"type": "http.request", "body": chunk, "more_body": False}

        if fault := self._faults.take("lose_answer", method, path):

            async def swallow(message: Message) -> None:
                del message

            await self._app(scope, replay, swallow)
            if fault.options["status"] is None:
                await _break_connection(scope, receive)
            else:
                request.status = fault.options["status"]
                await _answer(fault, method, send)
            return

        cut = self._faults.take("cut", method, path)
        corrupt = self._faults.take("corrupt", method, path)
        left = int(cut.options["after_bytes"]) if cut else 0
        broken = False

        async def forward(message: Message) -> None:
            nonlocal left, broken
            if message["type"] == "http.response.start":
                request.status = message["status"]
            elif message["type"] == "http.response.body" and not broken:
                chunk: bytes = message.get("body", b"")
                if corrupt:
                    message = {**message, "body": b"?" * len(chunk)}
                if cut:
                    if len(chunk) > left:
                        await send({**message, "body": message["body"][:left], "more_body": True})
                        broken = True
                        scope[_TRANSPORT].close()  # after what was written has been sent
                        return
                    left -= len(chunk)
            if not broken:
                await send(message)

        await self._app(scope, replay, forward)


async def _read_body(receive: Receive) -> bytes | None:
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return body  # the client went away
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


def _record(scope: Scope, body: bytes | None) -> RecordedRequest:
    try:
        parsed = json.loads(body) if body else None
    except ValueError:
        parsed = None
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    query = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
    return RecordedRequest(str(scope["method"]), str(scope["path"]), query, headers, parsed)


async def _break_connection(scope: Scope, receive: Receive) -> None:
    scope[_TRANSPORT].abort()
    # Without an answer uvicorn logs an error, unless it knows that the connection is gone.
    while (await receive())["type"] != "http.disconnect":
        pass


async def _answer(fault: Fault, method: str, send: Send) -> None:
    body = fault.options["body"]
    if body is None:
        body = {"detail": f"The stand-in was told to answer {fault.options['status']}."}
    headers = {"content-type": "text/plain; charset=utf-8"}
    if isinstance(body, str):
        content = body.encode()
    elif isinstance(body, bytes):
        content = body
    else:
        content = json.dumps(body).encode()
        headers["content-type"] = "application/json"
    headers["content-length"] = str(len(content))
    headers.update({name.lower(): value for name, value in fault.options["headers"].items()})
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": fault.options["status"], "headers": raw})
    await send({"type": "http.response.body", "body": b"" if method == "HEAD" else content})
