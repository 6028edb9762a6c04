"""`build_kumo_export_asset`: assets for the tables and folders that Kumo exports an output to."""

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
    is_bucket,
)
from dagster_kumo.api.records import OutputType
from dagster_kumo.assets.specs import (
    AssetOptions,
    asset_deps,
    check_name,
    completed_spec,
    key_in_run,
    op_name,
    op_options,
)
from dagster_kumo.assets.translator import DagsterKumoTranslator, KumoAssetProps
from dagster_kumo.execution.metadata import target_entry
from dagster_kumo.execution.selection import OutputReference, check_has_run, find_output
from dagster_kumo.jobs.export_target import ExportTarget
from dagster_kumo.resource import DEFAULT_RESOURCE_KEY, KumoResource


@dataclass(frozen=True, kw_only=True)
class KumoExport(ExportTarget):
    """One export of a model's output, for `build_kumo_assets_definitions`.

    Args:
        connector: Where to, for example `SnowflakeConnector("warehouse")`.
        table_name: The table or folder, to which `_<output_type>` is added; a pair
            `(schema, table)` for Databricks. With `{partition_key}` in it, each partition has its
            own table or folder. Without it, each export replaces the one before, unless
            `write_mode` is `APPEND`.
        output_type: `predictions` or `embeddings`.
        write_mode: `OVERWRITE` (the default of the service) or `APPEND`.
        metadata_fields: Further columns, `ANCHOR_TIMESTAMP` and `JOB_TIMESTAMP`.
        key: The key of the asset. Two exports to the same storage need different keys.
        relation_identifier: The table's full name, such as `DB.SCHEMA.CHURN_predictions`, by which Dagster
            knows it as the same table as a dbt source. By default as far as the connector tells it.
        deps: Further upstream assets.
        automation_condition: When Dagster materializes the export automatically.
        group_name: The group, by default the model's.
        retry_policy: The retry policy, by default the model's.
        pool: The pool, by default the model's. For example, one that limits writes to the warehouse.

    Examples:
        >>> from dagster_kumo import SnowflakeConnector
        >>> KumoExport(connector=SnowflakeConnector("warehouse"), table_name="CHURN").output_type
        'predictions'
    """

    key: dg.AssetKey | None = None
    relation_identifier: str | None = None
    deps: Iterable[Any] = ()
    automation_condition: dg.AutomationCondition[Any] | None = None
    group_name: str | None = None
    retry_policy: dg.RetryPolicy | None = None
    pool: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.relation_identifier is not None and is_bucket(self.connector):
            raise ValueError(
                f"relation_identifier={self.relation_identifier!r} names a table, but the export writes to "
                f"{self.full_name}. Leave it out."
            )
        object.__setattr__(self, "deps", asset_deps(self.deps))


def build_kumo_export_asset(
    *,
    name: str,
    predictions: OutputReference,
    connector: Connector,
    table_name: TableName,
    output_type: OutputType = "predictions",
    write_mode: WriteMode | None = None,
    metadata_fields: Sequence[MetadataField] = (),
    key: dg.AssetKey | None = None,
    relation_identifier: str | None = None,
    partitions_def: dg.PartitionsDefinition | None = None,
    translator: DagsterKumoTranslator | None = None,
    resource_key: str = DEFAULT_RESOURCE_KEY,
    deps: Iterable[Any] = (),
    automation_condition: dg.AutomationCondition[Any] | None = None,
    **options: Unpack[AssetOptions],
) -> dg.AssetsDefinition:
    """Make an asset for the table or folder that Kumo exports an output to.

    Args:
        name: The model's name; the default key is `<name>/<output_type>_in_<storage>`.
        predictions: What `@kumo_assets` or `build_kumo_assets_definitions` made, or the key of an output,
            such as `"churn/predictions"`. The job behind its latest materialization is exported.
        connector: Where to, for example `SnowflakeConnector("warehouse")`.
        table_name: The table or folder, to which `_<output_type>` is added; a pair
            `(schema, table)` for Databricks. With `{partition_key}` in it, each partition has its
            own table or folder. Without it, each export replaces the one before, unless
            `write_mode` is `APPEND`.
        output_type: `predictions` or `embeddings`.
        write_mode: `OVERWRITE` (the default of the service) or `APPEND`.
        metadata_fields: Further columns, `ANCHOR_TIMESTAMP` and `JOB_TIMESTAMP`.
        key: The key of the asset. Two exports to the same storage need different keys.
        relation_identifier: The table's full name, such as `DB.SCHEMA.CHURN_predictions`, by which Dagster
            knows it as the same table as a dbt source. By default as far as the connector tells it.
        partitions_def: By default that of `predictions`.
        translator: Changes the spec.
        resource_key: The key of the `KumoResource`.
        deps: Further upstream assets.
        automation_condition: When Dagster materializes the export automatically.
        options: See `AssetOptions`.

    Raises:
        ValueError: The connector does not support an option, or `predictions` has no such output.

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
    export = KumoExport(
        connector=connector,
        table_name=table_name,
        output_type=output_type,
        write_mode=write_mode,
        metadata_fields=metadata_fields,
        key=key,
        relation_identifier=relation_identifier,
        deps=deps,
        automation_condition=automation_condition,
    )
    return export_asset(
        export,
        name=name,
        predictions=predictions,
        partitions_def=partitions_def,
        translator=translator or DagsterKumoTranslator(),
        resource_key=resource_key,
        options=options,
    )


def export_asset(
    target: KumoExport,
    *,
    name: str,
    predictions: OutputReference,
    partitions_def: dg.PartitionsDefinition | None = None,
    translator: DagsterKumoTranslator,
    resource_key: str,
    options: AssetOptions,
) -> dg.AssetsDefinition:
    """The asset of an export; the other arguments are those of `build_kumo_export_asset`."""
    check_name(name)
    upstream, upstream_partitions = find_output(
        predictions, target.output_type, argument="predictions"
    )
    partitions_def = partitions_def or upstream_partitions
    if target.names_partition and partitions_def is None:
        raise ValueError(
            f"table_name={target.table_name!r} names a partition, but the export has none. "
            "Give it partitions_def=, or leave {partition_key} out."
        )
    options = {
        **options,
        "group_name": target.group_name or options.get("group_name"),
        "retry_policy": target.retry_policy or options.get("retry_policy"),
        "pool": target.pool or options.get("pool"),
    }
    spec = translator.get_asset_spec(KumoAssetProps(name, "export", target=target))
    if target.relation_identifier is not None:
        spec = spec.merge_attributes(metadata={target_entry(target): target.relation_identifier})
    spec = completed_spec(
        spec.replace_attributes(key=target.key) if target.key is not None else spec,
        deps=[upstream, *target.deps],
        automation_condition=target.automation_condition,
        options=options,
        asked=target.request(),
    )

    @dg.multi_asset(
        name=op_name([spec]),
        specs=[spec],
        partitions_def=partitions_def,
        required_resource_keys={resource_key},
        **op_options(options),
    )
    def export(context: dg.AssetExecutionContext) -> Any:
        check_has_run(context)
        kumo: KumoResource = getattr(context.resources, resource_key)
        upstream_key = key_in_run(context, export, upstream)
        yield from kumo.export(context, predictions=upstream_key, **target.arguments())

    return export
