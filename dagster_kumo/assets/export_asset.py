"""Assets of the tables and folders that Kumo writes from an output: `build_kumo_export_asset`."""

# No `from __future__ import annotations`: Dagster looks at the annotation of `context` as an object.

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg
from typing_extensions import Unpack

from dagster_kumo.api.connectors import (
    Connector,
    MetadataField,
    TableName,
    WriteMode,
    prediction_output,
)
from dagster_kumo.api.records import OutputType
from dagster_kumo.assets.specs import AssetOptions, check_name, completed_spec, op_name, op_options
from dagster_kumo.assets.translator import DagsterKumoTranslator, KumoAssetProps
from dagster_kumo.execution.export_run import names_partition
from dagster_kumo.execution.selection import check_has_run, find_output
from dagster_kumo.resource import DEFAULT_RESOURCE_KEY, KumoResource


@dataclass(frozen=True, kw_only=True)
class KumoExport:
    """One export of a model's output; the fields are those of `build_kumo_export_asset`.

    Examples:
        >>> from dagster_kumo import SnowflakeConnector
        >>> KumoExport(connector=SnowflakeConnector("warehouse"), table_name="CHURN").output_type
        'predictions'
    """

    connector: Connector
    table_name: TableName
    output_type: OutputType = "predictions"
    write_mode: WriteMode | None = None
    metadata_fields: Sequence[MetadataField] = ()
    key: dg.AssetKey | None = None
    automation_condition: dg.AutomationCondition[Any] | None = None


def build_kumo_export_asset(
    *,
    name: str,
    predictions: (
        Sequence[dg.AssetsDefinition]
        | dg.AssetsDefinition
        | dg.AssetSpec
        | dg.AssetKey
        | str
        | Sequence[str]
    ),
    connector: Connector,
    table_name: TableName,
    output_type: OutputType = "predictions",
    write_mode: WriteMode | None = None,
    metadata_fields: Sequence[MetadataField] = (),
    key: dg.AssetKey | None = None,
    partitions_def: dg.PartitionsDefinition | None = None,
    translator: DagsterKumoTranslator | None = None,
    resource_key: str = DEFAULT_RESOURCE_KEY,
    deps: Iterable[Any] = (),
    automation_condition: dg.AutomationCondition[Any] | None = None,
    **options: Unpack[AssetOptions],
) -> dg.AssetsDefinition:
    """Make an asset of the table or folder that Kumo writes an output to.

    Args:
        name: the model's name; the default key is `<name>/<output_type>_in_<storage>`.
        predictions: what `@kumo_assets` or `build_kumo_assets_definitions` made, or the key of an output,
            such as `"churn/predictions"`. The job behind its latest materialization is exported.
        connector: where to, for example `SnowflakeConnector("warehouse")`.
        table_name: the table or folder, to which `_<output_type>` is added; a pair
            `(schema, table)` for Databricks. With `{partition_key}` in it, each partition has a table
            or folder of its own; without, what is exported last is what is there, unless it is appended.
        output_type: `predictions` or `embeddings`.
        write_mode: `OVERWRITE` (the default of the service) or `APPEND`.
        metadata_fields: further columns, `ANCHOR_TIMESTAMP` and `JOB_TIMESTAMP`.
        key: another key, as two exports to the same storage need it.
        partitions_def: by default that of `predictions`.
        translator: changes the spec.
        resource_key: the key of the `KumoResource`.
        deps: further upstream assets.
        automation_condition: when Dagster materializes the export by itself.
        options: see `AssetOptions`.

    Raises:
        ValueError: the connector does not take an option, or `predictions` has no such output.

    Examples:
        >>> from dagster_kumo import S3Connector
        >>> export = build_kumo_export_asset(
        ...     name="churn",
        ...     predictions=dg.AssetKey(["churn", "predictions"]),
        ...     connector=S3Connector("s3://bucket/kumo"),
        ...     table_name="churn",
        ... )
        >>> export.key
        AssetKey(['churn', 'predictions_in_s3'])
    """
    check_name(name)
    prediction_output(
        output_type, connector, table_name, metadata_fields=metadata_fields, write_mode=write_mode
    )
    upstream, partitions_of_output = find_output(predictions, output_type, argument="predictions")
    partitions_def = partitions_def or partitions_of_output
    if names_partition(table_name) and partitions_def is None:
        raise ValueError(
            f"table_name={table_name!r} names a partition, but the export has none. "
            "Give it partitions_def=, or leave {partition_key} out."
        )
    spec = (translator or DagsterKumoTranslator()).get_asset_spec(
        KumoAssetProps(
            name, "export", output_type=output_type, connector=connector, table_name=table_name
        )
    )
    spec = completed_spec(
        spec.replace_attributes(key=key) if key is not None else spec,
        deps=[upstream, *deps],
        automation_condition=automation_condition,
        options=options,
    )

    @dg.multi_asset(
        name=op_name([spec]),
        specs=[spec],
        partitions_def=partitions_def,
        required_resource_keys={resource_key},
        **op_options(options),
    )
    def export(context: dg.AssetExecutionContext) -> Any:
        kumo: KumoResource = getattr(context.resources, resource_key)
        check_has_run(context)
        yield from kumo.export(
            context,
            predictions=context.asset_key_for_input(export.input_names_by_node_key[upstream]),
            connector=connector,
            table_name=table_name,
            output_type=output_type,
            write_mode=write_mode,
            metadata_fields=metadata_fields,
        )

    return export
