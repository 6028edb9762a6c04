"""The section `checks`."""

# No `from __future__ import annotations`: Dagster looks at the annotations of fields as objects.

from collections.abc import Mapping
from typing import Annotated, Any

import dagster as dg
from pydantic import BaseModel

from dagster_kumo.checks.check_builder import build_kumo_prediction_checks
from dagster_kumo.components.policies import RetryPolicySection, retry_policy
from dagster_kumo.components.sections import Section

_CHECKS = Section(
    build_kumo_prediction_checks,
    omit=("asset", "partitions_def", "io_manager_key"),
    yaml={"automation_condition": str, "retry_policy": RetryPolicySection},
)


def _resolve_checks(context: dg.ResolutionContext, given: BaseModel) -> Mapping[str, Any]:
    arguments = _CHECKS.arguments(context, given)
    if isinstance(arguments.get("retry_policy"), dict):
        arguments["retry_policy"] = retry_policy(**arguments["retry_policy"])
    return _CHECKS.checked(arguments)


ResolvedChecks = Annotated[
    Mapping[str, Any], dg.Resolver(_resolve_checks, model_field_type=_CHECKS.model)
]
"""The arguments of `build_kumo_prediction_checks`."""
