"""The launch of a training job."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta, timezone

import dagster as dg

from dagster_kumo.api.client import KumoClient
from dagster_kumo.api.errors import KumoError
from dagster_kumo.execution.launch.attempt import Attempt
from dagster_kumo.execution.launch.base import Find, TaggedLaunch
from dagster_kumo.execution.metadata import SNAPSHOT_METADATA, TRAINING_JOB_ID_METADATA
from dagster_kumo.jobs.tags import ASSET_TAG, CODE_LOCATION_TAG, LAUNCH_KEY_TAG
from dagster_kumo.jobs.trained_model import training_jobs_with_tags
from dagster_kumo.jobs.training_job import TrainingJob
from dagster_kumo.jobs.training_spec import TrainingSpec


class TrainingLaunch(TaggedLaunch):
    """The launch of a training job, which is a candidate.

    The launch key stands for what was asked for, and not for the request: the earlier training job that
    some tags name, and the plan that the server suggests, may be others at the next attempt.
    """

    kind = "training job"
    handle = TrainingJob
    listed = staticmethod(training_jobs_with_tags)
    run_tag = "dagster/kumo_training_job"
    entry = TRAINING_JOB_ID_METADATA

    def __init__(
        self,
        client: KumoClient,
        training: TrainingSpec,
        attempt: Attempt,
        candidate: dg.AssetKey,
    ) -> None:
        super().__init__(
            attempt,
            None,
            training.asked(),
            assets=[candidate],
            delivered_in={candidate: TRAINING_JOB_ID_METADATA},
        )
        self._client = client
        self._training = training

    def _create_tagged(self, tags: Mapping[str, str], find: Find) -> str:
        self._check_may_train(tags)
        request = self._training.request(self._client, self._refreshed_snapshot)
        self._raise_if_stopped()
        tags = {**self._training.job_tags, **tags}
        return self._client.create_training_job({**request, "job_tags": tags}, find=find)

    def _check_may_train(self, tags: Mapping[str, str]) -> None:
        """Refuse to train beside another launch, or more often than is allowed.

        Raises:
            KumoError: Another candidate is being trained, or enough were trained in the last seven days.
        """
        of_asset = {tag: tags[tag] for tag in (ASSET_TAG, CODE_LOCATION_TAG) if tag in tags}
        others = [
            job
            for job in training_jobs_with_tags(self._client, of_asset)
            if job.tags.get(LAUNCH_KEY_TAG) != tags[LAUNCH_KEY_TAG]
        ]
        name, limit = tags[ASSET_TAG], self._training.max_per_week
        live = [job.job_id for job in others if not job.job_status_report.is_terminal]
        if live:
            raise KumoError(
                f"{name} is being trained already, by the training job {live[0]}. Nothing was launched. Wait until "
                "it has ended, or cancel it in Kumo."
            )
        if limit is None:
            return
        since = datetime.now(timezone.utc) - timedelta(days=7)
        lately = [job for job in others if job.created_at is not None and job.created_at > since]
        if len(lately) >= limit:
            raise KumoError(
                f"{name} was trained {len(lately)} times in the last seven days, and max_per_week is {limit}. Nothing "
                f"was launched. The newest is {lately[0].job_id}. Wait, or raise KumoTraining(max_per_week=...)."
            )

    def _refreshed_snapshot(self, graph_id: str) -> str:
        """A fresh snapshot of the graph. One that an earlier attempt took, and no job has used, is taken over."""
        noted = self._noted(SNAPSHOT_METADATA)
        if noted and len(noted) > len({*self._noted(), *self._tagged()}):
            return noted[0]
        self._raise_if_stopped()
        snapshot_id = self._client.refresh_graph_snapshot(graph_id)
        said = f"Kumo reads the tables again: snapshot {snapshot_id}"
        self._add_note(snapshot_id, said, entry=SNAPSHOT_METADATA)
        return snapshot_id
