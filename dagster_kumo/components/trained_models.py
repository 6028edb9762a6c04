"""The trained models of a deployment: a refresh finds them, and definitions load from what it stored."""

# No `from __future__ import annotations`: Dagster looks at the annotations of fields as objects.

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import Field

from dagster_kumo.api.client import KumoClient
from dagster_kumo.api.errors import KumoModelError
from dagster_kumo.api.records import DONE
from dagster_kumo.components.named_fields import NamedFields, NamedFieldsResolvable
from dagster_kumo.jobs.trained_model import training_jobs_with_tags

_MAX_TRAINING_JOBS = 1000
"""How many training jobs are read, the newest ones."""


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A predictive query with its newest trained model.

    Attributes:
        name: The query's name in letters, digits and underscores, as asset names require.
        training_job_id: The newest training job of the query that is DONE.
        query_id: The query.
        query_name: Its name in Kumo.
        query: Its text.
        tables: The tables that it reads.
        tags: Those of the training job.
    """

    name: str
    training_job_id: str
    query_id: str
    query_name: str
    query: str
    tables: Sequence[str] = ()
    tags: Mapping[str, str] = field(default_factory=dict[str, str])


class ModelSelection(NamedFields, NamedFieldsResolvable):
    """Selects trained models: by their ids, by the tags that they carry, or by the name of their query."""

    ids: Sequence[str] = Field(
        default=[], description="The training jobs. The default is the newest of each query."
    )
    tags: Mapping[str, str] = Field(default={}, description="Tags that the training job carries.")
    query_name: str | None = Field(default=None, description="The name of the predictive query.")

    def __str__(self) -> str:
        wanted = [*self.ids, *(f"{key}={value}" for key, value in sorted(self.tags.items()))]
        if self.query_name is not None:
            wanted.append(f"query_name={self.query_name}")
        return ", ".join(wanted) or "all"


def find_trained_models(client: KumoClient, selection: ModelSelection) -> list[TrainedModel]:
    """The newest model of each selected query, sorted by name.

    Raises:
        KumoModelError: There is none, or two queries share a name.
    """
    jobs = training_jobs_with_tags(client, selection.tags, status=DONE, limit=_MAX_TRAINING_JOBS)
    found: dict[str, TrainedModel] = {}
    for job in jobs:
        query_id = job.config.pquery_id
        if query_id is None or query_id in found or job.job_status_report.status != DONE:
            continue
        if selection.ids and job.job_id not in selection.ids:
            continue
        query = client.get_predictive_query(query_id)
        query_name = query.name or query_id
        if selection.query_name in (None, query_name):
            found[query_id] = TrainedModel(
                name=_asset_name(query_name) or _asset_name(query_id),
                training_job_id=job.job_id,
                query_id=query_id,
                query_name=query_name,
                query=query.query_string,
                tables=query.tables,
                tags=job.tags,
            )
    if not found:
        raise KumoModelError(
            f"No trained model is selected by {selection}: of {len(jobs)} training jobs that are DONE "
            "and carry the tags, none belongs to such a query.\n"
            "Change `models` in the YAML, or tag a training job in Kumo."
        )
    models = sorted(found.values(), key=lambda model: model.name)
    _check_names(models)
    return models


def models_to_json(models: Sequence[TrainedModel]) -> str:
    """The models as the stored state."""
    return json.dumps([asdict(model) for model in models], indent=2)


def models_from_json(state: str) -> list[TrainedModel]:
    """The models of a stored state."""
    kept: list[dict[str, Any]] = json.loads(state)
    return [TrainedModel(**model) for model in kept]


def _asset_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", "_", text).strip("_")


def _check_names(models: Sequence[TrainedModel]) -> None:
    by_name: dict[str, list[str]] = {}
    for model in models:
        by_name.setdefault(model.name, []).append(f"{model.query_name} ({model.query_id})")
    for name, queries in by_name.items():
        if len(queries) > 1:
            raise KumoModelError(
                f"The assets of {' and '.join(queries)} would both be named {name}.\n"
                "Rename one of the queries in Kumo, or select fewer by `models` in the YAML."
            )
