"""A proxy before the stand-in that does to each request what networks and servers do at times.

It strikes before a request is passed on or after, so that what was asked may have been done though
the answer says otherwise. File urls carry the host that was asked for them, so downloads pass as well.
"""

import asyncio
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from types import TracebackType

import aiohttp
from aiohttp import web
from yarl import URL

from chaos.conditions import Conditions

# What may happen to a request, and how often of a thousand: to calls of the API, and to files.
FAULTS = {
    "delay": (60, 60),
    "5xx instead": (40, 40),
    "429, Retry-After": (25, 10),
    "reset before": (30, 40),
    "done, then 502/504": (30, 0),
    "done, then reset": (30, 0),
    "body cut": (15, 100),
    "reset in the body": (15, 70),
    "urls expired": (0, 60),
    "killed: the step": (10, 15),
    "killed: its run worker": (4, 8),
    "killed: both": (4, 8),
}
# What launches is where it counts: struck so many times as often, by all but delays.
LAUNCH_FACTOR = 2.5
LONGEST_DELAY = 3.0  # seconds
# Of a killed caller: some die at once, some in the middle of what they do next.
LATEST_DEATH = 2.0  # seconds after its request

_NOT_PASSED_ON = {"transfer-encoding", "connection", "keep-alive", "date", "server"}


class ChaosProxy:
    """The proxy, in a thread, from its `with` to its end.

    Args:
        target: where the stand-in listens, `http://host:port`.
        seed: decides what happens to the first request, the second, and so on.
        expire_urls: makes all file urls handed out so far expire.
        kill: kills the process that has a connection from a port, after some seconds; what is killed
            is named by the last word of the fault. Returns whether there was one.
        conditions: what changes all answers for a while.
    """

    def __init__(
        self,
        target: str,
        *,
        seed: int,
        expire_urls: Callable[[], None],
        kill: Callable[[int, str, float], bool],
        conditions: Conditions,
    ) -> None:
        self._target = target
        self._random = random.Random(seed)
        self._expire_urls = expire_urls
        self._kill = kill
        self._conditions = conditions
        self._calm = threading.Event()
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="chaos-proxy")
        self.faults: Counter[str] = Counter()
        """How often each fault has struck."""
        self.changed: Counter[str] = Counter()
        """How many answers each condition has changed."""
        self.requests: Counter[str] = Counter()
        """How many requests came: API calls and files."""
        self.url = ""
        """Where it listens, `http://host:port`."""

    def __enter__(self) -> "ChaosProxy":
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def calm(self) -> None:
        """Pass everything on from now on."""
        self._calm.set()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        runner = web.ServerRunner(web.Server(self._answer), shutdown_timeout=1.0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        async with aiohttp.ClientSession(auto_decompress=False) as self._session:
            self._ready.set()
            await self._stop.wait()
            await runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        fault = self._draw(request)
        if fault == "delay":
            self._struck(fault)
            await asyncio.sleep(self._random.uniform(0, LONGEST_DELAY))
        elif fault == "5xx instead":
            self._struck(fault)
            return web.json_response({"detail": "chaos"}, status=self._one_of(500, 502, 503, 504))
        elif fault == "429, Retry-After":
            self._struck(fault)
            headers = {"Retry-After": str(self._one_of(1, 2))}
            return web.json_response({"detail": "chaos"}, status=429, headers=headers)
        elif fault == "reset before":
            return self._reset(request, fault)
        elif fault == "urls expired":
            self._struck(fault)
            self._expire_urls()
        elif fault is not None and fault.startswith("killed"):
            port = request.transport.get_extra_info("peername")[1] if request.transport else 0
            whom, wait = fault.rpartition(" ")[2], self._random.uniform(-1, LATEST_DEATH)
            if await asyncio.to_thread(self._kill, port, whom, max(0.0, wait)):
                self._struck(fault)

        status, headers, content = await self._passed_on(request, body)
        shown = self._conditions.answer(request.method, request.path, status, content)
        if shown is not None:
            status, content, changed = shown
            headers = {k: v for k, v in headers.items() if k.lower() != "content-length"}
            self.changed.update(changed)
        if fault == "done, then 502/504":
            self._struck(fault)
            return web.json_response({"detail": "chaos"}, status=self._one_of(502, 504))
        if fault == "done, then reset":
            return self._reset(request, fault)
        if fault in ("body cut", "reset in the body") and len(content) > 1:
            return await self._cut(request, fault, status, headers, content)
        return web.Response(status=status, headers=headers, body=content)

    def _draw(self, request: web.BaseRequest) -> str | None:
        """What happens to a request, None if nothing does."""
        is_file = request.path.startswith("/files/")
        self.requests["files" if is_file else "API calls"] += 1
        if self._calm.is_set():
            return None
        launches = request.method == "POST" and request.path.endswith(
            ("/prediction_jobs", "/artifact")
        )
        drawn = self._random.uniform(0, 1000)
        for fault, rates in FAULTS.items():
            rate = rates[is_file] * (LAUNCH_FACTOR if launches and fault != "delay" else 1)
            if drawn < rate:
                return fault
            drawn -= rate
        return None

    def _struck(self, fault: str) -> None:
        self.faults[fault] += 1

    def _one_of(self, *choices: int) -> int:
        return self._random.choice(choices)

    async def _passed_on(
        self, request: web.BaseRequest, body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        # The host that was asked is kept: the stand-in makes its file urls with it.
        async with self._session.request(
            request.method,
            URL(self._target + request.raw_path, encoded=True),
            headers={k: v for k, v in request.headers.items() if k.lower() not in _NOT_PASSED_ON},
            data=body or None,
            allow_redirects=False,
        ) as answer:
            headers = {k: v for k, v in answer.headers.items() if k.lower() not in _NOT_PASSED_ON}
            return answer.status, headers, await answer.read()

    def _reset(self, request: web.BaseRequest, fault: str) -> web.Response:
        self._struck(fault)
        _reset(request.transport)
        return web.Response()  # nobody is there to read it

    async def _cut(
        self,
        request: web.BaseRequest,
        fault: str,
        status: int,
        headers: dict[str, str],
        content: bytes,
    ) -> web.StreamResponse:
        self._struck(fault)
        response = web.StreamResponse(status=status, headers=headers)
        response.content_length = len(content)
        await response.prepare(request)
        await response.write(content[: self._random.randrange(1, len(content))])
        if request.transport is not None and fault == "body cut":
            request.transport.close()  # once what was written has gone out
        else:
            await asyncio.sleep(0.05)  # for some of it to arrive
            _reset(request.transport)
        return response


def _reset(transport: asyncio.Transport | None) -> None:
    """Break a connection by RST, if its other end has not gone by itself: it may have been killed."""
    if transport is None:
        return
    connection: socket.socket = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
