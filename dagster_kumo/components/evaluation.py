"""The sections `evaluation` and `evaluation_checks`."""

# No `from __future__ import annotations`: Dagster looks at the annotations of fields as objects.

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal

import dagster as dg

from dagster_kumo.assets.evaluation_asset import KumoEvaluation
from dagster_kumo.checks.evaluation_checks import build_kumo_evaluation_checks
from dagster_kumo.components.exports import asset_key
from dagster_kumo.components.policies import RETRY_POLICY
from dagster_kumo.components.sections import InYaml, Section

_EVALUATION = Section(
    KumoEvaluation,
    yaml={
        "outcomes": InYaml(str, asset_key),
        "window": InYaml(timedelta),
        "automation_condition": InYaml(str),
    },
)
_CHECKS = Section(
    build_kumo_evaluation_checks,
    omit=("asset", "partitions_def"),
    yaml={
        "reference": InYaml(Literal["holdout"] | int),
        "automation_condition": InYaml(str),
        "retry_policy": RETRY_POLICY,
    },
)

ResolvedEvaluation = Annotated[
    KumoEvaluation, dg.Resolver(_EVALUATION.make, model_field_type=_EVALUATION.model)
]
ResolvedEvaluationChecks = Annotated[
    Mapping[str, Any], dg.Resolver(_CHECKS.arguments, model_field_type=_CHECKS.model)
]
"""The arguments of `build_kumo_evaluation_checks`."""
