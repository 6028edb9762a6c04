"""Dagster integration for Kumo: batch predictions, embeddings and exports as assets.

The plain Python side (`KumoClient`, jobs, `Predictions`, connectors, errors) works without a Dagster instance.
The rest maps it to Dagster.
"""

from typing import TYPE_CHECKING, Any

from dagster_shared.libraries import DagsterLibraryRegistry

from dagster_kumo.api.client import KumoClient
from dagster_kumo.api.connectors import (
    ADLSConnector,
    BigQueryConnector,
    DatabricksConnector,
    GCSConnector,
    S3Connector,
    SnowflakeConnector,
)
from dagster_kumo.api.errors import (
    KumoAPIError,
    KumoAuthenticationError,
    KumoConnectionError,
    KumoDataError,
    KumoError,
    KumoJobFailedError,
    KumoModelError,
    KumoNotFoundError,
    KumoTimeoutError,
    KumoValidationError,
    KumoWindowError,
)
from dagster_kumo.api.records import BatchPredictionJobSummary, JobStatusReport
from dagster_kumo.assets.asset_decorator import kumo_assets
from dagster_kumo.assets.candidate_asset import KumoTraining, retrain_after_failed_checks
from dagster_kumo.assets.definitions import KumoModelAssets, build_kumo_assets_definitions
from dagster_kumo.assets.evaluation_asset import KumoEvaluation, build_kumo_evaluation_asset
from dagster_kumo.assets.export_asset import KumoExport, build_kumo_export_asset
from dagster_kumo.assets.translator import DagsterKumoTranslator, KumoAssetProps
from dagster_kumo.checks.check_builder import build_kumo_prediction_checks
from dagster_kumo.checks.evaluation.due import evaluation_partitions_due
from dagster_kumo.checks.evaluation_checks import build_kumo_evaluation_checks
from dagster_kumo.execution.launch.held_run import HOLD_UNTIL_DONE
from dagster_kumo.execution.partitions.concurrent_jobs import KumoPartitionsError
from dagster_kumo.execution.run_config import KumoRunConfig, KumoTrainingRunConfig
from dagster_kumo.io_manager.io_manager import KumoIOManager
from dagster_kumo.jobs.batch_prediction import BatchPredictionJob, BatchPredictionJobResult
from dagster_kumo.jobs.export import ArtifactExportJob
from dagster_kumo.jobs.prediction_spec import BatchPrediction
from dagster_kumo.jobs.prediction_table import PredictionTable, PredictionTableJob
from dagster_kumo.jobs.promotion_gate import PromotionGate
from dagster_kumo.jobs.training_job import TrainingJob, TrainingJobResult
from dagster_kumo.predictions.predictions import Predictions
from dagster_kumo.resource import KumoResource, LocalKumoResource, SnowflakeCredentials
from dagster_kumo.sensor.hold.sensor_builder import build_kumo_hold_sensor
from dagster_kumo.sensor.sensor_builder import build_kumo_sensor
from dagster_kumo.version import __version__

if TYPE_CHECKING:
    from dagster_kumo.components import KumoBatchPredictionComponent, KumoWorkspaceComponent

__all__ = [
    "HOLD_UNTIL_DONE",
    "ADLSConnector",
    "ArtifactExportJob",
    "BatchPrediction",
    "BatchPredictionJob",
    "BatchPredictionJobResult",
    "BatchPredictionJobSummary",
    "BigQueryConnector",
    "DagsterKumoTranslator",
    "DatabricksConnector",
    "GCSConnector",
    "JobStatusReport",
    "KumoAPIError",
    "KumoAssetProps",
    "KumoAuthenticationError",
    "KumoBatchPredictionComponent",
    "KumoClient",
    "KumoConnectionError",
    "KumoDataError",
    "KumoError",
    "KumoEvaluation",
    "KumoExport",
    "KumoIOManager",
    "KumoJobFailedError",
    "KumoModelAssets",
    "KumoModelError",
    "KumoNotFoundError",
    "KumoPartitionsError",
    "KumoResource",
    "KumoRunConfig",
    "KumoTimeoutError",
    "KumoTraining",
    "KumoTrainingRunConfig",
    "KumoValidationError",
    "KumoWindowError",
    "KumoWorkspaceComponent",
    "LocalKumoResource",
    "PredictionTable",
    "PredictionTableJob",
    "Predictions",
    "PromotionGate",
    "S3Connector",
    "SnowflakeConnector",
    "SnowflakeCredentials",
    "TrainingJob",
    "TrainingJobResult",
    "__version__",
    "build_kumo_assets_definitions",
    "build_kumo_evaluation_asset",
    "build_kumo_evaluation_checks",
    "build_kumo_export_asset",
    "build_kumo_hold_sensor",
    "build_kumo_prediction_checks",
    "build_kumo_sensor",
    "evaluation_partitions_due",
    "kumo_assets",
    "retrain_after_failed_checks",
]

DagsterLibraryRegistry.register("dagster-kumo", __version__, is_dagster_package=False)


# Components are loaded on first use: their schemas take a fifth of the whole import, and only YAML needs them.
# Dagster finds them with dir() and getattr().
def __getattr__(name: str) -> Any:
    if name in ("KumoBatchPredictionComponent", "KumoWorkspaceComponent"):
        from dagster_kumo import components

        return getattr(components, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
