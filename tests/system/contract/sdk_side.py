"""The vendor's SDK in a process of its own, told what to do by lines of JSON on stdin.

The SDK keeps one connection for its whole process, changes logging and warnings there, and its
older versions need another pydantic than Dagster does. So it runs here, where nothing of this
project is imported, by whichever Python has the version that is asked about.
"""

from __future__ import annotations

import importlib
import json
import sys
import traceback
from datetime import datetime
from typing import Any

import kumoai
from kumoai import trainer as sdk
from kumoai.pquery import PredictionTable, PredictionTableJob
from kumoapi import jobs as models
from kumoapi.json_serde import from_json, to_json_dict
from kumoapi.model_plan import PredictionTableGenerationPlan

IS_3 = int(kumoai.__version__.partition(".")[0]) >= 3

try:
    from kumoai.artifact_export import config as output_configs
except ImportError:  # where SDK 1.2 has it
    from kumoai.trainer import config as output_configs


def connect(url: str, api_key: str, **scope: str) -> None:
    """`kumoai.init`; once for the process."""
    kumoai.init(url=url, api_key=api_key, log_level="ERROR", **scope)


# Launches and exports


class _Graph:
    """All that a launch asks of a graph is the id of a snapshot, and 3.0 its project."""

    kumo_project_id = "default"

    def __init__(self, snapshot_id: str | None) -> None:
        self._id = snapshot_id

    def snapshot(self, *, non_blocking: bool) -> str | None:
        del non_blocking
        return self._id


def _connector(kind: str, where: str) -> Any:
    if IS_3:
        if kind in ("S3Connector", "GCSConnector", "ADLSConnector"):
            return getattr(kumoai, kind)(name=f"root {where.rstrip('/')}", root_dir=where)
        return getattr(kumoai, kind).get_by_name(where)
    if kind in ("S3Connector", "GCSConnector"):
        return getattr(kumoai, kind)(root_dir=where)
    details = {
        "SnowflakeConnector": ("account", "warehouse", "database", "schema"),
        "BigQueryConnector": ("project", "dataset"),
        "DatabricksConnector": ("host", "cluster", "warehouse", "catalog"),
    }[kind]
    return getattr(kumoai, kind)(where, *details, _bypass_creation=True)


def _output_config(output: dict[str, Any]) -> Any:
    options: dict[str, Any] = {"output_types": set(output["output_types"])}
    if "connector" in output:
        table = output["table_name"]
        options["output_connector"] = _connector(*output["connector"])
        options["output_table_name"] = tuple(table) if isinstance(table, list) else table
    if output.get("metadata_fields"):
        options["output_metadata_fields"] = [
            models.MetadataField(f) for f in output["metadata_fields"]
        ]
    if output.get("write_mode"):
        kind = {
            "SnowflakeConnector": "SnowflakeConnectorConfig",
            "BigQueryConnector": "BigQueryOutputConfig",
            "DatabricksConnector": "DatabricksOutputConfig",
        }[output["connector"][0]]
        config = getattr(output_configs, kind)(write_mode=models.WriteMode(output["write_mode"]))
        options["connector_specific_config"] = config
    return output_configs.OutputConfig(**options)


def launch(
    output: dict[str, Any],
    graph_snapshot_id: str | None = None,
    table_job_id: str | None = None,
    table_path: str | None = None,
    prediction_time: str | None = None,
    **options: Any,
) -> str:
    """`Trainer.predict`: the id of the job."""
    if table_job_id is not None:
        options["prediction_table"] = PredictionTableJob(table_job_id)
    if table_path is not None:
        options["prediction_table"] = PredictionTable(table_data_path=table_path)
    if prediction_time is not None:
        options["prediction_time"] = datetime.fromisoformat(prediction_time)
    trainer = sdk.Trainer(model_plan=None)  # a model plan is for training
    job = trainer.predict(
        graph=_Graph(graph_snapshot_id),
        output_config=_output_config(output),
        non_blocking=True,
        **options,
    )
    return job.id


def export(job_id: str, output: dict[str, Any]) -> str:
    """`BatchPredictionJobResult.export`: the id of the export job."""
    return sdk.BatchPredictionJobResult(job_id).export(_output_config(output)).id


def export_page(job_id: str) -> Any:
    """`ArtifactExportResult.tracking_url`."""
    return sdk.ArtifactExportResult(job_id).tracking_url()


def export_job(job_id: str, member: str) -> Any:
    """A member of `ArtifactExportJob`."""
    value = _member(sdk.ArtifactExportJob(job_id), member, ())
    return value.job_id if member == "result" else value


# Jobs and results


def prediction_job(job_id: str, member: str, *arguments: Any) -> Any:
    """A member of `BatchPredictionJob`."""
    value = _member(sdk.BatchPredictionJob(job_id), member, arguments)
    return value.job_id if member == "result" else value


def find_jobs(kind: str, tags: dict[str, str], limit: int) -> list[str]:
    """`search_by_tags` of a class of jobs: the ids."""
    classes = {
        "BatchPredictionJob": sdk.BatchPredictionJob,
        "PredictionTableJob": PredictionTableJob,
        "TrainingJob": sdk.TrainingJob,
    }
    return [job.id for job in classes[kind].search_by_tags(tags, limit)]


