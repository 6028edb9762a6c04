"""Where Kumo can export an output to: warehouses by the name of a connector, buckets by a path.

Names and targets are those that the official SDK would use, so that a table exported by either
is the same table: `<output_table_name>_<output_type>`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args
from urllib.parse import urlsplit

from dagster_kumo.api.records import OUTPUT_TYPES, OutputType

WriteMode = Literal["OVERWRITE", "APPEND"]
MetadataField = Literal["ANCHOR_TIMESTAMP", "JOB_TIMESTAMP"]
TableName = str | tuple[str, str]
Storage = Literal["snowflake", "bigquery", "databricks", "s3", "gcs", "adls"]

SCHEMA_SEPARATOR = "__kumo__"
"""Between the schema and the table, in the name of a table in Databricks."""
# Characters that a name must not have, because they could end it in SQL. A table's name may contain a
# partition's key, which may come from anywhere.
_NOT_IN_TABLES = re.compile(r"""[\x00-\x1f\x7f;'"`\\]""")
_NOT_IN_PATHS = re.compile(r"[\x00-\x1f\x7f]|(?:^|/)\.{1,2}(?:/|$)")


@dataclass(frozen=True)
class _Warehouse:
    """A warehouse, named by its connector in Kumo."""

    name: str

    storage: ClassVar[Storage]
    takes_write_mode: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.name or not self.name.strip():
            raise ValueError(
                f"{type(self).__name__} needs the name of a connector that exists in Kumo, "
                f'for example {type(self).__name__}("warehouse").'
            )

    def target(self, table_name: TableName, output_type: OutputType) -> dict[str, Any]:
        """The fields of the request that name the target."""
        return {"connector_id": self.name, "table_name": _suffixed(self, table_name, output_type)}

    def display_name(self, table_name: TableName, output_type: OutputType) -> str:
        """The table's name as people and `dagster/table_name` write it."""
        return _suffixed(self, table_name, output_type)


@dataclass(frozen=True)
class SnowflakeConnector(_Warehouse):
    """Tables in Snowflake, through a connector of that name in Kumo."""

    storage: ClassVar[Storage] = "snowflake"


@dataclass(frozen=True)
class BigQueryConnector(_Warehouse):
    """Tables in BigQuery, through a connector of that name in Kumo."""

    storage: ClassVar[Storage] = "bigquery"


@dataclass(frozen=True)
class DatabricksConnector(_Warehouse):
    """Tables in Databricks, through a connector of that name in Kumo.

    The table is given as a pair `(schema, table)`. A deployment that speaks the API of SDK 2.x always
    overwrites it; one of 3.0 can append, too.
    """

    storage: ClassVar[Storage] = "databricks"

    def target(self, table_name: TableName, output_type: OutputType) -> dict[str, Any]:
        schema, table = _schema_and_table(table_name)
        full = f"{schema}{SCHEMA_SEPARATOR}{table}_{output_type}"
        return {"connector_id": self.name, "table_name": full}

    def display_name(self, table_name: TableName, output_type: OutputType) -> str:
        schema, table = _schema_and_table(table_name)
        return f"{schema}.{table}_{output_type}"


@dataclass(frozen=True)
class _Bucket:
    """A folder of an object store, by its url.

    A path is passed to Kumo as it is. Kumo replaces the placeholder `{PARTITION}` by the name of each
    part, such as `part_000` (see "Output Destination" in Kumo's documentation of batch prediction jobs).
    """

    root_dir: str
    connector_id: str | None = None
    """The connector that may write there: where there are groups, its id; on a deployment that speaks
    the API of SDK 3.0 its name or id, and by default the one whose root covers the folder."""

    storage: ClassVar[Storage]
    schemes: ClassVar[tuple[str, ...]]
    takes_write_mode: ClassVar[bool] = False

    def __post_init__(self) -> None:
        parts = urlsplit(self.root_dir)
        if parts.scheme not in self.schemes or not parts.netloc:
            expected = " or ".join(f"{s}://..." for s in self.schemes)
            raise ValueError(
                f"{type(self).__name__} needs a folder as {expected}, not {self.root_dir!r}."
            )

    def target(self, table_name: TableName, output_type: OutputType) -> dict[str, Any]:
        file_path = self.display_name(table_name, output_type)
        return {"file_path": file_path, "connector_id": self.connector_id}

    def display_name(self, table_name: TableName, output_type: OutputType) -> str:
        """The url that Kumo writes to."""
        name = _suffixed(self, table_name, output_type)
        if name.startswith("/"):
            raise ValueError(
                f"table_name={table_name!r} begins with a slash: it is a path below {self.root_dir}."
            )
        return f"{self.root_dir.rstrip('/')}/{name}"


@dataclass(frozen=True)
class S3Connector(_Bucket):
    """Parquet files below `s3://bucket/folder`."""

    storage: ClassVar[Storage] = "s3"
    schemes: ClassVar[tuple[str, ...]] = ("s3",)


@dataclass(frozen=True)
class GCSConnector(_Bucket):
    """Parquet files below `gs://bucket/folder`."""

    storage: ClassVar[Storage] = "gcs"
    schemes: ClassVar[tuple[str, ...]] = ("gs", "gcs")


@dataclass(frozen=True)
class ADLSConnector(_Bucket):
    """Parquet files below `abfss://container@account.dfs.core.windows.net/folder`."""

    storage: ClassVar[Storage] = "adls"
    schemes: ClassVar[tuple[str, ...]] = ("abfss", "abfs")


Connector = (
    S3Connector
    | GCSConnector
    | ADLSConnector
    | SnowflakeConnector
    | BigQueryConnector
    | DatabricksConnector
)
CONNECTORS: tuple[type[Connector], ...] = get_args(Connector)


def is_bucket(connector: Connector | _Warehouse | _Bucket) -> bool:
    """Whether the connector writes files instead of a table."""
    return isinstance(connector, _Bucket)


def prediction_output(
    output_type: OutputType,
    connector: Connector,
    table_name: TableName,
    *,
    metadata_fields: Sequence[MetadataField] = (),
    write_mode: WriteMode | None = None,
) -> dict[str, Any]:
    """One `PredictionOutputConfig` for an export or a launch, checked before anything is sent.

    Raises:
        ValueError: The connector does not have one of the options, or a name is missing.

    >>> prediction_output("predictions", S3Connector("s3://bucket/out"), "churn")["file_path"]
    's3://bucket/out/churn_predictions'
    """
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"output_type is one of {', '.join(OUTPUT_TYPES)}, not {output_type!r}.")
    if not isinstance(connector, CONNECTORS):
        names = ", ".join(c.__name__ for c in CONNECTORS)
        raise ValueError(f"The connector is one of {names}, not {connector!r}.")
    unknown = sorted(set(metadata_fields) - set(get_args(MetadataField)))
    if unknown:
        raise ValueError(
            f"metadata_fields may hold {', '.join(get_args(MetadataField))}, not {', '.join(unknown)}."
        )
    output: dict[str, Any] = {
        "artifact_type": output_type.upper(),
        "storage_type": connector.storage.upper(),
        "extra_fields": list(metadata_fields),
        **connector.target(table_name, output_type),
    }
    if connector.takes_write_mode:
        if write_mode and write_mode not in get_args(WriteMode):
            raise ValueError(f"write_mode is OVERWRITE or APPEND, not {write_mode!r}.")
        # SDK 2.x has no such field for Databricks.
        if write_mode or not isinstance(connector, DatabricksConnector):
            output["write_mode"] = write_mode or "OVERWRITE"
    elif write_mode is not None:
        raise ValueError(
            f"{type(connector).__name__} has no write mode: what it writes replaces what was there. "
            "Leave write_mode out; to keep every export, put the time into table_name."
        )
    if isinstance(connector, BigQueryConnector):
        output["staging_table_name"] = None
    return output


