"""`KumoWorkspaceComponent`: all trained models of a deployment, with YAML only."""

# No `from __future__ import annotations`: Dagster looks at the annotations of fields as objects.

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import dagster as dg
from dagster.components import DefsStateConfig, DefsStateConfigArgs, ResolvedDefsStateConfig
from pydantic import BaseModel, create_model

from dagster_kumo.components.model_fields import PREDICTION, ModelFields
from dagster_kumo.components.named_fields import NamedFieldsResolvable
from dagster_kumo.components.overridable import Overridable
from dagster_kumo.components.resources import ResolvedIOManager, ResolvedKumo
from dagster_kumo.components.scaffolding import WorkspaceScaffolder
from dagster_kumo.components.trained_models import (
    ModelSelection,
    TrainedModel,
    find_trained_models,
    models_from_json,
    models_to_json,
)
from dagster_kumo.jobs.prediction_spec import BatchPrediction
from dagster_kumo.resource import KumoResource

AssetsOfModel = Callable[[TrainedModel], ModelFields]

_Section: Any = ModelFields.model()
_AssetsSection = create_model(
    "AssetsSection",
    __base__=_Section,
    prediction=(_Section.model_fields["prediction"].annotation, PREDICTION.model()),
)
"""In a workspace, `prediction` does not have to name a model."""


def _resolve_assets(context: dg.ResolutionContext, given: Any) -> AssetsOfModel:
    def of_model(model: TrainedModel) -> ModelFields:
        section = given.model_copy(
            update={
                "prediction": _with_training_job(given.prediction, model),
                "training": _with_query(given.training, model),
            }
        )
        return ModelFields.resolve_from_model(context.with_scope(model=model), section)

    return of_model


def _with_training_job(prediction: Any, model: TrainedModel) -> Any:
    if not isinstance(prediction, BaseModel) or prediction.model_fields_set & {
        "training_job_id",
        "training_job_tags",
        "champion_of",
    }:
        return prediction
    return prediction.model_copy(update={"training_job_id": model.training_job_id})


def _with_query(training: Any, model: TrainedModel) -> Any:
    if not isinstance(training, BaseModel) or training.model_fields_set & {"query", "like"}:
        return training
    return training.model_copy(update={"query": model.query_id})


def _assets_by_default(model: TrainedModel) -> ModelFields:
    return ModelFields(prediction=BatchPrediction(training_job_id=model.training_job_id))


@cache  # Dagster may load the definitions twice
def _warn_that_no_models_are_known(selection: str) -> None:
    dg.get_dagster_logger().warning(
        f"No models known yet ({selection}): run `dg utils refresh-defs-state`."
    )


def _kept_beside_the_yaml() -> DefsStateConfigArgs:
    # No refresh in `dg dev`: definitions load without a network.
    return DefsStateConfigArgs.local_filesystem().model_copy(update={"refresh_if_dev": False})


@dg.scaffold_with(WorkspaceScaffolder)
@dataclass(kw_only=True)
class KumoWorkspaceComponent(NamedFieldsResolvable, Overridable, dg.StateBackedComponent):
    """Batch predictions of all trained Kumo models, or those with some tags, by their queries.

    For each predictive query, the newest model predicts. `dg utils refresh-defs-state` finds the models
    and stores them as state. Definitions load from the state, without a network.

    ```yaml
    type: dagster_kumo.KumoWorkspaceComponent
    attributes:
      kumo:
        api_key: "{{ env.KUMO_API_KEY }}"
      io_manager:
        base_path: s3://bucket/predictions
      models:
        tags:
          team: growth
      assets:
        partitions_def:
          type: daily
          start_date: 2026-11-01
    ```
    """

    kumo: ResolvedKumo = None
    io_manager: ResolvedIOManager = None
    models: Annotated[
        ModelSelection,
        dg.Resolver.default(description="Which trained models. The default is all."),
    ] = field(default_factory=ModelSelection)
    assets: Annotated[
        AssetsOfModel,
        dg.Resolver(
            _resolve_assets,
            model_field_type=_AssetsSection,
            inject_before_resolve=False,
            description=(
                "For each model: the attributes of KumoBatchPredictionComponent. In templates, `model` is "
                "the model."
            ),
        ),
    ] = _assets_by_default
    defs_state: ResolvedDefsStateConfig = field(default_factory=_kept_beside_the_yaml)

    @property
    def defs_state_config(self) -> DefsStateConfig:
        """Where the state is stored. Its key says which models it has."""
        return DefsStateConfig.from_args(
            self.defs_state, default_key=f"{type(self).__name__}[{self.models}]"
        )

    def write_state_to_path(self, state_path: Path) -> None:
        """Find the trained models and store them.

        Raises:
            KumoModelError: There is none, or two share a name.
        """
        kumo = (self.kumo or KumoResource()).process_config_and_initialize()
        models = find_trained_models(kumo.get_client(), self.models)
        state_path.write_text(models_to_json(models), encoding="utf-8")

    def build_defs_from_state(
        self,
        context: dg.ComponentLoadContext,  # noqa: ARG002 - Dagster's signature
        state_path: Path | None,
    ) -> dg.Definitions:
        """The definitions of each model in the state; none before the first refresh."""
        if state_path is None:
            _warn_that_no_models_are_known(str(self.models))
            return dg.Definitions()
        models = models_from_json(state_path.read_text(encoding="utf-8"))
        return dg.Definitions.merge(
            *(
                self.assets(model).definitions(
                    model.name, kumo=self.kumo, io_manager=self.io_manager, component=self
                )
                for model in models
            )
        )
