"""The bodies that the API of SDK 3.0 takes. Fields that it does not know are refused, null or not."""

from __future__ import annotations

import re
import uuid
from datetime import datetime
from typing import Annotated, Any, Literal
from urllib.parse import quote, unquote, urlsplit

from pydantic import AfterValidator, BaseModel, Field, model_validator
from typing_extensions import Self

SCHEMES = {"S3": "s3", "GCS": "gs", "ADLS": "abfss"}
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_CONTAINER = re.compile(r"[a-z0-9-]{3,63}@[a-z0-9]{3,24}\.dfs\.core\.\S+")
_NOT_IN_PATHS = re.compile(r"[\x00-\x1f\x7f\\?#]|%[\da-fA-F]{2}")


def _check_parts(path: str) -> None:
    if any(part in ("", ".", "..") for part in path.removesuffix("/").split("/")):
        raise ValueError("path contains an empty, current, or parent component")


def _relative(path: str) -> str:
    if urlsplit(path).scheme or path.startswith("/") or _NOT_IN_PATHS.search(path):
        raise ValueError("path must be a safe relative path")
    _check_parts(path)
    return path


def _url(url: str) -> str:
    parts = urlsplit(url)
    name = _CONTAINER if parts.scheme == "abfss" else _BUCKET
    if parts.scheme not in SCHEMES.values() or not name.fullmatch(parts.netloc):
        raise ValueError("a full URI names a bucket as s3://, gs:// or abfss://")
    _check_parts(parts.path[1:])
    plain = quote(unquote(parts.path), safe="/-._~!$&'()*+,;=:@")
    if url != f"{parts.scheme}://{parts.netloc}{plain}":
        raise ValueError("full URI must use its canonical spelling")
    return url


def _file_path(path: str) -> str:
    return _url(path) if "://" in path else _relative(path)


def _request_id(value: str) -> str:
    if value != str(uuid.UUID(value)):
        raise ValueError("request_id must be a canonical UUID")
    return value


class _Body(BaseModel, extra="forbid", protected_namespaces=()):
    pass


class _Output(_Body):
    artifact_type: Literal["PREDICTIONS", "EMBEDDINGS"]
    extra_fields: list[Literal["ANCHOR_TIMESTAMP", "JOB_TIMESTAMP"]] = []


class _Kept(_Output):
    storage_type: Literal["LOCAL"]


class _Files(_Output):
    storage_type: Literal["S3", "GCS", "ADLS"]
    connector_id: str
    file_path: Annotated[str, AfterValidator(_file_path)]


class _Rows(_Output):
    connector_id: str
    table_name: str
    write_mode: Literal["OVERWRITE", "APPEND"] = "OVERWRITE"


class _Table(_Rows):
    storage_type: Literal["SNOWFLAKE", "DATABRICKS"]


class _BigQueryTable(_Rows):
    storage_type: Literal["BIGQUERY"]
    staging_table_name: str | None = None


Output = Annotated[_Kept | _Files | _Table | _BigQueryTable, Field(discriminator="storage_type")]


class _Relative(_Body):
    mode: Literal["relative"]
    path: Annotated[str, AfterValidator(_relative)]


class _Uri(_Body):
    mode: Literal["uri"]
    uri: Annotated[str, AfterValidator(_url)]


class _FilesOfTable(_Body):
    storage_type: Literal["S3", "GCS", "ADLS"]
    connector_id: str
    source: Annotated[_Relative | _Uri, Field(discriminator="mode")]


class _TableOfDatabricks(_Body):
    storage_type: Literal["DATABRICKS"]
    connector_id: str
    table: str | None = None
    sql: str | None = None


class _Options(_Body):
    binary_classification_threshold: float | None = None
    num_classes_to_return: int | None = None
    num_workers: int = 1


class Launch(_Body):
    """What launches a prediction job."""

    job_tags: dict[str, str]
    model_training_job_id: str
    predict_options: _Options
    outputs: list[Output] = []
    graph_snapshot_id: str | None = None
    pred_table_job_id: str | None = None
    pred_table_source: (
        Annotated[_FilesOfTable | _TableOfDatabricks, Field(discriminator="storage_type")] | None
    ) = None
    prediction_time: datetime | None = None
    explanations: bool = False

    @model_validator(mode="after")
    def _one_table(self) -> Self:
        ways = (self.pred_table_job_id, self.pred_table_source, self.prediction_time)
        if sum(way is not None for way in ways) > 1:
            raise ValueError(
                'Only one of "pred_table_job_id", "pred_table_source", or "prediction_time" may be set.'
            )
        return self


class Export(_Body):
    """What starts an export."""

    request_id: Annotated[str, AfterValidator(_request_id)]
    job_id: str
    prediction_output: Output | None = None
    training_table_output: dict[str, Any] | None = None
    model_output: dict[str, Any] | None = None


class TableJob(_Body):
    """What launches the job of a prediction table."""

    job_tags: dict[str, str]
    pquery_id: str
    plan: dict[str, Any]
    graph_snapshot_id: str | None


def _plan(plan: dict[str, Any]) -> dict[str, Any]:
    if "enable_baselines" in plan.get("training_job", {}):
        raise ValueError("training_job.enable_baselines: extra fields not permitted")
    return plan


class TrainingJob(_Body):
    """What launches a training job."""

    job_tags: dict[str, str]
    pquery_id: str
    model_plan: Annotated[dict[str, Any], AfterValidator(_plan)] = {}
    graph_snapshot_id: str | None = None
    train_table_job_id: str | None = None
    train_table_override: dict[str, Any] | None = None
    custom_train_table: dict[str, Any] | None = None
    warm_start_job_id: str | None = None


class Connector(_Body):
    """What makes a connector."""

    name: str
    config: dict[str, Any]
    identity_id: str | None = None
    description: str = ""