def kept_by_kumo(output_type: OutputType) -> dict[str, Any]:
    """An output without a connector: it stays with Kumo and is read by its urls."""
    return {"artifact_type": output_type.upper(), "storage_type": "LOCAL", "extra_fields": []}


def _suffixed(
    connector: _Warehouse | _Bucket, table_name: TableName, output_type: OutputType
) -> str:
    if not isinstance(table_name, str):
        raise ValueError(
            f"{type(connector).__name__} takes one table name, not {table_name!r}; "
            "a pair (schema, table) is for DatabricksConnector."
        )
    _check_name(table_name, _NOT_IN_PATHS if is_bucket(connector) else _NOT_IN_TABLES)
    return f"{table_name}_{output_type}"


def _check_name(name: str, forbidden: re.Pattern[str]) -> None:
    if not name.strip() or forbidden.search(name):
        raise ValueError(
            f"table_name is not a name: {name!r}.\n"
            "It holds no quotes, semicolons or control characters, and a path no parts `.` or `..`."
        )


def _schema_and_table(table_name: TableName) -> tuple[str, str]:
    if isinstance(table_name, str) or len(table_name) != 2 or not all(table_name):
        raise ValueError(
            'DatabricksConnector takes the table as a pair, for example ("analytics", "churn"), '
            f"not {table_name!r}."
        )
    for name in table_name:
        _check_name(name, _NOT_IN_TABLES)
    return table_name
