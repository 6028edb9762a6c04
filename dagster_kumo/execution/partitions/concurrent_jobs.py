"""The jobs of a run over several partitions. A limited number runs at once, and they may end in any order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, as_completed
from typing import Generic, NamedTuple, TypeVar

import dagster as dg

from dagster_kumo.api.errors import (
    KumoAuthenticationError,
    KumoConnectionError,
    KumoError,
    KumoJobFailedError,
    KumoModelError,
)
from dagster_kumo.execution.metadata import links

T = TypeVar("T")

# These would fail every other partition as well, so no more are begun. A refused launch is not among
# them: the server may refuse one day only, for instance a day that is beyond its data.
_FAILS_ALL = (KumoAuthenticationError, KumoConnectionError, KumoModelError)
FAILURES_NAMED = 10


class PartitionFailure(NamedTuple):
    """A partition that failed in a run over several, or one of its outputs."""

    partition_key: str
    error: Exception
    asset_key: dg.AssetKey | None = None
    """The output that failed; None when all outputs of the partition did."""

    def __str__(self) -> str:
        of_output = f", {self.asset_key.to_user_string()}" if self.asset_key else ""
        return f"{self.partition_key}{of_output}: {str(self.error) or type(self.error).__name__}"


class KumoPartitionsError(KumoError, dg.Failure):
    """Some partitions of a run over several failed; the others are done.

    As a `dg.Failure` it has the links to the failed jobs in its metadata, by partition.

    Attributes:
        failed: The errors, by partition key.
        not_begun: The partitions that were not started, because they would have failed as well.
    """

    def __init__(
        self, failures: Sequence[PartitionFailure], *, of: int, not_begun: Sequence[str] = ()
    ) -> None:
        self.failed: Mapping[str, Exception] = {f.partition_key: f.error for f in failures}
        self.not_begun = not_begun
        reasons = sorted(map(str, failures))
        if len(reasons) > FAILURES_NAMED:
            more = len(reasons) - FAILURES_NAMED
            reasons = [*reasons[:FAILURES_NAMED], f"and {more} more."]
        if not_begun:
            reasons.append(f"{len(not_begun)} were not begun, from {not_begun[0]} on.")
        message = (
            f"{len(self.failed)} of {of} partitions failed. What is done is kept: re-execute the run from "
            "failure for the rest.\n" + "\n".join(reasons)
        )
        pages = {
            key: error.tracking_url
            for key, error in sorted(self.failed.items())
            if isinstance(error, KumoJobFailedError)
        }
        super().__init__(message)
        self.metadata = links(dict(list(pages.items())[:FAILURES_NAMED]))


class PartitionJobs(Generic[T]):
    """Calls `make` for each partition on threads of its own.

    They are begun in the order of `keys`. When one fails in a way that would fail the others too, those that have
    not begun are cancelled. The threads are daemons, unlike an executor's: a terminated run must not wait for jobs
    that it leaves running.
    """

    def __init__(self, keys: Sequence[str], make: Callable[[str], T], *, at_once: int) -> None:
        self._make = make
        self._futures: dict[str, Future[T]] = {key: Future() for key in keys}
        self._to_do = deque(keys)
        for number in range(min(at_once, len(keys))):
            name = f"kumo-partitions-{number}"
            threading.Thread(target=self._work, name=name, daemon=True).start()

    def completed(self) -> Iterator[tuple[str, Callable[[], T]]]:
        """Each partition as soon as it is done, failed or cancelled, with what returns its result."""
        key_of = {future: key for key, future in self._futures.items()}
        for future in as_completed(key_of):
            yield key_of[future], future.result

    def _work(self) -> None:
        while True:
            try:
                key = self._to_do.popleft()
            except IndexError:
                return
            future = self._futures[key]
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(self._make(key))
            except Exception as error:  # noqa: BLE001 - raised where the partition's result is asked for
                if isinstance(error, _FAILS_ALL):
                    for other in self._futures.values():
                        other.cancel()
                future.set_exception(error)
