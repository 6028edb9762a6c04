"""Assets of one model: its outputs by `@kumo_assets`, their exports by `build_kumo_export_asset`."""

# No `from __future__ import annotations`: Dagster looks at the annotation of `context` as an object.

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypedDict

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
from dagster_kumo.assets.translator import DagsterKumoTranslator, KumoAssetProps
from dagster_kumo.execution.export_run import names_partition
from dagster_kumo.execution.metadata import BATCH_PREDICTION, OUTPUT_TYPE
from dagster_kumo.execution.partitions.anchor_time import check_anchor
from dagster_kumo.io_manager.io_manager import DEFAULT_IO_MANAGER_KEY
from dagster_kumo.jobs.prediction_spec import BatchPrediction
from dagster_kumo.resource import DEFAULT_RESOURCE_KEY, KumoResource

PredictedKind = Literal["prediction_table", "predictions", "embeddings"]

_NAME = re.compile(r"[A-Za-z0-9_]+")


class AssetOptions(TypedDict, total=False):
    """Options that every factory passes on to Dagster.

    `group_name`, `owners` and `tags` hold for each asset, where the translator sets none; the others
    are those of Dagster's `multi_asset`.
    """

    group_name: str | None
    owners: Sequence[str]
    tags: Mapping[str, str] | None
    op_tags: Mapping[str, Any] | None
    retry_policy: dg.RetryPolicy | None
    pool: str | None
    backfill_policy: dg.BackfillPolicy | None


def kumo_assets(
    *,
    name: str,
    prediction: BatchPrediction,
    partitions_def: dg.PartitionsDefinition | None = None,
    deps: Iterable[Any] = (),
    translator: DagsterKumoTranslator | None = None,
    io_manager_key: str = DEFAULT_IO_MANAGER_KEY,
    automation_condition: dg.AutomationCondition[Any] | None = None,
    required_resource_keys: set[str] | None = None,
    **options: Unpack[AssetOptions],
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Make the outputs of a batch prediction assets: `<name>/predictions` and `<name>/embeddings`.

    They share one Kumo job and can be materialized apart. With time partitions, the anchor time of
    the job is the end (or the start) of the partition's window. A prediction that generates its table
    first (`prediction_table="generate"`) has it as an asset `<name>/prediction_table`.

    Args:
        name: the model's name; the prefix of the keys.
        prediction: what to run.
        partitions_def: the partitions of the assets, one job for each.
        deps: what the predictions depend on, as `deps` of any asset: the model's source tables.
        translator: changes keys, groups, owners, tags or deps of the specs.
        io_manager_key: the I/O manager that stores the outputs, a `KumoIOManager`.
        automation_condition: when the outputs are to be materialized by themselves.
        required_resource_keys: resources that the function takes from its context, by their keys.
        options: see `AssetOptions`.

    Raises:
        ValueError: the definition cannot be; the message says what to write instead.

    Examples:
        >>> import dagster as dg
        >>> @kumo_assets(name="churn", prediction=BatchPrediction(training_job_id="trainingjob-1"))
        ... def churn(context: dg.AssetExecutionContext, kumo: KumoResource):
        ...     yield from kumo.predict(context)
        >>> churn.keys
        {AssetKey(['churn', 'predictions'])}
    """
    specs = prediction_specs(
        name=name,
        prediction=prediction,
        partitions_def=partitions_def,
        deps=deps,
        translator=translator,
        io_manager_key=io_manager_key,
        automation_condition=automation_condition,
        options=options,
    )
    return dg.multi_asset(
        name=name,
        specs=specs,
        partitions_def=partitions_def,
        can_subset=len(specs) > 1,
        required_resource_keys=required_resource_keys,
        **op_options(options),
    )


def build_kumo_export_asset(
    *,
    name: str,
    predictions: dg.AssetsDefinition | dg.AssetKey | str | Sequence[str],
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
    """Make an asset of a table or a folder that Kumo writes from an output of its own.

    Args:
        name: the model's name; the default key is `<name>/<output_type>_in_<storage>`.
        predictions: the assets made by `@kumo_assets`, or the key of one. The job behind its latest
            materialization is exported.
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
        automation_condition: when the export is to be materialized by itself.
        options: see `AssetOptions`.

    Raises:
        ValueError: the connector has no room for an option, or the upstream lacks the output.

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
    _check_name(name)
    prediction_output(
        output_type, connector, table_name, metadata_fields=metadata_fields, write_mode=write_mode
    )
    upstream = _key_of_output(predictions, output_type)
    if partitions_def is None and isinstance(predictions, dg.AssetsDefinition):
        partitions_def = predictions.partitions_def
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
        name=re.sub(r"[^A-Za-z0-9_]", "_", "__".join(spec.key.path)),
        specs=[spec],
        partitions_def=partitions_def,
        required_resource_keys={resource_key},
        **op_options(options),
    )
    def export(context: dg.AssetExecutionContext) -> Any:
        kumo: KumoResource = getattr(context.resources, resource_key)
        yield from kumo.export(
            context,
            predictions=upstream,
            connector=connector,
            table_name=table_name,
            output_type=output_type,
            write_mode=write_mode,
            metadata_fields=metadata_fields,
        )

    return export