def list_jobs(api: str, **filters: Any) -> list[str]:
    """`list` of one of the client's typed APIs: the ids."""
    listed = getattr(kumoai.global_state.client, api).list(**filters)
    return [job.job_id for job in listed]


def result(job_id: str, member: str, frame_to: str | None = None) -> Any:
    """A member of `BatchPredictionJobResult`; a frame is written as Parquet."""
    value = _member(sdk.BatchPredictionJobResult(job_id), member, ())
    if frame_to is not None:
        value.to_parquet(frame_to)
        return None
    return _table(value) if member == "prediction_table" else value


def _table(value: Any) -> dict[str, str]:
    return {"kind": type(value).__name__, "id": value.job_id}


# Prediction tables


def generate_table(training_job_id: str, plan: dict[str, Any] | None, tags: dict[str, str]) -> str:
    """`PredictiveQuery.generate_prediction_table`: the id of the job."""
    query = kumoai.PredictiveQuery.load_from_training_job(training_job_id)
    return query.generate_prediction_table(
        PredictionTableGenerationPlan(**plan) if plan else None,
        non_blocking=True,
        custom_tags=tags,
    ).id


def table_job(job_id: str, member: str, *arguments: Any) -> Any:
    """A member of `PredictionTableJob`."""
    value = _member(PredictionTableJob(job_id), member, arguments)
    return _table(value) if member == "result" else value


def table_errors(job_id: str) -> Any:
    """Why a prediction table job failed."""
    return kumoai.global_state.client.generate_prediction_table_job_api.get_job_error(job_id)


def table(member: str, frame_to: str | None = None, **arguments: str) -> Any:
    """A member of `PredictionTable`; a frame is written as Parquet."""
    value = _member(PredictionTable(**arguments), member, ())
    if frame_to is not None:
        value.to_parquet(frame_to)
        return None
    return value


# Training jobs


def train(plan: dict[str, Any], **request: Any) -> str:
    """The launch of a training job, as `Trainer.fit` sends it: the id of the job."""
    return kumoai.global_state.client.training_job_api.create(
        models.TrainingJobRequest(model_plan=parsed("model_plan.ModelPlan", plan), **request)
    )


def suggest_plan(query: str, graph_id: str, run_mode: str) -> Any:
    """`PredictiveQuery.suggest_model_plan`."""
    about = {"query_string": query, "graph_id": graph_id, "run_mode": run_mode}
    request = parsed("model_plan.SuggestModelPlanRequest", about)
    return kumoai.global_state.client.pquery_api.suggest_model_plan(request)


def create_graph(definition: dict[str, Any]) -> str:
    """The id of a graph, as `Graph.save` asks for it."""
    api = kumoai.global_state.client.graph_api
    return api.create_graph(parsed("graph.GraphDefinition", definition))


def take_snapshot(graph_id: str) -> str:
    """`Graph.snapshot`: the id."""
    api = kumoai.global_state.client.graph_api
    return api.create_snapshot(graph_id, refresh_source=True)


def training_job(job_id: str, member: str) -> Any:
    """A member of `TrainingJobResult`."""
    return _member(sdk.TrainingJobResult(job_id), member, ())


def get_training_job(job_id: str) -> Any:
    """The training job as the typed API gets it."""
    return kumoai.global_state.client.training_job_api.get(job_id).job_id


def training_job_tags(job_id: str) -> dict[str, str]:
    """The tags of a training job as the typed API gets it."""
    return kumoai.global_state.client.training_job_api.get(job_id).tags


def query_text(training_job_id: str) -> str:
    """The predictive query behind a training job."""
    return kumoai.PredictiveQuery.load_from_training_job(training_job_id).query


# Models


def parse(model: str, value: Any) -> Any:
    """Read a value by one of the vendor's models, and write it again."""
    return to_json_dict(parsed(model, value))


def parsed(model: str, value: Any) -> Any:
    """Read a value by one of the vendor's models."""
    return from_json(value, _model(model))


def parse_all(model: str, values: list[Any]) -> list[Any]:
    """`parse` many."""
    return [parse(model, value) for value in values]


def _model(name: str) -> Any:
    plain = {"str": str, "dict": dict, "datetime": datetime}
    if name in plain:
        return plain[name]
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(f"kumoapi.{module}"), attribute)


def public_members(classes: list[str]) -> dict[str, list[str]]:
    """The public members of the SDK's classes."""
    found = {}
    for name in classes:
        owner = getattr(importlib.import_module("kumoai.trainer"), name, None) or getattr(
            importlib.import_module("kumoai.pquery"), name
        )
        members = {m for m in dir(owner) if not m.startswith("_")}
        # Attributes that the constructor sets are no members of the class.
        set_by_init = [
            n for n in owner.__init__.__code__.co_names if n in ("job_id", "table_data_uri")
        ]
        found[name] = sorted({*members, *set_by_init})
    return found


def _member(owner: Any, name: str, arguments: tuple[Any, ...]) -> Any:
    value = getattr(owner, name)
    return value(*arguments) if callable(value) else value


def main() -> None:
    """Answer each line with a line."""
    answers, sys.stdout = sys.stdout, sys.stderr  # the SDK prints
    for line in sys.stdin:
        call = json.loads(line)
        try:
            value = globals()[call["call"]](*call["args"], **call["options"])
            answer = {"value": to_json_dict({"value": value})["value"]}
        except Exception as error:  # noqa: BLE001 - it is for the other side to judge
            answer = {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
