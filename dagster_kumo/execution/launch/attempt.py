"""One attempt of a step at its launches, and the key that identifies each launch."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import dagster as dg

from dagster_kumo.execution.launch.held_run import HOLD_TAG, PROGRESS_TAG
from dagster_kumo.execution.launch.identity import (
    PARTITION_TAGS,
    is_first_attempt,
    root_of_launch,
    root_of_retries,
)
from dagster_kumo.execution.launch.notes import Notes


@dataclass
class Attempt:
    """What the launches of a step have in common: what they are attempts at, and by which run.

    A step that runs makes one of its context. The hold sensor makes one for a step that waits in the queue. After the
    `settling_time`, in seconds, Kumo shows the jobs that an earlier attempt launched. An attempt that `is_anew` has
    nothing to do with the runs that this one re-executes.
    """

    instance: dg.DagsterInstance
    run: dg.DagsterRun
    assets_def: dg.AssetsDefinition
    step_key: str
    log: logging.Logger
    settling_time: float
    retry_number: int = 0
    is_anew: bool = False
    settled_at: float = field(init=False)
    """The `time.monotonic()` from which on Kumo shows jobs of earlier attempts."""

    def __post_init__(self) -> None:
        self.notes = Notes(self.instance, self.run, self.assets_def)
        self.settled_at = time.monotonic() + self.settling_time

    @classmethod
    def of(
        cls, context: dg.AssetExecutionContext, settling_time: float, *, is_anew: bool = False
    ) -> Attempt:
        """The attempt of a step that runs."""
        return cls(
            context.instance,
            context.run,
            context.assets_def,
            str(context.op_execution_context.node_handle),
            context.log,
            settling_time,
            context.op_execution_context.retry_number,
            is_anew,
        )

    @cached_property
    def is_first(self) -> bool:
        """Whether no attempt of the same launch can have come before this one."""
        return is_first_attempt(self.run, self.retry_number)

    @property
    def was_held(self) -> bool:
        """Whether jobs may have been launched for it while the run waited in the queue."""
        tags = self.run.tags
        return HOLD_TAG in tags and PROGRESS_TAG in tags and self.retry_number == 0

    def launch_key(self, request: Mapping[str, Any], partition_key: str | None) -> str:
        """The key of a launch: the same for all its attempts, different for any other launch."""
        # Distinguishes the runs of a backfill that make an asset without partitions.
        partitions_of_run = [self.run.tags.get(tag) for tag in PARTITION_TAGS]
        identity = {
            # All of the definition: a re-execution may select only those that were not materialized.
            "assets": sorted(key.to_user_string() for key in self.assets_def.metadata_by_key),
            "partition": partitions_of_run if partition_key is None else partition_key,
            "root": self._root,
            "request": request,
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]

    @cached_property
    def _root(self) -> str:
        root = root_of_retries if self.is_anew else root_of_launch
        return root(self.instance, self.run)
