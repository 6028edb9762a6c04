"""The model of a name whose candidates are trained in Dagster: its materialization is a promotion."""

# No `from __future__ import annotations`: Dagster looks at the annotations of the op as objects.

from collections.abc import Mapping
from typing import Any

import dagster as dg
from pydantic import Field

from dagster_kumo.api.errors import KumoModelError, KumoNotFoundError
from dagster_kumo.api.records import TrainingJobResource
from dagster_kumo.assets.specs import AssetOptions, key_in_run, op_name, op_options
from dagster_kumo.checks.gate_check import GateReader, Promotion, judge
from dagster_kumo.execution.metadata import promotion_metadata
from dagster_kumo.execution.model_observation import described_model
from dagster_kumo.execution.selection import check_has_run
from dagster_kumo.jobs.promotion import Author, Move, promote, roll_back
from dagster_kumo.jobs.tags import FORMER_CHAMPION_TAG
from dagster_kumo.jobs.trained_model import find_champion
from dagster_kumo.resource import KumoResource

ROLLBACK_TAG = "dagster-kumo/rollback"
"""The tag of a run that rolls back."""


class PromotionConfig(dg.Config):
    """Which training job is promoted, and why. The fields of the Launchpad."""

    training_job_id: str | None = Field(
        default=None,
        description=(
            "Promote this training job, whatever the gate says. By default it is the newest candidate that "
            "passes its gate."
        ),
    )
    rollback: bool = Field(
        default=False, description="Make the champion before the present one the champion again."
    )
    why: str = Field(default="", description="The reason.")
    by: str = Field(
        default="", description="Who promotes. By default what Dagster knows of the run."
    )


def promoted_model_asset(
    spec: dg.AssetSpec, promotion: Promotion, *, resource_key: str, options: AssetOptions
) -> dg.AssetsDefinition:
    """The asset of the model, downstream of its candidate."""

    @dg.multi_asset(
        name=op_name([spec]),
        specs=[spec],
        required_resource_keys={resource_key},
        **op_options({**options, "backfill_policy": None}),
    )
    def model(context: dg.AssetExecutionContext, config: PromotionConfig) -> Any:
        check_has_run(context)
        kumo: KumoResource = getattr(context.resources, resource_key)
        client = kumo.get_client()
        now = promotion.of(key_in_run(context, model, promotion.candidate))
        author = Author(
            config.by or _who(context.run),
            config.why,
            context.run.root_run_id or context.run.run_id,
        )
        move = _move(context, GateReader(client, context.instance, now), config, author)
        champion = move.champion
        since = f"from now on, instead of {move.before or 'none'}" if move.is_new else "as before"
        context.log.info(f"{champion.job_id} predicts for {promotion.champion_of}, {since}")
        yield dg.MaterializeResult(
            metadata=promotion_metadata(champion) | described_model(context, client, champion),
            data_version=dg.DataVersion(champion.job_id),
        )

    return model


def rollback_job(name: str, model: dg.AssetsDefinition) -> Any:
    """The job `<name>_rollback`, which makes the champion before the present one the champion again."""
    return dg.define_asset_job(
        f"{name}_rollback",
        selection=[model],
        # A tag and no run configuration: the button "Materialize" of the Dagster UI launches without one.
        tags={ROLLBACK_TAG: "true"},
        description=f"Make the champion of {name} before the present one the champion again.",
    )


def _move(
    context: dg.AssetExecutionContext,
    reader: GateReader,
    config: PromotionConfig,
    author: Author,
) -> Move:
    name, client = reader.promotion.champion_of, reader.client
    if config.rollback or context.run.tags.get(ROLLBACK_TAG) == "true":
        if config.training_job_id is not None:
            raise ValueError("Give training_job_id or rollback, not both.")
        return roll_back(client, name, author)
    if config.training_job_id is not None:
        return promote(client, config.training_job_id, name, author)
    return promote(client, _newest_passing(context, reader).job_id, name, author)


def _newest_passing(context: dg.AssetExecutionContext, reader: GateReader) -> TrainingJobResource:
    """The newest candidate that passes its gate, or else the champion if no candidate is newer.

    A candidate that was the champion once is not promoted again by itself: somebody rolled it back.

    Raises:
        KumoModelError: There is no candidate and no champion, or the gate refuses those that are newer.
    """
    promotion = reader.promotion
    champion = find_champion(reader.client, promotion.champion_of)
    refused: list[str] = []
    for job_id in reader.candidate_ids():
        if champion is not None and job_id == champion.job_id:
            break
        try:
            job = reader.client.get_training_job(job_id)
        except KumoNotFoundError:
            context.log.warning(f"The candidate {job_id} is not in Kumo any more.")
            continue
        if _is_older(job, champion):
            break
        if job.tags.get(FORMER_CHAMPION_TAG) == promotion.champion_of:
            context.log.info(
                f"{job_id} was the champion before. To promote it again, name it: training_job_id in the "
                f"Launchpad, or dagster-kumo models promote {job_id} --name {promotion.champion_of}"
            )
            continue
        finding = judge(reader, job)
        if finding.passed:
            return job
        refused.append(f"{job_id}: {finding.said}")
    if refused:
        raise KumoModelError("No newer candidate passes its gate.\n" + "\n".join(refused))
    if champion is not None:
        return champion
    raise KumoModelError(
        f"There is no candidate to promote, and no champion of {promotion.champion_of}.\n"
        f"Materialize {promotion.candidate.to_user_string()} first, or promote a training job that is DONE: "
        f"dagster-kumo models promote TRAINING_JOB_ID --name {promotion.champion_of}"
    )


def _is_older(job: TrainingJobResource, champion: TrainingJobResource | None) -> bool:
    if champion is None or champion.created_at is None or job.created_at is None:
        return False
    return job.created_at < champion.created_at


def _who(run: dg.DagsterRun) -> str:
    """Who started a run, as far as Dagster says."""
    tags: Mapping[str, str] = run.tags
    for tag, what in (
        ("user", "{}"),  # Dagster+ sets it
        ("dagster/schedule_name", "the schedule {}"),
        ("dagster/sensor_name", "the sensor {}"),
    ):
        if tag in tags:
            return what.format(tags[tag])
    if "dagster/from_automation_condition" in tags:
        return "an automation condition"
    return f"the run {run.run_id}"
