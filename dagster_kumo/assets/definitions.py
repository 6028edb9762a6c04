"""Everything of one model in one call: model, predictions, embeddings, exports."""

# No `from __future__ import annotations`: Dagster looks at the annotation of `context` as an object.

from collections.abc import Iterable, Sequence
from typing import Any

import dagster as dg
from typing_extensions import Unpack

from dagster_kumo.assets.asset_decorator import kumo_assets
from dagster_kumo.assets.export_asset import KumoExport, build_kumo_export_asset
from dagster_kumo.assets.fan_out import build_fanned_out_assets
from dagster_kumo.assets.specs import AssetOptions, completed_spec, op_options, prediction_specs
from dagster_kumo.assets.translator import DagsterKumoTranslator, KumoAssetProps
from dagster_kumo.io_manager.io_manager import DEFAULT_IO_MANAGER_KEY
from dagster_kumo.jobs.prediction_spec import BatchPrediction
from dagster_kumo.resource import DEFAULT_RESOURCE_KEY, KumoResource


def build_kumo_assets_definitions(
    *,
    name: str,
    prediction: BatchPrediction,
    exports: Sequence[KumoExport] = (),
    partitions_def: dg.PartitionsDefinition | None = None,
    deps: Iterable[Any] = (),
    translator: DagsterKumoTranslator | None = None,
    resource_key: str = DEFAULT_RESOURCE_KEY,
    io_manager_key: str = DEFAULT_IO_MANAGER_KEY,
    automation_condition: dg.AutomationCondition[Any] | None = None,
    fan_out: bool = False,
    **options: Unpack[AssetOptions],
) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """Make all assets of one model.

    The trained model is an external asset `<name>/model`: Kumo trains it from the tables in `deps`,
    and the predictions depend on it. Each run that predicts with it shows there what is known of it:
    its query, its numbers on the holdout data, its age. The predictions depend on the tables too,
    which Kumo reads anew for each prediction: in a run that makes both, the tables come first. Then
    there are `<name>/predictions`, `<name>/embeddings` if the prediction asks for them,
    `<name>/prediction_table` if it generates one, and one asset for each export.

    Args:
        name: the model's name; the prefix of the keys.
        prediction: what to run.
        exports: what Kumo writes to warehouses and buckets once the predictions are there.
        partitions_def: the partitions of predictions, embeddings and exports.
        deps: the source tables that the model reads, as `deps` of any asset.
        translator: changes the specs.
        resource_key: the key of the `KumoResource`.
        io_manager_key: the key of the `KumoIOManager`.
        automation_condition: for predictions and embeddings; an export has its own.
        fan_out: whether each of Kumo's files is brought by a step of its own, so that the executor
            spreads them over processes or machines. One partition a run; `op_tags`, `retry_policy`
            and `pool` hold for each step.
        options: see `AssetOptions`.

    Raises:
        ValueError: the definition cannot be; the message says what to write instead.

    Examples:
        >>> import dagster as dg
        >>> assets = build_kumo_assets_definitions(
        ...     name="churn",
        ...     prediction=BatchPrediction(training_job_id="trainingjob-1"),
        ...     partitions_def=dg.DailyPartitionsDefinition(start_date="2026-01-01"),
        ...     deps=["customers", "orders"],
        ... )
        >>> [asset.key.to_user_string() for asset in assets]  # a spec for the model, then definitions
        ['churn/model', 'churn/predictions']
    """
    translator = translator or DagsterKumoTranslator()
    tables = [dg.AssetDep(dep) if not isinstance(dep, dg.AssetDep) else dep for dep in deps]
    model = completed_spec(
        translator.get_asset_spec(KumoAssetProps(name, "model", prediction)),
        # Without their partition mappings: those map to the partitions of the predictions.
        deps=[table.asset_key for table in tables],
        automation_condition=None,
        options=options,
    )

    about: dict[str, Any] = {
        "name": name,
        "prediction": prediction,
        "partitions_def": partitions_def,
        "deps": [model.key, *tables],
        "translator": translator,
        "io_manager_key": io_manager_key,
        "automation_condition": automation_condition,
    }
    if fan_out:
        predictions = build_fanned_out_assets(
            name=name,
            specs=prediction_specs(**about, options=options),
            prediction=prediction,
            model=model.key,
            partitions_def=partitions_def,
            resource_key=resource_key,
            io_manager_key=io_manager_key,
            op_options=op_options(options),
        )
    else:

        @kumo_assets(**about, required_resource_keys={resource_key}, **options)
        def predictions(context: dg.AssetExecutionContext) -> Any:
            kumo: KumoResource = getattr(context.resources, resource_key)
            yield from kumo.predict(context, model=model.key)

    built = [
        build_kumo_export_asset(
            name=name,
            predictions=predictions,
            connector=export.connector,
            table_name=export.table_name,
            output_type=export.output_type,
            write_mode=export.write_mode,
            metadata_fields=export.metadata_fields,
            key=export.key,
            translator=translator,
            resource_key=resource_key,
            automation_condition=export.automation_condition,
            **options,
        )
        for export in exports
    ]
    _check_keys([model.key, *predictions.keys, *(key for export in built for key in export.keys)])
    return [model, predictions, *built]


def _check_keys(keys: Sequence[dg.AssetKey]) -> None:
    twice = sorted({key.to_user_string() for key in keys if keys.count(key) > 1})
    if twice:
        raise ValueError(
            f"Two assets have the key {', '.join(twice)}. Give one of the exports a key of its own: "
            "KumoExport(..., key=dg.AssetKey([...]))."
        )
