"""Exports: outputs written to files and tables on this machine.

| asked for                        | written to                                                             |
|----------------------------------|------------------------------------------------------------------------|
| SNOWFLAKE, BIGQUERY, DATABRICKS  | a table in `<data>/exports/warehouses.duckdb`                          |
| S3, GCS, ADLS                    | Parquet files under `<data>/exports/<s3, gcs, adls>/<bucket>/<path>/`  |

A warehouse's tables are in the schema `<storage>_<connector>`, for example
`SELECT * FROM "snowflake_my_connector"."CHURN_predictions"`. A Databricks table that was named
`schema__kumo__table` is called `schema.table`. Any connector name is accepted.
"""

from __future__ import annotations

import threading
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from dagster_kumo.local.service.jobs import Job, JobFailed, Stage
from dagster_kumo.local.service.outputs import part_files, time_column, write_parts
from dagster_kumo.local.service.service import ApiError, Call, Service, problem

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

_WAREHOUSES = ("SNOWFLAKE", "BIGQUERY", "DATABRICKS")
_BUCKETS = {"S3": ("s3",), "GCS": ("gs", "gcs"), "ADLS": ("abfs", "abfss", "adl", "https")}
_EXTRA_FIELDS = ("ANCHOR_TIMESTAMP", "JOB_TIMESTAMP")
_WRITE_MODES = ("OVERWRITE", "APPEND")
# How long to wait while another process has the DuckDB file open.
_LOCKED_SECONDS = 10.0


def bucket_folder(exports: Path, uri: str, storage: str | None = None) -> Path:
    """The folder that stands for `s3://bucket/path` and the like."""
    scheme, mark, rest = uri.partition("://")
    storages = [name for name, schemes in _BUCKETS.items() if scheme.lower() in schemes]
    if not mark or not storages or (storage is not None and storage not in storages):
        wanted = ", ".join(f"{schemes[0]}://" for schemes in _BUCKETS.values())
        raise ValueError(f"{uri!r} is not a path in a bucket: it must begin with one of {wanted}.")
    steps = [step for step in rest.split("/") if step]
    if not steps or any(step in (".", "..") or "\\" in step or "\0" in step for step in steps):
        raise ValueError(f"{uri!r} is not a path in a bucket: it leads out of it.")
    return exports.joinpath(storages[0].lower(), *steps)


class _Request(BaseModel, protected_namespaces=()):
    """The request for an export, which echoes it with all its fields."""

    job_id: str
    prediction_output: dict[str, Any] | None = None
    training_table_output: dict[str, Any] | None = None
    model_output: dict[str, Any] | None = None


