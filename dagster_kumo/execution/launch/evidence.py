"""Whether a job of a launch is there already. All evidence for it is weighed here.

1. The tags of the jobs in Kumo: a job that carries the launch key was launched by an attempt of the launch.
2. The notes in Dagster: a job that an attempt noted under the launch key is one too, also when its tags
   were lost or changed. Kumo is asked for it by its id.
3. Time: Kumo may show a job only some seconds after its launch. That nothing is found proves nothing
   before the settling time is over. A first attempt that has noted nothing need not wait: nobody can
   have launched before it.

The launch key stands for the request, so what carries it was asked for the same thing. A job is attached to
unless it FAILED, was CANCELLED, or was delivered before. One that was launched for this very run while it was held
in the queue is attached to however it ended: the run says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dagster_kumo.api.errors import KumoAPIError
from dagster_kumo.api.records import CANCELLED, FAILED, MISSING
from dagster_kumo.api.retry import looks_until
from dagster_kumo.execution.launch.attempt import Attempt


@dataclass(frozen=True)
class FoundJob:
    """A job that may belong to the launch, as Kumo shows it."""

    job_id: str
    status: str


class Evidence:
    """The evidence for a job of one launch.

    Args:
        attempt: The attempt that looks.
        tagged: The jobs whose tags carry the launch key, oldest first.
        noted: The jobs that attempts have noted under the launch key.
        held: Those that were launched for this attempt while its run was held.
        get: A job by its id.
        is_delivered: Whether the assets have been materialized from a job before.
        is_listed: Whether Kumo lists jobs of this kind, so that one may be listed later.
    """

    def __init__(
        self,
        attempt: Attempt,
        *,
        tagged: Callable[[], Sequence[FoundJob]],
        noted: Callable[[], Sequence[str]],
        held: Callable[[], Sequence[str]],
        get: Callable[[str], FoundJob],
        is_delivered: Callable[[str], bool],
        is_listed: bool,
    ) -> None:
        self._attempt = attempt
        self._tagged = tagged
        self._noted = noted
        self._held = held
        self._get = get
        self._is_delivered = is_delivered
        self._is_listed = is_listed
        self.missing: list[str] = []
        """The jobs that were noted and that Kumo did not show at the last look."""
        self._may_show_later = False

    def find(self, what: str, check: Callable[[], None]) -> str | None:
        """The job to attach to, looked for until the settling time is over if there may be one.

        Args:
            what: The kind of job, for the log.
            check: Called before each further look; what it raises ends the search.
        """
        is_waiting = False
        for _ in looks_until(self._attempt.settled_at):
            if is_waiting:
                check()
            found = self.look()
            if found is not None or not self._may_show_later:
                return found
            if not is_waiting:
                is_waiting = True
                self._attempt.log.info(
                    f"An earlier attempt may have launched a {what} that Kumo does not show yet: looking "
                    "for it a little longer before another one is launched."
                )
        return None

    def look(self) -> str | None:
        """The job to attach to, as far as Kumo shows it now."""
        tagged = list(self._tagged())
        noted = self._noted()
        known = {job.job_id for job in tagged}
        by_id = {job_id: self._get_if_there(job_id) for job_id in noted if job_id not in known}
        self.missing = [job_id for job_id, job in by_id.items() if job is None]
        is_again = bool(noted) or not self._attempt.is_first
        self._may_show_later = bool(self.missing) or (self._is_listed and is_again)
        return next(iter(self.usable([*tagged, *filter(None, by_id.values())])), None)

    def usable(self, jobs: Sequence[FoundJob], *, launched: str | None = None) -> list[str]:
        """The jobs that can be attached to, in their order.

        `launched` is the job that this attempt has launched: no earlier attempt can have delivered it.
        """
        held = self._held()
        return [
            job.job_id
            for job in jobs
            if (job.status not in (FAILED, CANCELLED) or job.job_id in held)
            and (job.job_id == launched or not self._is_delivered(job.job_id))
        ]

    def _get_if_there(self, job_id: str) -> FoundJob | None:
        try:
            job = self._get(job_id)
            return None if job.status == MISSING else job
        except KumoAPIError as error:
            if error.status_code != 404:
                raise
            return None
