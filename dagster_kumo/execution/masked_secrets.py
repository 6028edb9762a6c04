"""Secrets in Dagster's launchpad: it shows a mask in their place, and launches the run with the mask.

A setting that still is the mask when a run begins means what the definitions say.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, cast

import dagster as dg

SECRET: dict[str, Any] = {"dagster__is_secret": True}
"""Marks a setting as secret, as the `json_schema_extra` of its field."""
MASK = "********"
"""What Dagster shows instead of a setting that is marked as secret."""


def unmasked(resource: dg.ConfigurableResource[Any] | dg.ConfigurableIOManager, name: str) -> Any:
    """The value of a secret setting of a resource. If it is the mask, the value in the definitions.

    Raises:
        ValueError: It is the mask, and there are no definitions to look into.
    """
    value = getattr(resource, name)
    if value != MASK:
        return value
    try:
        definition = resource.get_resource_context().resource_def
    except Exception:  # noqa: BLE001 - outside of runs a CheckError, which is not public
        definition = None
    defined = definition.config_schema.as_field().default_value if definition else MASK
    if isinstance(defined, Mapping):
        defined = cast(Mapping[str, Any], defined).get(name)
    if defined == MASK:
        raise ValueError(
            f"{name} is {MASK!r}, which Dagster's launchpad shows instead of a secret.\n"
            f"Delete the line {name} in the launchpad, or name the variable that holds it: {{env: NAME}}."
        )
    return from_environment(name, defined)


def from_environment(name: str, value: Any) -> Any:
    """A setting with the value of each `EnvVar` in it, as Dagster resolves whole fields.

    Raises:
        ValueError: A variable is not set.
    """
    if isinstance(value, dg.EnvVar):
        value = {"env": value.env_var_name}
    if not isinstance(value, Mapping):
        return value
    mapping = cast(Mapping[str, Any], value)
    if set(mapping) != {"env"}:
        return {key: from_environment(name, nested) for key, nested in mapping.items()}
    variable = str(mapping["env"])
    found = os.environ.get(variable)
    if found is None:
        raise ValueError(
            f"{name} names the environment variable {variable}, which is not set.\n"
            "Set it where the run's process starts."
        )
    return found
