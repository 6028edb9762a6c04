"""The processes of a chaos run: those that are there, and those that are to die.

They are known by `EXAMPLE_DATA` in their environment, which no other process has.
"""

import os
import threading
from contextlib import suppress
from pathlib import Path

import psutil

_GONE = (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess)


class Processes:
    """The processes that a chaos run has started, on however many ways.

    Args:
        data: their `EXAMPLE_DATA`.
    """

    def __init__(self, data: Path) -> None:
        self._data = str(data)
        self._deaths: list[threading.Timer] = []
        self.killed: set[int] = set()
        """The ids of those that have been killed."""

    def alive(self) -> list[psutil.Process]:
        """Those that are there now, this one apart."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def describe(self) -> list[str]:
        """Those that are there now, for a person."""
        described: list[str] = []
        for process in self.alive():
            with suppress(*_GONE):
                described.append(f"{process.pid} {' '.join(process.cmdline())[:150]}")
        return described

    def steps(self) -> list[psutil.Process]:
        """Steps that are at work, also those whose run worker has died."""
        forked = [process for process in self.alive() if _does(process, "forkserver")]
        return [process for process in forked if not self._is_hung(process)]

    def hung(self) -> int:
        """How many steps cannot end.

        A step ends when its run worker has read its events. What a dead worker does not read fills the pipe
        between them, of which the step itself keeps the other end: Dagster waits for ever.
        """
        return sum(_waits_for_a_reader(process) for process in self.alive())

    def _is_hung(self, process: psutil.Process) -> bool:
        """Whether it is such a step, or the server that has forked nothing else."""
        with suppress(*_GONE):
            children = process.children()
            return all(map(_waits_for_a_reader, children or [process]))
        return False

    def kill(self, port: int, whom: str, wait: float) -> bool:
        """Kill who has a connection from `port`: the `step` itself, its run `worker`, or `both`.

        A step whose worker dies alone goes on, as one does whose container did not die.
        """
        step = self._caller(port)
        if step is None or _does(step, "grpc"):  # a tick of the sensor, in the code server
            return False
        doomed = [step]
        if whom != "step" and (worker := _run_worker(step)) is not None:
            doomed = [worker] if whom == "worker" else [*worker.children(recursive=True), worker]
        death = threading.Timer(wait, self._kill, [doomed])
        self._deaths.append(death)
        death.start()
        return True

    def kill_all(self) -> None:
        """Leave nothing behind."""
        for death in self._deaths:
            death.cancel()
            death.join()
        self._kill(self.alive())

    def _kill(self, doomed: list[psutil.Process]) -> None:
        for process in doomed:
            self.killed.add(process.pid)
            with suppress(*_GONE):
                process.kill()

    def _caller(self, port: int) -> psutil.Process | None:
        for connection in psutil.net_connections("tcp4"):
            if connection.laddr and connection.laddr.port == port and connection.pid:
                with suppress(*_GONE):
                    caller = psutil.Process(connection.pid)
                    return caller if self._is_ours(caller) else None
        return None

    def _is_ours(self, process: psutil.Process) -> bool:
        with suppress(*_GONE):
            return (
                process.pid != os.getpid()
                and process.environ().get("EXAMPLE_DATA") == self._data
                and process.status() != psutil.STATUS_ZOMBIE
            )
        return False


def _run_worker(step: psutil.Process) -> psutil.Process | None:
    """The process of the run: a child of the code server. None when it has died."""
    with suppress(*_GONE):
        child = step
        for parent in step.parents():
            if _does(parent, "grpc"):
                return child
            child = parent
    return None


def _waits_for_a_reader(step: psutil.Process) -> bool:
    with suppress(*_GONE, OSError):
        if _run_worker(step) is None and _does(step, "forkserver"):
            threads = Path(f"/proc/{step.pid}/task").glob("*/wchan")
            return any("pipe_write" in thread.read_text() for thread in threads)
    return False


def _does(process: psutil.Process, what: str) -> bool:
    with suppress(*_GONE):
        return any(what in word for word in process.cmdline())
    return False
