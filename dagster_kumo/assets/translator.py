"""The asset specs of Kumo's objects. Users override them here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import dagster as dg

from dagster_kumo.api.connectors import Connector, TableName
from dagster_kumo.api.records import OUTPUT_TYPES, OutputType
from dagster_kumo.execution.metadata import storage_kind, target_entry
from dagster_kumo.jobs.export_target import ExportTarget
from dagster_kumo.jobs.prediction_spec import BatchPrediction
from dagster_kumo.jobs.training_spec import TrainingSpec

_ICONS = {"gcs": "googlecloud", "adls": "azure"}
"""The kinds of storages whose icon in Dagster has another name."""
_DESCRIPTIONS = {
    "candidate": "A training job for {name}, {training}. It does not predict until it is promoted.",
    "model": "Trained model of {name}.",
    "prediction_table": "The entities and the anchor time to predict for: a table that Kumo generates.",
    "predictions": "Predictions of {name} for each entity.",
    "embeddings": "Embeddings of {name}, a vector for each entity.",
    "evaluation": "Predictions of {name} beside the actual outcomes, with metrics.",
}


@dataclass(frozen=True)
class KumoAssetProps:
    """What a translator knows about an asset.

    Attributes:
        name: The name that the assets of one model share.
        kind: What kind of asset it is.
        prediction: What runs; None for an export and for a candidate.
        target: Of an export, what it writes and where to.
        training: Of a candidate, what is trained.
    """

    name: str
    kind: Literal[
        "candidate",
        "model",
        "prediction_table",
        "predictions",
        "embeddings",
        "export",
        "evaluation",
    ]
    prediction: BatchPrediction | None = None
    target: ExportTarget | None = None
    training: TrainingSpec | None = None

    @property
    def connector(self) -> Connector | None:
        """Of an export, where to."""
        return self.target.connector if self.target else None

    @property
    def table_name(self) -> TableName | None:
        """Of an export, the table or folder."""
        return self.target.table_name if self.target else None

    @property
    def output_type(self) -> OutputType | None:
        """Of an export, which output it writes."""
        return self.target.output_type if self.target else None


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
        """The spec of one asset: key, description, kinds and dependencies."""
        if props.target is not None:
            return _export_spec(props.name, props.target)
        training = props.training.said if props.training else ""
        what = _DESCRIPTIONS[props.kind].format(name=props.name, training=training)
        return dg.AssetSpec(
            [props.name, props.kind],
            description=f"{what}\n\n{_model(props.prediction)}".rstrip(),
            kinds={"kumo", "parquet"} if props.kind in (*OUTPUT_TYPES, "evaluation") else {"kumo"},
        )


def _model(prediction: BatchPrediction | None) -> str:
    if prediction is None:
        return ""
    if prediction.training_job_id:
        return f"Training job `{prediction.training_job_id}`."
    if prediction.champion_of:
        return (
            f"The champion of `{prediction.champion_of}`: the training job that was promoted last."
        )
    tags = ", ".join(f"`{k}={v}`" for k, v in (prediction.training_job_tags or {}).items())
    return f"The newest training job that carries the tags {tags}."


def _export_spec(name: str, target: ExportTarget) -> dg.AssetSpec:
    description = f"The {target.output_type} of {name}, written by Kumo to {target.full_name}."
    if target.storage == "snowflake":
        table = target.full_name.rpartition(".")[2]
        description += f'\n\nThe name has small letters, so SQL has to quote it: "{table}".'
    return dg.AssetSpec(
        [name, f"{target.output_type}_in_{target.storage}"],
        description=description,
        kinds={"kumo", _ICONS.get(target.storage, target.storage)},
        metadata={target_entry(target): target.full_name, **storage_kind(target)},
    )
