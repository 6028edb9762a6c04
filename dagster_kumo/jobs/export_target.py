"""`ExportTarget`: what an export writes, and where to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from typing_extensions import Self

from dagster_kumo.api.connectors import (
    Connector,
    MetadataField,
    TableName,
    WriteMode,
    prediction_output,
)
from dagster_kumo.api.records import OutputType

PARTITION_KEY = "{partition_key}"
"""The placeholder of the asset's partition in a table's name. (`{PARTITION}` is Kumo's, for the
name of a part.)"""


@dataclass(frozen=True, kw_only=True)
class ExportTarget:
    """An output of a prediction job, and the table or folder that Kumo writes it to.

    `KumoExport` explains the fields.

    Raises:
        ValueError: The connector does not support an option, or a name is missing.

    Examples:
        >>> from dagster_kumo import S3Connector
        >>> target = ExportTarget(
        ...     connector=S3Connector("s3://bucket/kumo"), table_name="churn/{partition_key}"
        ... )
        >>> target.for_partition("2026-11-01").full_name
        's3://bucket/kumo/churn/2026-11-01_predictions'
    """

    connector: Connector
    table_name: TableName
    output_type: OutputType = "predictions"
    write_mode: WriteMode | None = None
    metadata_fields: Sequence[MetadataField] = ()

    def __post_init__(self) -> None:
        self.request()

    @property
    def storage(self) -> str:
        """What kind of place it is: `snowflake`, `s3`, ..."""
        return self.connector.storage

    @property
    def full_name(self) -> str:
        """The table's full name; for a folder, the url."""
        return self.connector.display_name(self.table_name, self.output_type)

    @property
    def appends(self) -> bool:
        """Whether the rows are added to existing ones."""
        return self.write_mode == "APPEND"

    @property
    def names_partition(self) -> bool:
        """Whether each partition has its own table or folder."""
        return PARTITION_KEY in "".join(self.table_name)

    def for_partition(self, partition_key: str | None) -> Self:
        """The target of one partition.

        Raises:
            ValueError: The partition makes the name invalid.
        """
        if isinstance(self.table_name, str):
            return replace(self, table_name=of_partition(self.table_name, partition_key))
        schema, table = (of_partition(name, partition_key) for name in self.table_name)
        return replace(self, table_name=(schema, table))

    def request(self) -> dict[str, Any]:
        """The output as Kumo's API takes it."""
        return prediction_output(
            self.output_type,
            self.connector,
            self.table_name,
            metadata_fields=self.metadata_fields,
            write_mode=self.write_mode,
        )

    def arguments(self) -> dict[str, Any]:
        """The fields by their names, as `KumoResource.export` takes them."""
        return {field.name: getattr(self, field.name) for field in fields(ExportTarget)}


def of_partition(name: str, partition_key: str | None) -> str:
    """The name with the partition instead of `{partition_key}`."""
    return name if partition_key is None else name.replace(PARTITION_KEY, partition_key)
