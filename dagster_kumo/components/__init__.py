"""Components: models as YAML, for projects without Python."""

from dagster_kumo.components.batch_prediction import KumoBatchPredictionComponent
from dagster_kumo.components.workspace import KumoWorkspaceComponent

__all__ = ["KumoBatchPredictionComponent", "KumoWorkspaceComponent"]
