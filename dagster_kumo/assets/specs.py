"""The specs of a model's assets, and the options that every factory passes on to Dagster."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypedDict

import dagster as dg

from dagster_kumo.assets.translator import DagsterKumoTranslator, KumoAssetProps
from dagster_kumo.execution.metadata import BATCH_PREDICTION, OUTPUT_TYPE
from dagster_kumo.execution.partitions.anchor_time import check_anchor
from dagster_kumo.jobs.prediction_spec import BatchPrediction

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
    check_name(name)
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


def check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"name={name!r} names an op and begins asset keys: write it with letters, digits and "
            "underscores. For longer keys use a translator."
        )
