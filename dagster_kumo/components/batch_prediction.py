"""`KumoBatchPredictionComponent`: everything for one model, with YAML only."""

# No `from __future__ import annotations`: Dagster looks at the annotations of fields as objects.

from dataclasses import dataclass
from typing import Annotated

import dagster as dg

from dagster_kumo.components.model_fields import ModelFields
from dagster_kumo.components.overridable import Overridable
from dagster_kumo.components.resources import ResolvedIOManager, ResolvedKumo
from dagster_kumo.components.scaffolding import BatchPredictionScaffolder


@dg.scaffold_with(BatchPredictionScaffolder)
@dataclass(kw_only=True)
class KumoBatchPredictionComponent(ModelFields, Overridable, dg.Component):
    """Batch predictions of one Kumo model: its assets, exports, checks and schedule.

    ```yaml
    type: dagster_kumo.KumoBatchPredictionComponent
    attributes:
      name: churn
      kumo:
        api_key: "{{ env.KUMO_API_KEY }}"
      io_manager:
        base_path: s3://bucket/predictions
      prediction:
        training_job_id: trainingjob-...
      partitions_def:
        type: daily
        start_date: 2026-11-01
    ```
    """

    name: Annotated[
        str,
        dg.Resolver.default(description="The model's name; the prefix of the asset keys."),
    ]
    kumo: ResolvedKumo = None
    io_manager: ResolvedIOManager = None

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:  # noqa: ARG002 - Dagster's signature
        """The definitions of the model."""
        return self.definitions(
            self.name, kumo=self.kumo, io_manager=self.io_manager, component=self
        )
