"""What a tick of a sensor may use."""

from __future__ import annotations

import math
import time


class BudgetExhausted(Exception):
    """The tick has used up its calls or its time. The next tick continues."""


class CallBudget:
    """The calls that a tick may make, and the time it may take. Call it before each call to Kumo.

    Raises:
        BudgetExhausted: No more calls are allowed.
    """

    def __init__(self, seconds: float, calls: float = math.inf) -> None:
        self._until = time.monotonic() + seconds
        self._left = calls

    def __call__(self) -> None:
        if time.monotonic() > self._until:
            raise BudgetExhausted("The time of a tick was over.")
        if self._left <= 0:
            raise BudgetExhausted("The calls of a tick were used up.")
        self._left -= 1
