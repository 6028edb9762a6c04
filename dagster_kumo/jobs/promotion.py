"""Moves the champion's mark from one training job to another: promotion and rollback.

The mark is a tag on the training job in Kumo. The new champion is marked first, with the time, and then the mark is
removed from the others. Readers take the training job that was promoted last, so they see one champion at each
moment, also if a process is killed between the two calls. The next move removes what was left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from dagster_kumo.api.client import KumoClient
from dagster_kumo.api.errors import KumoModelError, KumoNotFoundError
from dagster_kumo.api.records import TrainingJobResource
from dagster_kumo.jobs.prediction_spec import MAX_TAG_VALUE, check_champion_name
from dagster_kumo.jobs.tags import (
    CHAMPION_BEFORE_TAG,
    CHAMPION_TAG,
    FORMER_CHAMPION_TAG,
    PROMOTED_AT_TAG,
    PROMOTED_BY_TAG,
    PROMOTED_WHY_TAG,
    PROMOTION_RUN_TAG,
)
from dagster_kumo.jobs.trained_model import done_training_job, marked_champions, promoted_at

_TICK = timedelta(microseconds=1)


@dataclass(frozen=True)
class Author:
    """Who moves the mark, and why."""

    by: str = ""
    why: str = ""
    run_id: str | None = None
    """The root run, by which a retry finds what an earlier attempt has done."""

    def tags(self) -> dict[str, str | None]:
        """As tags of the champion."""
        return {
            PROMOTED_BY_TAG: self.by[:MAX_TAG_VALUE] or None,
            PROMOTED_WHY_TAG: " ".join(self.why.split())[:MAX_TAG_VALUE] or None,
            PROMOTION_RUN_TAG: self.run_id,
        }


@dataclass(frozen=True)
class Move:
    """What a promotion or a rollback did: the champion now, and the one before, if there was one."""

    champion: TrainingJobResource
    before: str | None
    is_new: bool
    """False if an earlier attempt had moved the mark already, or nothing had to be moved."""


def promote(client: KumoClient, training_job_id: str, name: str, author: Author) -> Move:
    """Make a training job the champion of a name. Nothing changes if it is the champion already.

    Raises:
        KumoModelError: There is no such training job, it is not DONE, or it is the champion of another name.
    """
    check_champion_name(name)
    job = _eligible(client, training_job_id, name)
    marked = marked_champions(client, name)
    if marked and marked[0].job_id == job.job_id:
        _remove_marks(client, name, marked[1:])
        return Move(marked[0], marked[0].tags.get(CHAMPION_BEFORE_TAG), is_new=False)
    before = marked[0].job_id if marked else None
    return _move(client, name, job, marked, {CHAMPION_BEFORE_TAG: before, **author.tags()})


def roll_back(client: KumoClient, name: str, author: Author) -> Move:
    """Make the champion before the present one the champion again.

    A rollback that was interrupted is completed, and goes back no further.

    Raises:
        KumoModelError: There is no champion, or none before it, or that one cannot predict any more.
    """
    check_champion_name(name)
    marked = marked_champions(client, name)
    if not marked:
        raise KumoModelError(f"There is no champion of {name}, so there is nothing to roll back.")
    champion, *others = marked
    left = [job.job_id for job in others if job.tags.get(CHAMPION_BEFORE_TAG) == champion.job_id]
    own = author.run_id is not None and champion.tags.get(PROMOTION_RUN_TAG) == author.run_id
    if left or own:
        _remove_marks(client, name, others)
        return Move(champion, left[0] if left else None, is_new=False)
    before = champion.tags.get(CHAMPION_BEFORE_TAG)
    if before is None:
        raise KumoModelError(
            f"{champion.job_id} is the first champion of {name}: there is none to roll back to.\n"
            f"Promote another one: dagster-kumo models promote TRAINING_JOB_ID --name {name}"
        )
    job = _eligible(client, before, name)
    return _move(client, name, job, marked, author.tags())


def _eligible(client: KumoClient, training_job_id: str, name: str) -> TrainingJobResource:
    """A training job that can be the champion of a name."""
    job = done_training_job(client, training_job_id)
    other = job.tags.get(CHAMPION_TAG, name)
    if other != name:
        raise KumoModelError(
            f"Training job {job.job_id} is the champion of {other}. A training job can be the champion of one "
            f"name only: predict with BatchPrediction(champion_of={other!r}), or promote another one."
        )
    return job


def _move(
    client: KumoClient,
    name: str,
    job: TrainingJobResource,
    marked: Sequence[TrainingJobResource],
    record: Mapping[str, str | None],
) -> Move:
    # Not before the last promotion: the clock of its machine may have been fast.
    before = [at + _TICK for m in marked if (at := promoted_at(m)) is not None]
    at = max([datetime.now(timezone.utc), *before])
    tags = {
        CHAMPION_TAG: name,
        PROMOTED_AT_TAG: at.isoformat().replace("+00:00", "Z"),
        **record,
        FORMER_CHAMPION_TAG: None,
    }
    # Only tags that the job carries are removed.
    sent = {key: value for key, value in tags.items() if value is not None or key in job.tags}
    client.update_training_job_tags(job.job_id, sent)
    # Read again: another process may have promoted at the same moment. The list may also be late, and lack this job.
    others = {m.job_id: m for m in (*marked, *marked_champions(client, name))}
    others.pop(job.job_id, None)
    later = [m for m in others.values() if (other := promoted_at(m)) and other >= at]
    if later:
        _remove_marks(client, name, [job])
        raise KumoModelError(
            f"{later[0].job_id} was promoted as the champion of {name} at the same moment as {job.job_id}, and "
            "is the champion now. Nothing else was changed. Promote again if you want the other one."
        )
    _remove_marks(client, name, list(others.values()))
    now = {key: value for key, value in {**job.tags, **tags}.items() if value is not None}
    champion = job.model_copy(update={"tags": now})
    return Move(champion, marked[0].job_id if marked else None, is_new=True)


def _remove_marks(client: KumoClient, name: str, jobs: Sequence[TrainingJobResource]) -> None:
    for job in jobs:
        with suppress(KumoNotFoundError):  # deleted, and its mark with it
            tags = {CHAMPION_TAG: None, FORMER_CHAMPION_TAG: name}
            client.update_training_job_tags(job.job_id, tags)
