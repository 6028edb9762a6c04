"""The YAML that `dg scaffold defs` writes. It loads as it is, and contains no secret."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta, timezone
from typing import Any

import dagster as dg
from pydantic import BaseModel, Field

_SETTINGS = """\
  kumo:
    api_key: "{{{{ env.KUMO_API_KEY }}}}"
  io_manager:
    base_path: {base_path} # a folder, or s3://..., gs://..., abfss://...
"""
_REQUIREMENTS = """\

requirements:
  env:
    - KUMO_API_KEY
"""
_BATCH_PREDICTION = f"""\
type: {{type}}

attributes:
  name: {{name}}
{_SETTINGS}\
  prediction:
    training_job_id: {{training_job_id}} # or training_job_tags, for the newest that carries them
  partitions_def: # each day is predicted for its end
    type: daily
    start_date: "{{start_date}}"
  deps: [] # the tables that the model reads, by their asset keys
{_REQUIREMENTS}"""
_WORKSPACE = f"""\
type: {{type}}

attributes:
{_SETTINGS}\
  models: # which; the default is all
    {{models}}
  assets: # for each model
    partitions_def: # each day is predicted for its end
      type: daily
      start_date: "{{start_date}}"
{_REQUIREMENTS}"""


class _Params(BaseModel):
    base_path: str = Field(default="data/kumo", description="Where outputs are stored.")


class BatchPredictionParams(_Params):
    """The options of `dg scaffold defs dagster_kumo.KumoBatchPredictionComponent`."""

    training_job_id: str = Field(
        default="trainingjob-...", description="The training job whose model predicts."
    )


class WorkspaceParams(_Params):
    """The options of `dg scaffold defs dagster_kumo.KumoWorkspaceComponent`."""

    query_name: str | None = Field(
        default=None, description="The name of the predictive query whose model predicts."
    )


class BatchPredictionScaffolder(dg.Scaffolder[BatchPredictionParams]):
    """Writes the YAML of one model, named like its folder."""

    @classmethod
    def get_scaffold_params(cls) -> type[BatchPredictionParams]:
        return BatchPredictionParams

    def scaffold(self, request: dg.ScaffoldRequest[BatchPredictionParams]) -> None:
        folder = request.target_path.parent if request.append else request.target_path
        _write(
            request,
            _BATCH_PREDICTION,
            name=re.sub(r"[^A-Za-z0-9_]", "_", folder.name),
            base_path=json.dumps(request.params.base_path),
            training_job_id=json.dumps(request.params.training_job_id),
        )


class WorkspaceScaffolder(dg.Scaffolder[WorkspaceParams]):
    """Writes the YAML of a workspace."""

    @classmethod
    def get_scaffold_params(cls) -> type[WorkspaceParams]:
        return WorkspaceParams

    def scaffold(self, request: dg.ScaffoldRequest[WorkspaceParams]) -> None:
        name = request.params.query_name
        _write(
            request,
            _WORKSPACE,
            base_path=json.dumps(request.params.base_path),
            models="tags: {}" if name is None else f"query_name: {json.dumps(name)}",
        )


def _write(request: dg.ScaffoldRequest[Any], template: str, **values: str) -> None:
    if request.scaffold_format == "python":
        dg.scaffold_component(request)
        return
    # So that there are partitions to materialize at once.
    start = datetime.now(timezone.utc) - timedelta(days=7)
    text = template.format(type=request.type_name, start_date=f"{start:%Y-%m-%d}", **values)
    if request.append:
        with request.target_path.open("a") as file:
            file.write(f"---\n{text}")
    else:
        (request.target_path / "defs.yaml").write_text(text)
