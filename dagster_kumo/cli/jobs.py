"""`dagster-kumo jobs`: list, show and cancel prediction jobs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import click

from dagster_kumo.api.client import KumoClient
from dagster_kumo.api.errors import KumoError
from dagster_kumo.api.records import RUNNING, BatchPredictionJobResource
from dagster_kumo.cli.kumo_command import (
    as_json_option,
    fits,
    kumo_command,
    limit_option,
    status_option,
    tags_option,
)
from dagster_kumo.cli.output import own_tags, print_facts, print_json, print_rows
from dagster_kumo.jobs.job_matching import model_of, predicted_for, seconds_of
from dagster_kumo.jobs.tags import ASSET_TAG, PARTITION_TAG


@click.group()
def jobs() -> None:
    """Prediction jobs: list, show, cancel, url."""


@jobs.command("list")
@click.option("--model", metavar="TRAINING_JOB_ID", help="Only those of this model.")
@tags_option
@status_option
@limit_option
@as_json_option
@kumo_command
def list_jobs(
    client: KumoClient,
    *,
    model: str | None,
    tags: Mapping[str, str],
    status: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List prediction jobs, newest first."""
    wanted = {**tags, **({"model_id": model} if model else {})}
    rows = [
        _row(job)
        for job in client.list_prediction_jobs(wanted, status=status, limit=limit)
        if fits(job, tags, status) and model in (None, model_of(job))
    ]
    print_rows(
        rows,
        lambda row: {
            "job": row["job_id"],
            "status": row["status"],
            "model": row["training_job_id"],
            "predicts for": row["prediction_time"],
            "entities": row["num_entities_predicted"],
            "created": row["created_at"],
            "asset": row["tags"].get(ASSET_TAG),
            "partition": row["tags"].get(PARTITION_TAG),
        },
        as_json=as_json,
        if_none=f"There are no {'such prediction jobs' if wanted or status else 'prediction jobs yet'}.",
    )


@jobs.command()
@click.argument("job_id")
@as_json_option
@kumo_command
def show(client: KumoClient, job_id: str, *, as_json: bool) -> None:
    """Show all details of a prediction job."""
    job = client.get_prediction_job(job_id)
    report = job.job_status_report
    facts: dict[str, Any] = {
        **_row(job),
        "prediction_time": predicted_for(client, job),
        "started_at": report.start_time,
        "ended_at": report.end_time,
        "duration_seconds": seconds_of(job),
        "stage": report.stage,
        "progress": _progress(client, job),
        "reason": report.reason if report.is_terminal else "",
        "outputs": [str(output.get("artifact_type", "")).lower() for output in job.config.outputs],
        "tracking_url": client.public_url(report.tracking_url),
    }
    if as_json:
        print_json(facts)
        return
    seconds = facts["duration_seconds"]
    print_facts(
        {
            "job": job_id,
            "status": facts["status"],
            "stage": facts["stage"],
            "progress": facts["progress"],
            "reason": facts["reason"],
            "model": facts["training_job_id"],
            "predicts for": facts["prediction_time"],
            "outputs": ", ".join(facts["outputs"]),
            "entities": facts["num_entities_predicted"],
            "created": facts["created_at"],
            "started": facts["started_at"],
            "ended": facts["ended_at"],
            "duration": None if seconds is None else timedelta(seconds=round(seconds)),
            "page": facts["tracking_url"],
            "tags": own_tags(facts["tags"]),
        }
    )


@jobs.command()
@click.argument("job_id")
@click.option("--yes", is_flag=True, help="Cancel without asking.")
@as_json_option
@kumo_command
def cancel(client: KumoClient, job_id: str, *, yes: bool, as_json: bool) -> None:
    """Cancel a prediction job."""
    job = client.get_prediction_job(job_id)
    if job.job_status_report.is_terminal:
        raise click.ClickException(
            f"Prediction job {job_id} is {job.job_status_report.status}: there is nothing to cancel."
        )
    if not yes:
        asset = job.tags.get(ASSET_TAG)
        launched = f"A Dagster run launched {job_id} for {asset}. " if asset else ""
        question = f"{launched}Cancel {job_id} ({job.job_status_report.status})?"
        click.confirm(question, abort=True, err=True)
    if not client.cancel_prediction_job(job_id):
        raise click.ClickException(
            f"Kumo did not cancel prediction job {job_id}. Look at it with: dagster-kumo jobs show {job_id}"
        )
    if as_json:
        print_json({"job_id": job_id, "cancelled": True})
    else:
        click.echo(f"Cancelled {job_id}.")


@jobs.command()
@click.argument("job_id")
@as_json_option
@kumo_command
def url(client: KumoClient, job_id: str, *, as_json: bool) -> None:
    """Print the address of a prediction job's page in Kumo."""
    job = client.get_prediction_job(job_id)
    page = client.public_url(job.job_status_report.tracking_url)
    if as_json:
        print_json({"job_id": job_id, "tracking_url": page})
    else:
        click.echo(page)


def _row(job: BatchPredictionJobResource) -> dict[str, Any]:
    return {
        "job_id": job.job_id,
        "status": job.job_status_report.status,
        "training_job_id": model_of(job),
        "prediction_time": job.config.prediction_time,
        "num_entities_predicted": job.result.num_entities_predicted if job.result else None,
        "created_at": job.created_at,
        "tags": job.tags,
    }


def _progress(client: KumoClient, job: BatchPredictionJobResource) -> float | None:
    """The progress of a job, 0 to 1, while it runs."""
    if job.job_status_report.status != RUNNING:
        return None
    try:
        return client.get_prediction_progress(job.job_id, repeat=False).fraction
    except KumoError:  # show the rest
        return None
