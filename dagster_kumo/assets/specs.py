"""The specs of a model's assets, and the options that every factory passes on to Dagster."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import timedelta
from typing import Any, Literal, TypedDict

import dagster as dg

from dagster_kumo.assets.code_references import reference_to_caller
from dagster_kumo.assets.translator import DagsterKumoTranslator, KumoAssetProps
from dagster_kumo.execution.metadata import BATCH_PREDICTION, DEADLINE, OUTPUT_TYPE
from dagster_kumo.execution.partitions.anchor_time import check_anchor
from dagster_kumo.jobs.prediction_spec import BatchPrediction

PredictedKind = Literal["prediction_table", "predictions", "embeddings"]

_NAME = re.compile(r"[A-Za-z0-9_]+")


class AssetOptions(TypedDict, total=False):
    """Options that every factory passes on to Dagster.

    `group_name`, `owners`, `tags`, `kinds` and `metadata` apply to each asset, unless the translator
    sets others. The others are those of Dagster's `multi_asset`.
    """

    group_name: str | None
    """The group of the assets."""
    owners: Sequence[str]
    """The owners of the assets, such as `"team:growth"` or an email address."""
    tags: Mapping[str, str] | None
    """Tags of the assets."""
    kinds: AbstractSet[str]
    """Further kinds of the assets. Dagster shows three at most, and `kumo` is one."""
    metadata: Mapping[str, Any]
    """Further metadata of the definitions."""
    description: str | None
    """Instead of the translator's description: of the outputs, or of the export."""
    freshness_policy: dg.FreshnessPolicy | None
    """How late an output or an export may be. Dagster's daemon evaluates it."""
    code_version: str | None
    """By default a hash of what is asked from Kumo. Dagster shows when it has changed since an asset
    was materialized."""
    hooks: AbstractSet[dg.HookDefinition]
    """What runs when a step has succeeded or failed."""
    op_tags: Mapping[str, Any] | None
    """Tags of the op, which executors and run launchers read."""
    retry_policy: dg.RetryPolicy | None
    """When a failed step is retried. A retry attaches to the job that is already paid for."""
    pool: str | None
    """The pool that limits how many of these steps run at the same time."""
    backfill_policy: dg.BackfillPolicy | None
    """How a backfill is split into runs: a run for each partition by default."""


def prediction_specs(
    *,
    name: str,
    prediction: BatchPrediction,
    partitions_def: dg.PartitionsDefinition | None,
    deps: Iterable[Any],
    translator: DagsterKumoTranslator | None,
    io_manager_key: str,
    automation_condition: dg.AutomationCondition[Any] | None,
    deadline: timedelta | None,
    options: AssetOptions,
) -> list[dg.AssetSpec]:
    """The specs of a prediction's outputs, after that of its table if it generates one.

    Raises:
        ValueError: The definition is invalid.
    """
    check_name(name)
    if deadline is not None and deadline <= timedelta(0):
        raise ValueError(
            f"deadline={deadline!r} of {name!r} is no time after the end of a partition. Write "
            "deadline=timedelta(hours=3)."
        )
    check_anchor(prediction, partitions_def, name=name)
    translator = translator or DagsterKumoTranslator()
    specs: dict[dg.AssetKey, dg.AssetSpec] = {}
    upstream: list[Any] = asset_deps(deps)
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
            asked=prediction.to_json(),
        ).merge_attributes(metadata={BATCH_PREDICTION: dg.MetadataValue.json(prediction.to_json())})
        if kind == "prediction_table":
            specs[spec.key] = spec
            upstream.append(spec.key)
        else:
            entries: dict[str, Any] = {OUTPUT_TYPE: kind}
            if deadline is not None:
                entries[DEADLINE] = deadline.total_seconds()
            spec = spec.merge_attributes(metadata=entries)
            specs[spec.key] = spec.with_io_manager_key(io_manager_key)
    return list(specs.values())


