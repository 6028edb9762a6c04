"""How runs are held and released. Nothing else in this room knows how.

A run is held by a tag, which the deployment's settings keep from leaving Dagster's queue
(`tag_concurrency_limits` with a limit of 0). Another value of the tag releases it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import dagster as dg

from dagster_kumo.execution.launch.held_run import HOLD_TAG, HOLD_UNTIL_DONE, RELEASED

CANCELLED = "cancelled"
_BEGUN = [
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.SUCCESS,
    dg.DagsterRunStatus.FAILURE,
]
# Dagster's own tag of a run, by which its queue is sorted.
_PRIORITY_TAG = "dagster/priority"


class HoldQueue:
    """The held runs of one code location. Runs of others are left alone."""

    def __init__(self, instance: dg.DagsterInstance, code_location: str | None) -> None:
        self._instance = instance
        self._code_location = code_location

    def held(self) -> list[dg.RunRecord]:
        """The runs that are held, in the order in which Dagster would start them."""
        records = self._records([dg.DagsterRunStatus.QUEUED])
        return sorted(records, key=lambda record: (-_priority(record), record.create_timestamp))

    def is_held(self, run_id: str) -> bool:
        """Whether a run is still held."""
        run = self._instance.get_run_by_id(run_id)
        return (
            run is not None
            and run.status == dg.DagsterRunStatus.QUEUED
            and run.tags.get(HOLD_TAG) == HOLD_UNTIL_DONE[HOLD_TAG]
        )

    def terminated(self) -> list[dg.RunRecord]:
        """The runs that a user has terminated while they were held, and that are not settled yet."""
        return self._records([dg.DagsterRunStatus.CANCELED])

    def not_held(self) -> dg.RunRecord | None:
        """The newest run that was to be held and began all the same, since no setting holds it."""
        return next(iter(self._records(_BEGUN, limit=10)), None)

    def release(self, run: dg.DagsterRun, tags: Mapping[str, str]) -> None:
        """Let a run start."""
        self._instance.add_run_tags(run.run_id, {**tags, HOLD_TAG: RELEASED})

    def settle(self, run: dg.DagsterRun) -> None:
        """Note that the jobs of a terminated run are cancelled."""
        self._instance.add_run_tags(run.run_id, {HOLD_TAG: CANCELLED})

    def tag(self, run: dg.DagsterRun, tags: Mapping[str, str]) -> None:
        """Set tags of a run, if they differ from those that it had."""
        if any(run.tags.get(key) != value for key, value in tags.items()):
            self._instance.add_run_tags(run.run_id, tags)

    def _records(
        self, statuses: Sequence[dg.DagsterRunStatus], *, limit: int | None = None
    ) -> list[dg.RunRecord]:
        wanted = dg.RunsFilter(statuses=statuses, tags=HOLD_UNTIL_DONE)
        records = self._instance.get_run_records(wanted, limit=limit)
        return [record for record in records if self._is_ours(record.dagster_run)]

    def _is_ours(self, run: dg.DagsterRun) -> bool:
        origin = run.remote_job_origin
        if origin is None or self._code_location is None:
            return True
        location = origin.repository_origin.code_location_origin.location_name
        return location == self._code_location


def _priority(record: dg.RunRecord) -> int:
    try:
        return int(record.dagster_run.tags.get(_PRIORITY_TAG, "0"))
    except ValueError:  # Dagster takes it for 0 as well
        return 0
