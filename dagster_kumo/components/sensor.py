"""The section `sensor`."""

# No `from __future__ import annotations`: Dagster looks at the annotations of fields as objects.

from collections.abc import Mapping
from typing import Annotated, Any

import dagster as dg

from dagster_kumo.components.sections import InYaml, Section
from dagster_kumo.sensor.sensor_builder import build_kumo_sensor

_SENSOR = Section(
    build_kumo_sensor,
    omit=("assets", "resource_key"),
    yaml={
        "name": InYaml(str | None),
        "default_status": InYaml(str, dg.DefaultSensorStatus),
    },
)

ResolvedSensor = Annotated[
    Mapping[str, Any] | None,
    dg.Resolver(
        _SENSOR.arguments,
        model_field_type=_SENSOR.model,
        description="Finds prediction jobs that were launched outside Dagster. `{}`: with its defaults.",
    ),
]
"""The arguments of `build_kumo_sensor`."""
