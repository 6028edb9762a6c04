"""The section `training`."""

# No `from __future__ import annotations`: Dagster looks at the annotations of fields as objects.

from typing import Annotated, Any

import dagster as dg

from dagster_kumo.assets.candidate_asset import KumoTraining
from dagster_kumo.components.policies import RETRY_POLICY
from dagster_kumo.components.sections import InYaml, Section
from dagster_kumo.jobs.promotion_gate import PromotionGate


def _gate(given: Any) -> Any:
    return PromotionGate(**given) if isinstance(given, dict) else given


TRAINING = Section(
    KumoTraining,
    yaml={
        "automation_condition": InYaml(str),
        "retry_policy": RETRY_POLICY,
        "gate": InYaml(Section(PromotionGate).model, _gate),
    },
)

ResolvedTraining = Annotated[
    KumoTraining, dg.Resolver(TRAINING.make, model_field_type=TRAINING.model)
]
