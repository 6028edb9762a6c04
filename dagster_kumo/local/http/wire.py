"""The layer between socket and service: records every request and injects network faults."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
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
    json: Any = None
    # None until it is answered. It stays None if the connection breaks first.
    status: int | None = None


class Connection(H11Protocol):
    """uvicorn's protocol, which lets the application break the connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        app = self.app

        async def with_transport(scope: Any, receive: Any, send: Any) -> None:
            scope[_TRANSPORT] = transport
            await app(scope, receive, send)

        self.app = with_transport


class Wire:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp, faults: Faults, keep_requests: int) -> None:
        self._app = app
        self._faults = faults
        self.requests = deque[RecordedRequest](maxlen=keep_requests)
        """The last requests, in order of arrival."""
        self.last_at = time.monotonic()
        """When the last one arrived."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, path = str(scope["method"]), str(scope["path"])
        request = Request(scope, receive)
        recorded = RecordedRequest(method, path, dict(request.query_params), dict(request.headers))
        body: bytes | None = b""
        with suppress(ClientDisconnect):
            body = await request.body()
        with suppress(ValueError):
            recorded.json = json.loads(body)
        self.requests.append(recorded)
        self.last_at = time.monotonic()

        if fault := self._faults.take("delay", method, path):
            await asyncio.sleep(fault.options["seconds"])
        if self._faults.take("drop", method, path):
            await _break_connection(scope, receive)
            return
        if fault := self._faults.take("answer", method, path):
            recorded.status = fault.options["status"]
            await _answer(fault)(scope, receive, send)
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
                recorded.status = fault.options["status"]
                await _answer(fault)(scope, receive, send)
            return

        cut = self._faults.take("cut", method, path)
        corrupt = self._faults.take("corrupt", method, path)
        left = int(cut.options["after_bytes"]) if cut else 0
        broken = False

        async def forward(message: Message) -> None:
            nonlocal left, broken
            if message["type"] == "http.response.start":
                recorded.status = message["status"]
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


async def _break_connection(scope: Scope, receive: Receive) -> None:
    scope[_TRANSPORT].abort()
    # Without an answer uvicorn logs an error, unless it knows that the connection is gone.
    while (await receive())["type"] != "http.disconnect":
        pass


def _answer(fault: Fault) -> Response:
    status, body, headers = (fault.options[name] for name in ("status", "body", "headers"))
    if body is None:
        body = {"detail": f"The stand-in was told to answer {status}."}
    if isinstance(body, str | bytes):
        return PlainTextResponse(body, status, headers)
    return JSONResponse(body, status, headers)
