"""`dagster-kumo models`: the models to predict with, one of them in full, and which one is the champion."""

from __future__ import annotations

import getpass
import math
from collections.abc import Mapping
from functools import cache, partial
from typing import Any

import click

from dagster_kumo.api.client import KumoClient
from dagster_kumo.api.errors import KumoNotFoundError
from dagster_kumo.api.records import PredictiveQuery, TrainingJobResource
from dagster_kumo.cli.kumo_command import (
    as_json_option,
    fits,
    kumo_command,
    limit_option,
    status_option,
    tags_option,
)
from dagster_kumo.cli.output import own_tags, print_facts, print_json, print_rows
from dagster_kumo.jobs import promotion
from dagster_kumo.jobs.tags import PROMOTED_WHY_TAG
from dagster_kumo.jobs.trained_model import promoted_at


@click.group(
    invoke_without_command=True,
    short_help="List training jobs, the models to predict with; show, promote, roll back.",
)
@tags_option
@status_option
@limit_option
@as_json_option
@kumo_command
def models(
    client: KumoClient, *, tags: Mapping[str, str], status: str | None, limit: int, as_json: bool
) -> None:
    """List training jobs, newest first. Predictions name them by training_job_id or by tags."""
    if click.get_current_context().invoked_subcommand is not None:
        return
    found = [
        job
        for job in client.list_training_jobs(tags, status=status, limit=limit)
        if fits(job, tags, status)
    ]
    query_of = cache(partial(_query, client))
    rows = [_row(job, query_of(job.config.pquery_id)) for job in found]
    print_rows(
        rows,
        lambda row: {
            "training job": row["training_job_id"],
            "query": row["query"],
            "status": row["status"],
            "created": row["created_at"],
            "holdout": row["test_metrics"],
            "tags": own_tags(row["tags"]),
        },
        as_json=as_json,
        if_none=f"There are no {'such training jobs' if tags or status else 'training jobs yet'}.",
    )


@models.command()
@click.argument("training_job_id")
@as_json_option
@kumo_command
def show(client: KumoClient, training_job_id: str, *, as_json: bool) -> None:
    """Show all details of a training job."""
    job = client.get_training_job(training_job_id)
    report = job.job_status_report
    query = _query(client, job.config.pquery_id)
    facts: dict[str, Any] = {
        **_row(job, query),
        "query_string": query.query_string if query else None,
        "tables": list(query.tables) if query else [],
        "started_at": report.start_time,
        "ended_at": report.end_time,
        "reason": report.reason if report.is_terminal else "",
        "tracking_url": client.public_url(report.tracking_url),
    }
    if as_json:
        print_json(facts)
        return
    print_facts(
        {
            "training job": training_job_id,
            "status": facts["status"],
            "reason": facts["reason"],
            "query": facts["query"],
            "text": " ".join((facts["query_string"] or "").split()),
            "tables": ", ".join(facts["tables"]),
            "holdout": facts["test_metrics"],
            "created": facts["created_at"],
            "started": facts["started_at"],
            "ended": facts["ended_at"],
            "page": facts["tracking_url"],
            "tags": own_tags(facts["tags"]),
        }
    )


_name_option = click.option(
    "--name", required=True, help="The champion's name, as in BatchPrediction(champion_of=...)."
)
_why_option = click.option("--why", default="", help="The reason, which is kept as a tag in Kumo.")


@models.command(short_help="Make a training job the champion of a name.")
@click.argument("training_job_id")
@_name_option
@_why_option
@as_json_option
@kumo_command
def promote(
    client: KumoClient, training_job_id: str, *, name: str, why: str, as_json: bool
) -> None:
    """Make a training job the champion of a name, with which predictions are made from then on."""
    move = promotion.promote(client, training_job_id, name, _author(why))
    _print_move(move, name, as_json=as_json, if_none="was the champion already; nothing was moved")


@models.command()
@_name_option
@_why_option
@as_json_option
@kumo_command
def rollback(client: KumoClient, *, name: str, why: str, as_json: bool) -> None:
    """Make the champion before the present one the champion again."""
    move = promotion.roll_back(client, name, _author(why))
    _print_move(
        move,
        name,
        as_json=as_json,
        if_none="is the champion; a rollback that had stopped is complete",
    )


def _author(why: str) -> promotion.Author:
    return promotion.Author(by=getpass.getuser(), why=why)


def _print_move(move: promotion.Move, name: str, *, as_json: bool, if_none: str) -> None:
    champion = _row(move.champion, None)
    if as_json:
        print_json({"champion": champion, "before": move.before, "moved": move.is_new})
        return
    said = f"predicts for {name} from now on" if move.is_new else if_none
    click.echo(f"{champion['training_job_id']} {said}.")
    print_facts(
        {
            "before": move.before,
            "holdout": champion["test_metrics"],
            "promoted": promoted_at(move.champion),
            "why": champion["tags"].get(PROMOTED_WHY_TAG),
        }
    )


def _row(job: TrainingJobResource, query: PredictiveQuery | None) -> dict[str, Any]:
    metrics = job.result.eval_metrics.test_metrics if job.result else ()
    return {
        "training_job_id": job.job_id,
        "query": (query.name if query else None) or job.config.pquery_id,
        "status": job.job_status_report.status,
        "created_at": job.created_at,
        "test_metrics": {
            metric.name: metric.value
            for metric in metrics
            if metric.value is not None and math.isfinite(metric.value)
        },
        "tags": job.tags,
    }


def _query(client: KumoClient, query_id: str | None) -> PredictiveQuery | None:
    """A query; None if Kumo does not have it any more."""
    if not query_id:
        return None
    try:
        return client.get_predictive_query(query_id)
    except KumoNotFoundError:
        return None
