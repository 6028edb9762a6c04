"""The sections `evaluation` and `evaluation_checks`."""

# No `from __future__ import annotations`: Dagster looks at the annotations of fields as objects.

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal

import dagster as dg
from dateutil.relativedelta import relativedelta
from pydantic import Field

from dagster_kumo.assets.evaluation_asset import KumoEvaluation
from dagster_kumo.checks.evaluation_checks import build_kumo_evaluation_checks
from dagster_kumo.components.exports import asset_key
from dagster_kumo.components.policies import RETRY_POLICY
from dagster_kumo.components.sections import InYaml, Section

# Pydantic reads "30 days" and ISO 8601.
_IN_WORDS = r"^(\d+) (hour|week|month|year)s?$"


def _window(given: Any) -> Any:
    """A length of time. Months and years are those of the calendar."""
    found = re.match(_IN_WORDS, given) if isinstance(given, str) else None
    return relativedelta(**{f"{found[2]}s": int(found[1])}) if found else given  # pyright: ignore[reportArgumentType] - a unit of time


_EVALUATION = Section(
    KumoEvaluation,
    yaml={
        "outcomes": InYaml(str, asset_key),
        "window": InYaml(timedelta | Annotated[str, Field(pattern=_IN_WORDS)], _window),
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