def completed_spec(
    spec: dg.AssetSpec,
    *,
    deps: Iterable[Any],
    automation_condition: dg.AutomationCondition[Any] | None,
    options: AssetOptions,
    asked: Any = None,
) -> dg.AssetSpec:
    """The spec with the definition's additions. Values that the translator has set stay.

    `asked` is what materializing it asks from Kumo, as JSON; None if nothing materializes it.
    """
    tags = {k: v for k, v in (options.get("tags") or {}).items() if k not in spec.tags}
    owners = [owner for owner in options.get("owners", ()) if owner not in spec.owners]
    metadata = {**reference_to_caller(), **options.get("metadata", {})}
    spec = spec.merge_attributes(
        deps=asset_deps(deps),
        tags=tags,
        owners=owners,
        kinds={*options.get("kinds", ())},
        metadata={k: v for k, v in metadata.items() if k not in spec.metadata},
    ).replace_attributes(
        group_name=spec.group_name or options.get("group_name"),
        automation_condition=spec.automation_condition or automation_condition,
    )
    if asked is None:
        return spec
    version = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]
    return spec.replace_attributes(
        description=options.get("description") or spec.description,
        freshness_policy=spec.freshness_policy or options.get("freshness_policy"),
        code_version=spec.code_version or options.get("code_version") or version,
    )


def upstream_inputs(deps: Iterable[dg.AssetDep]) -> dict[str, dg.AssetDep]:
    """Names for the inputs of a graph of ops that stand for what is upstream, and is not loaded."""
    return {f"upstream_{number}": dep for number, dep in enumerate(deps)}


def nothing_ins(upstream: Mapping[str, dg.AssetDep]) -> dict[str, dg.AssetIn]:
    """Inputs by their names, which order the steps and load nothing."""
    return {
        name: dg.AssetIn(
            dep.asset_key, dagster_type=dg.Nothing, partition_mapping=dep.partition_mapping
        )
        for name, dep in upstream.items()
    }


def asset_deps(deps: Iterable[Any]) -> list[dg.AssetDep]:
    """The `deps` as Dagster takes them, one for each asset. A definition of several assets has several.

    Raises:
        ValueError: `deps` is not a list.
    """
    one = (
        str | dg.AssetKey | dg.AssetSpec | dg.AssetsDefinition | dg.AssetDep | dg.SourceAsset | None
    )
    if isinstance(deps, one):
        raise ValueError("deps is a list of assets or of their keys. Write deps=[...].")
    found: list[Any] = []
    for dep in deps:
        if isinstance(dep, dg.AssetsDefinition):
            found += [spec.key for spec in dep.specs]
        elif isinstance(dep, str):
            found.append(dg.AssetKey.from_user_string(dep))
        elif isinstance(dep, list) or type(dep) is tuple:  # not a named tuple, as Dagster's are
            parts: Sequence[Any] = dep
            is_key = all(isinstance(part, str) for part in parts)
            found += [dg.AssetKey(parts)] if is_key else asset_deps(parts)
        else:
            found.append(dep)
    return [dep if isinstance(dep, dg.AssetDep) else dg.AssetDep(dep) for dep in found]


def op_options(options: AssetOptions) -> dict[str, Any]:
    """The options that Dagster's `multi_asset` takes."""
    return {"op_tags": options.get("op_tags"), **_of_steps(options), **graph_options(options)}


def step_options(options: AssetOptions) -> dict[str, Any]:
    """The options that Dagster's `op` takes, for each step of a graph."""
    return {"tags": options.get("op_tags"), **_of_steps(options)}


def graph_options(options: AssetOptions) -> dict[str, Any]:
    """The options that Dagster's `graph_multi_asset` takes."""
    return {name: options.get(name) for name in ("backfill_policy", "hooks")}


def _of_steps(options: AssetOptions) -> dict[str, Any]:
    return {name: options.get(name) for name in ("retry_policy", "pool")}


def key_in_run(
    context: dg.AssetExecutionContext, assets_def: dg.AssetsDefinition, upstream: dg.AssetKey
) -> dg.AssetKey:
    """The key of an upstream asset now: loading a module under a prefix changes keys after they are defined."""
    return context.asset_key_for_input(assets_def.input_names_by_node_key[upstream])


def op_name(specs: Sequence[dg.AssetSpec]) -> str:
    """The name of the op for some assets, as Dagster derives it from an asset's key.

    The first output names it. No two assets have the same key, so no two ops have the same name.
    """
    first = next((spec for spec in specs if OUTPUT_TYPE in spec.metadata), specs[0])
    return first.key.to_python_identifier()


def check_name(name: str) -> None:
    """Refuse a name that cannot be the prefix of an asset key.

    Raises:
        ValueError: It contains other characters than letters, digits and underscores.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"name={name!r} begins asset keys: write it with letters, digits and underscores. For "
            "longer keys use a translator."
        )
