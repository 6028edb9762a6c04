"""The section `checks`."""

# No `from __future__ import annotations`: Dagster looks at the annotations of fields as objects.

from collections.abc import Mapping
from typing import Annotated, Any

import dagster as dg

from dagster_kumo.checks.check_builder import build_kumo_prediction_checks
from dagster_kumo.components.policies import RETRY_POLICY
from dagster_kumo.components.sections import InYaml, Section

_CHECKS = Section(
    build_kumo_prediction_checks,
    omit=("asset", "partitions_def", "io_manager_key", "resource_key"),
    yaml={"automation_condition": InYaml(str), "retry_policy": RETRY_POLICY},
)

ResolvedChecks = Annotated[
    Mapping[str, Any], dg.Resolver(_CHECKS.arguments, model_field_type=_CHECKS.model)
]
"""The arguments of `build_kumo_prediction_checks`."""
