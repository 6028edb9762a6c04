"""One attempt of a step at its launches."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import dagster as dg

from dagster_kumo.execution.launch.identity import is_first_attempt, launch_key, root_of_launch
from dagster_kumo.execution.launch.notes import Notes


class Attempt:
    """What the launches of a step have in common: what they are attempts at, and what is noted of them.

    Args:
        context: The context of the assets.
        settling_time: Seconds until Kumo shows whatever an earlier attempt launched.
    """

    def __init__(self, context: dg.AssetExecutionContext, settling_time: float) -> None:
        self.context = context
        self.notes = Notes(context)
        self.is_first = is_first_attempt(context)
        self.settled_at = time.monotonic() + settling_time
        """By then, on the clock of `time.monotonic()`, Kumo shows whatever an earlier attempt launched."""
        self._root = root_of_launch(context)

    def launch_key(self, request: Mapping[str, Any], partition_key: str | None) -> str:
        """The key of a launch: the same for all its attempts, different for any other launch."""
        return launch_key(request, self.context, partition_key, root=self._root)
