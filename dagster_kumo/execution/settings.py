"""The settings of a `KumoResource` that a run needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dagster_kumo.api.client import KumoClient

CancelOnTermination = Literal["user", "always", "never"]


@dataclass(frozen=True)
class CostRate:
    """What a user says that jobs cost, in a currency of the user's own."""

    per_job_hour: float | None = None
    per_thousand_entities: float | None = None

    def cost(self, seconds: float | None, entities: int | None) -> float | None:
        """The cost of a job; None without a rate, or if a number is not known."""
        rates = ((self.per_job_hour, seconds, 3600), (self.per_thousand_entities, entities, 1000))
        amounts = [(rate, amount, per) for rate, amount, per in rates if rate is not None]
        known = [rate * amount / per for rate, amount, per in amounts if amount is not None]
        return sum(known) if amounts and len(known) == len(amounts) else None


@dataclass(frozen=True)
class RunSettings:
    """The connection, how a run waits for jobs, and what happens to them when it is terminated."""

    client: KumoClient
    poll_interval: float
    poll_timeout: float | None
    max_concurrent_jobs: int
    cancel_on_termination: CancelOnTermination
    rate: CostRate
