"""The partitions of a run over several: so many at once, each handed out as soon as it is done."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from dagster_kumo.api.errors import (
    KumoAuthenticationError,
    KumoConnectionError,
    KumoError,
    KumoModelError,
    KumoValidationError,
)

T = TypeVar("T")

# What fails one partition in such a way fails the others too: no more of them are begun.
_FAILS_ALL = (
    KumoAuthenticationError,
    KumoConnectionError,
    KumoModelError,
    KumoValidationError,
)
PARTITIONS_NAMED = 10


class KumoPartitionsError(KumoError):
    """Some partitions of a run over several failed; the others are done.

    Attributes:
        failed: the error of each that failed, by partition key.
        not_begun: the keys of those that were not tried, since they would have failed as well.
    """

    def __init__(
        self, failed: Mapping[str, Exception], *, of: int, not_begun: Sequence[str] = ()
    ) -> None:
        self.failed = failed
        self.not_begun = not_begun
        reasons = [f"{k}: {str(e) or type(e).__name__}" for k, e in sorted(failed.items())]
        if len(reasons) > PARTITIONS_NAMED:
            more = len(reasons) - PARTITIONS_NAMED
            reasons = [*reasons[:PARTITIONS_NAMED], f"and {more} more."]
        if not_begun:
            reasons.append(f"{len(not_begun)} were not begun, from {not_begun[0]} on.")
        super().__init__(
            f"{len(failed)} of {of} partitions failed. What is done is kept: re-execute the run from "
            "failure for the rest.\n" + "\n".join(reasons)
        )


class PartitionJobs(Mapping[str, T]):
    """What `make` gives for each partition, in the order in which they are done.

    Asking for a partition waits for it. Iterating goes on when one fails, and raises at its end.

    Args:
        keys: the partitions, begun in this order.
        make: called for each, on one of `at_once` threads. Those do not keep a process from ending,
            as an executor's would: a terminated run must not wait for the jobs that it leaves.
    """

    def __init__(self, keys: Sequence[str], make: Callable[[str], T], *, at_once: int) -> None:
        self._make = make
        self._to_do = deque(keys)
        self._came: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._done: list[str] = []
        self._keys = keys
        self._made: dict[str, T] = {}
        self.failed: dict[str, Exception] = {}
        """The error of each partition that failed so far."""
        self.not_begun: Sequence[str] = ()
        """The partitions that were given up when another one failed."""
        for number in range(min(at_once, len(keys))):
            name = f"kumo-partitions-{number}"
            threading.Thread(target=self._work, name=name, daemon=True).start()

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def __iter__(self) -> Iterator[str]:
        """The keys, each when it is done.

        Raises:
            KumoPartitionsError: some failed; raised after all others.
        """
        given = 0
        while given < len(self._done) or self._one_more():
            key = self._done[given]
            given += 1
            if key in self._made:
                yield key
        if self.failed:
            raise KumoPartitionsError(self.failed, of=len(self), not_begun=self.not_begun)

    def __getitem__(self, key: str) -> T:
        while key not in self._done and key in self._keys and self._one_more():
            pass
        if key in self.failed:
            raise self.failed[key]
        return self._made[key]

    def _one_more(self) -> bool:
        """Wait until another partition is done; False when there is none."""
        if len(self._done) + len(self.not_begun) == len(self._keys):
            return False
        self._done.append(self._came.get())
        return True

    def _work(self) -> None:
        while True:
            try:
                key = self._to_do.popleft()
            except IndexError:
                return
            try:
                self._made[key] = self._make(key)
            except Exception as error:  # noqa: BLE001 - raised where the partition is asked for
                self.failed[key] = error
                if isinstance(error, _FAILS_ALL):
                    self._give_up_the_rest()
            self._came.put(key)

    def _give_up_the_rest(self) -> None:
        left: list[str] = []
        while self._to_do:
            try:
                left.append(self._to_do.popleft())
            except IndexError:
                break
        self.not_begun = [*self.not_begun, *left]