class Exports:
    """Export jobs (`/v1/artifact`). Also writes the outputs of prediction jobs that name a target."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._duckdb = threading.Lock()

    # Calls #################################################################################

    def create(self, call: Call) -> dict[str, str]:
        config = call.parse(_Request)
        id, output = config["job_id"], config["prediction_output"]
        if config["training_table_output"] or config["model_output"]:
            raise ApiError(501, "The stand-in exports predictions and embeddings only.")
        if output is None:
            detail = 'Exactly one of "prediction_output", "training_table_output", '
            raise ApiError(422, [problem([], detail + 'or "model_output" must be set.')])
        errors = self.output_errors([output])
        if not errors and output["storage_type"] == "LOCAL":
            errors = [{"message": "Storage type LOCAL needs no export: read the job's urls."}]
        if errors:
            raise ApiError(400, " ".join(error["message"] for error in errors))
        job = self._service.store.get("prediction_jobs", id)
        if job is None:
            raise ApiError(404, f"Prediction job {id} was not found.")
        if job.status != "DONE":
            raise ApiError(409, f"Prediction job {id} has nothing to export: it is {job.status}.")
        artifact = output["artifact_type"]
        if not part_files(self._service.output(job, artifact)):
            raise ApiError(400, f"Prediction job {id} has made no {artifact.lower()}.")
        export = self._service.store.new("artifact", config, project_id=call.project_id)
        self.resume(export)
        self._service.runner.wait_briefly(export)
        return {"job_id": export.id}

    def status(self, call: Call) -> str:
        """The status of an export, a bare string."""
        return self._service.find("artifact", call).status

    def cancel(self, call: Call) -> str:
        """Cancel an export, and return its status."""
        job = self._service.find("artifact", call)
        self._service.runner.cancel(job)
        return job.status

    def resume(self, export: Job) -> None:
        self._service.runner.start(export, Stage("Exporting", 1.0, self._export))

    def describe(self, export: Job) -> dict[str, Any]:
        """An export as `LocalKumo.exports` shows it."""
        return {
            "id": export.id,
            "status": export.status,
            "job_id": export.config["job_id"],
            "output": export.config["prediction_output"],
            "written_to": export.private.get("written_to"),
            "error": export.errors[0]["message"] if export.errors else None,
        }

    # Checks ################################################################################

    def output_errors(self, outputs: list[Any]) -> list[dict[str, str]]:
        """The errors in some PredictionOutputConfigs."""
        messages = [message for output in outputs if (message := self._fault_of(output))]
        return [{"title": "Invalid output", "message": message} for message in messages]

    def _fault_of(self, output: dict[str, Any]) -> str | None:
        storage, artifact = output.get("storage_type"), output.get("artifact_type")
        if artifact not in ("PREDICTIONS", "EMBEDDINGS"):
            return f"artifact_type must be PREDICTIONS or EMBEDDINGS, not {artifact!r}."
        unknown = [name for name in output.get("extra_fields") or [] if name not in _EXTRA_FIELDS]
        if unknown:
            return f"extra_fields may name {' and '.join(_EXTRA_FIELDS)}, not {unknown}."
        if storage == "LOCAL":
            return None
        if storage in _BUCKETS:
            try:
                bucket_folder(self._service.folder.exports, str(output.get("file_path")), storage)
            except ValueError as error:
                return str(error)
            return None
        if storage not in _WAREHOUSES:
            return f"storage_type {storage!r} is not known."
        for name in ("connector_id", "table_name"):
            if not isinstance(output.get(name), str) or not output[name]:
                return f"{storage} needs a {name}."
        if output.get("write_mode", "OVERWRITE") not in _WRITE_MODES:
            return f"write_mode must be OVERWRITE or APPEND, not {output['write_mode']!r}."
        return None

    # Work ##################################################################################

    def _export(self, export: Job) -> None:
        output = export.config["prediction_output"]
        job = self._service.store.get("prediction_jobs", export.config["job_id"])
        assert job is not None
        export.private["written_to"] = self.write(job, output)

    def write(self, job: Job, output: dict[str, Any]) -> str | None:
        """Write an output of a prediction job, and return where."""
        storage = output["storage_type"]
        if storage == "LOCAL":
            return None
        files = part_files(self._service.output(job, output["artifact_type"]))
        tables = [_with_extra_fields(file, job, output.get("extra_fields") or []) for file in files]
        if storage in _BUCKETS:
            folder = bucket_folder(self._service.folder.exports, output["file_path"], storage)
            write_parts(folder, tables)
            return str(folder)
        return self._write_table(output, tables)

    def _write_table(self, output: dict[str, Any], tables: list[pa.Table]) -> str:
        import duckdb
        import pyarrow as pa

        schema = _quoted(f"{output['storage_type'].lower()}_{output['connector_id']}")
        name = f"{schema}.{_quoted(output['table_name'].replace('__kumo__', '.'))}"
        path = self._service.folder.exports / "warehouses.duckdb"
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._duckdb:
            connection = _open(path)
            try:
                connection.begin()
                connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
                connection.register("new_rows", pa.concat_tables(tables))
                if output.get("write_mode") == "APPEND":
                    connection.execute(
                        f"CREATE TABLE IF NOT EXISTS {name} AS SELECT * FROM new_rows LIMIT 0"
                    )
                    connection.execute(f"INSERT INTO {name} BY NAME SELECT * FROM new_rows")
                else:
                    connection.execute(f"CREATE OR REPLACE TABLE {name} AS SELECT * FROM new_rows")
                connection.commit()
            except duckdb.Error as error:
                raise JobFailed(
                    "Export failed", f"Cannot write the table {name}: {error}"
                ) from None
            finally:
                connection.close()
        return f"{path}: {name}"


def _with_extra_fields(file: Path, job: Job, fields: list[str]) -> pa.Table:
    import pyarrow.parquet as pq

    table = pq.read_table(file)
    times = {
        "ANCHOR_TIMESTAMP": datetime.fromisoformat(job.private["anchor"]),
        "JOB_TIMESTAMP": job.created_at,
    }
    for name in fields:
        if name not in table.column_names:
            table = table.append_column(name, time_column(times[name], table.num_rows))
    return table


def _open(path: Path) -> duckdb.DuckDBPyConnection:
    import duckdb

    deadline = time.monotonic() + _LOCKED_SECONDS
    while True:
        try:
            return duckdb.connect(str(path))
        except duckdb.IOException as error:
            if time.monotonic() > deadline:
                raise JobFailed(
                    "Export failed",
                    f"Cannot write {path}: {error}. Close the program that has it open.",
                ) from None
            time.sleep(0.2)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
