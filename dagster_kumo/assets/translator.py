"""How Kumo's objects become asset specs, and where users change that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import dagster as dg

from dagster_kumo.api.connectors import Connector, TableName
from dagster_kumo.api.records import OutputType
from dagster_kumo.execution.metadata import target_entry
from dagster_kumo.jobs.prediction_spec import BatchPrediction

KINDS_OF_STORAGE = {"gcs": "googlecloud", "adls": "azure"}  # where Dagster's icon has another name


@dataclass(frozen=True)
class KumoAssetProps:
    """What is known of an asset when its spec is made.

    Attributes:
        name: the name that the assets of one model share.
        kind: what the asset stands for.
        prediction: what runs; None for an export that only knows its upstream's key.
        output_type: for an export, which output it writes.
        connector: for an export, where to.
        table_name: for an export, the table or folder.
    """

    name: str
    kind: Literal["model", "prediction_table", "predictions", "embeddings", "export"]
    prediction: BatchPrediction | None = None
    output_type: OutputType | None = None
    connector: Connector | None = None
    table_name: TableName | None = None


class DagsterKumoTranslator:
    """Makes the asset spec of each asset. Override `get_asset_spec` to change keys, groups, owners,
    tags or deps.

    Examples:
        >>> class MyTranslator(DagsterKumoTranslator):
        ...     def get_asset_spec(self, props: KumoAssetProps) -> dg.AssetSpec:
        ...         spec = super().get_asset_spec(props)
        ...         return spec.replace_attributes(key=spec.key.with_prefix("kumo"), group_name="ml")
        >>> prediction = BatchPrediction(training_job_id="trainingjob-1")
        >>> MyTranslator().get_asset_spec(KumoAssetProps("churn", "predictions", prediction)).key
        AssetKey(['kumo', 'churn', 'predictions'])
    """

    def get_asset_spec(self, props: KumoAssetProps) -> dg.AssetSpec:
        """The spec of one asset: key, description, kinds and what it depends on."""
        if props.kind == "model":
            return dg.AssetSpec(
                [props.name, "model"],
                description=f"The trained model behind {props.name}.\n\n{_model(props.prediction)}",
                kinds={"kumo"},
            )
        if props.kind == "export":
            return _export_spec(props)
        if props.kind == "prediction_table":
            return dg.AssetSpec(
                [props.name, "prediction_table"],
                description=(
                    "For whom and as of when the model predicts: a table that Kumo makes.\n\n"
                    f"{_model(props.prediction)}"
                ),
                kinds={"kumo"},
            )
        what = {
            "predictions": "What the model predicts for each entity.",
            "embeddings": "The vector that the model has for each entity.",
        }[props.kind]
        return dg.AssetSpec(
            [props.name, props.kind],
            description=f"{what}\n\n{_model(props.prediction)}",
            kinds={"kumo", "parquet"},
        )


def _model(prediction: BatchPrediction | None) -> str:
    if prediction is None:
        return ""
    if prediction.training_job_id:
        return f"Training job `{prediction.training_job_id}`."
    tags = ", ".join(f"`{k}={v}`" for k, v in (prediction.training_job_tags or {}).items())
    return f"The newest training job that carries the tags {tags}."


def _export_spec(props: KumoAssetProps) -> dg.AssetSpec:
    if props.connector is None or props.output_type is None or props.table_name is None:
        raise ValueError("The props of an export need connector, output_type and table_name.")
    storage = props.connector.storage
    target = props.connector.display_name(props.table_name, props.output_type)
    return dg.AssetSpec(
        [props.name, f"{props.output_type}_in_{storage}"],
        description=f"The {props.output_type} of {props.name}, written by Kumo to {target}.",
        kinds={"kumo", KINDS_OF_STORAGE.get(storage, storage)},
        metadata={target_entry(props.connector): target},
    )
