"""When a job is expected to end, and whether that is after the deadline."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta, timezone

from dagster_kumo.execution.launch.notes import Notes

EXPECTED_END_TAG = "dagster/kumo_expected_end"
_STEP = timedelta(minutes=5)
# The end of a shorter job is not worth a tag.
_SHORTEST = 60.0


def rounded_end(now: datetime, remaining: float) -> datetime:
    """The end in so many seconds, rounded up: each change is written to the run."""
    step = _STEP.total_seconds()
    return datetime.fromtimestamp(-(-(now.timestamp() + remaining) // step) * step, timezone.utc)


class ExpectedEnd:
    """Shows when a job is expected to end, and warns once if that is after the deadline.

    A line begins with `job`. A tag of the run shows the end.
    """

    def __init__(
        self,
        job: str,
        deadline: datetime | None,
        notes: Notes,
        log: logging.Logger,
    ) -> None:
        self._job = job
        self._deadline = deadline
        self._notes = notes
        self._log = log
        self._shown = ""
        self._warned = False

    def estimate(self, remaining: float | None) -> None:
        """Take over how many seconds the job will still take; None if that is not known."""
        if remaining is None:
            return
        now = datetime.now(timezone.utc)
        text = f"{rounded_end(now, remaining):%Y-%m-%d %H:%M} UTC"
        if remaining >= _SHORTEST and text != self._shown:
            self._shown = text
            self._notes.show_on_run(EXPECTED_END_TAG, text)
        deadline = self._deadline
        if deadline and now + timedelta(seconds=remaining) > deadline and not self._warned:
            self._warned = True
            self._log.warning(
                f"{self._job} is expected to end at about {text}, after its deadline "
                f"{deadline:%Y-%m-%d %H:%M} UTC. It goes on. Look in Kumo for what delays it, and tell the people who wait for it."
            )
