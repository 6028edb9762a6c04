"""What an attempt notes in Dagster about the jobs that it launched or attached to.

The record is an observation of each asset that is made from the job. It carries the launch key, so that a
later attempt finds it, also when the job has lost its tags. Events are only added, so nothing is
lost if several processes note something at the same moment.

For people, and for runs that are held in the queue, a tag of the run has the newest job of an op. Its key begins with
`dagster/`, so the list of runs shows it only on request ("View all tags"). Dagster reads the tags of a run, adds to
them and writes them back, so a process can overwrite what another one has just written. Therefore the tags are looked
at again, and written again where they are missing.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Sequence
from functools import partial

import dagster as dg

from dagster_kumo.execution.launch.deliveries import read_events, when_not_locked
from dagster_kumo.execution.launch.identity import RUNS_LOCK
from dagster_kumo.execution.metadata import LAUNCH_KEY_METADATA, RUN_METADATA

# Of one asset and partition. One launch has a few; a user's own observations may be between them.
OBSERVATIONS_LOOKED_AT = 100
LOOKS_AT_TAGS = 3
SECONDS_BETWEEN_LOOKS = 1.0
LONGEST_TAG = 71  # Dagster allows 63 characters after the slash


class Notes:
    """The notes of one step."""

    def __init__(
        self, instance: dg.DagsterInstance, run: dg.DagsterRun, assets_def: dg.AssetsDefinition
    ) -> None:
        self._instance = instance
        self._run_id = run.run_id
        self._shown = run.tags
        self._op = assets_def.node_def.name
        self._newest: dict[str, str] = {}  # what each tag of the run says
        self._looks_left = 0
        self._next_look = 0.0

    def of_launch(
        self,
        launch_keys: Sequence[str],
        assets: Sequence[dg.AssetKey],
        partition_key: str | None,
        entry: str,
        *,
        run_id: str | None = None,
    ) -> list[str]:
        """What the attempts of a launch, or those of one run, have noted under an entry, newest first."""
        noted: dict[str, None] = {}
        for asset_key in assets:
            wanted = dg.AssetRecordsFilter(
                asset_key=asset_key,
                asset_partitions=None if partition_key is None else [partition_key],
            )
            for record in read_events(
                lambda w=wanted: self._instance.fetch_observations(w, limit=OBSERVATIONS_LOOKED_AT)
            ):
                observation = record.event_log_entry.asset_observation
                metadata = observation.metadata if observation else {}
                values = {name: value.value for name, value in metadata.items()}
                is_of_run = run_id is None or values.get(RUN_METADATA) == run_id
                if is_of_run and entry in values and values.get(LAUNCH_KEY_METADATA) in launch_keys:
                    noted.setdefault(str(values[entry]))
        return list(noted)

    def add(
        self,
        launch_key: str,
        assets: Sequence[dg.AssetKey],
        partition_key: str | None,
        entry: str,
        value: str,
        *,
        description: str,
    ) -> None:
        """Note something about a launch."""
        for asset_key in assets:
            observation = dg.AssetObservation(
                asset_key,
                partition=partition_key,
                description=description,
                metadata={
                    entry: value,
                    LAUNCH_KEY_METADATA: launch_key,
                    RUN_METADATA: dg.MetadataValue.dagster_run(self._run_id),
                },
            )
            with RUNS_LOCK:
                when_not_locked(partial(self._instance.report_runless_asset_event, observation))

    def shown_on_run(self, prefix: str) -> str | None:
        """The newest job of a kind that the tags of the run named when the attempt began."""
        return self._shown.get(job_tag(prefix, self._op))

    def show_on_run(self, prefix: str, value: str) -> None:
        """Let a tag of the run name the newest job of a kind, or say when it is expected to end."""
        with RUNS_LOCK:
            self._newest[job_tag(prefix, self._op)] = value
            self._looks_left = LOOKS_AT_TAGS
            self._write_tags()

    def keep_on_run(self, *, at_the_end: bool = False) -> None:
        """Write the tags again if they are missing. Called now and then while the run waits, and at its end."""
        with RUNS_LOCK:
            if self._looks_left and (at_the_end or time.monotonic() >= self._next_look):
                self._write_tags()

    def _write_tags(self) -> None:
        instance, run_id = self._instance, self._run_id
        self._next_look = time.monotonic() + SECONDS_BETWEEN_LOOKS
        run = instance.get_run_by_id(run_id)
        if run is None:
            return
        missing = {tag: value for tag, value in self._newest.items() if run.tags.get(tag) != value}
        if missing:
            instance.add_run_tags(run_id, missing)
        else:
            self._looks_left -= 1


def job_tag(prefix: str, op: str) -> str:
    """The tag of a run that names the newest job of a kind that an op has launched.

    It is within Dagster's limit. A name that is cut still differs from others.
    """
    name = f"{prefix}.{re.sub(r'[^A-Za-z0-9_.-]', '_', op)}"
    if len(name) <= LONGEST_TAG:
        return name
    return f"{name[: LONGEST_TAG - 9]}.{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def jobs_on_run(run: dg.DagsterRun, prefix: str) -> list[str]:
    """The newest jobs of a kind that the tags of a run name, one for each op."""
    return [job_id for tag, job_id in run.tags.items() if tag.startswith(f"{prefix}.")]
