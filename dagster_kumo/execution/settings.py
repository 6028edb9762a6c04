"""The settings of a `KumoResource` that a run needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dagster_kumo.api.client import KumoClient

CancelOnTermination = Literal["user", "always", "never"]


@dataclass(frozen=True)
class RunSettings:
    """The connection, how a run waits for jobs, and what happens to them when it is terminated."""

    client: KumoClient
    poll_interval: float
    poll_timeout: float | None
    max_concurrent_jobs: int
    cancel_on_termination: CancelOnTermination