def prediction_specs(
    *,
    name: str,
    prediction: BatchPrediction,
    partitions_def: dg.PartitionsDefinition | None,
    deps: Iterable[Any],
    translator: DagsterKumoTranslator | None,
    io_manager_key: str,
    automation_condition: dg.AutomationCondition[Any] | None,
    options: AssetOptions,
) -> list[dg.AssetSpec]:
    """The specs of a prediction's outputs, after that of its table if it generates one.

    Raises:
        ValueError: the definition cannot be.
    """
    _check_name(name)
    check_anchor(prediction, partitions_def, name=name)
    translator = translator or DagsterKumoTranslator()
    specs: dict[dg.AssetKey, dg.AssetSpec] = {}
    upstream = list(deps)
    table: tuple[PredictedKind, ...] = ("prediction_table",) if prediction.generates_table else ()
    for kind in (*table, *prediction.outputs):
        spec = translator.get_asset_spec(KumoAssetProps(name, kind, prediction))
        if spec.key in specs:
            raise ValueError(
                f"The translator gives two assets of {name!r} the key {spec.key.to_user_string()!r}. "
                "Make the key depend on props.kind."
            )
        spec = completed_spec(
            spec,
            deps=upstream,
            automation_condition=automation_condition,
            options=options,
        ).merge_attributes(metadata={BATCH_PREDICTION: dg.MetadataValue.json(prediction.to_json())})
        if kind == "prediction_table":
            specs[spec.key] = spec
            upstream.append(spec.key)
        else:
            spec = spec.merge_attributes(metadata={OUTPUT_TYPE: kind})
            specs[spec.key] = spec.with_io_manager_key(io_manager_key)
    return list(specs.values())


def completed_spec(
    spec: dg.AssetSpec,
    *,
    deps: Iterable[Any],
    automation_condition: dg.AutomationCondition[Any] | None,
    options: AssetOptions,
) -> dg.AssetSpec:
    """The spec with what the definition adds; what the translator has set stays."""
    tags = {k: v for k, v in (options.get("tags") or {}).items() if k not in spec.tags}
    owners = [owner for owner in options.get("owners", ()) if owner not in spec.owners]
    return spec.merge_attributes(deps=deps, tags=tags, owners=owners).replace_attributes(
        group_name=spec.group_name or options.get("group_name"),
        automation_condition=spec.automation_condition or automation_condition,
    )


def op_options(options: AssetOptions) -> dict[str, Any]:
    """The options that Dagster's `multi_asset` takes."""
    names = ("op_tags", "retry_policy", "pool", "backfill_policy")
    return {name: options.get(name) for name in names}


def _key_of_output(
    predictions: dg.AssetsDefinition | dg.AssetKey | str | Sequence[str], output_type: OutputType
) -> dg.AssetKey:
    if not isinstance(predictions, dg.AssetsDefinition):
        return dg.AssetKey.from_coercible(predictions)
    by_type = {
        metadata[OUTPUT_TYPE]: key
        for key, metadata in predictions.metadata_by_key.items()
        if OUTPUT_TYPE in metadata
    }
    if output_type not in by_type:
        raise ValueError(
            f"{predictions.node_def.name!r} has no {output_type} to export, only {', '.join(by_type) or 'none'}. "
            f"Write BatchPrediction(outputs=(..., {output_type!r})), or export another output_type."
        )
    return by_type[output_type]


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"name={name!r} names an op and begins asset keys: write it with letters, digits and "
            "underscores. For longer keys use a translator."
        )
