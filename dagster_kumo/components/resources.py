"""The sections `kumo` and `io_manager`: the resources of a component."""

# No `from __future__ import annotations`: Dagster looks at the annotations of fields as objects.

import re
from collections.abc import Mapping
from typing import Annotated, Any

import dagster as dg
from pydantic import BaseModel

from dagster_kumo.components.sections import Section
from dagster_kumo.execution.masked_secrets import SECRET
from dagster_kumo.io_manager.io_manager import KumoIOManager
from dagster_kumo.resource import KumoResource

_KUMO = Section(KumoResource)
_IO_MANAGER = Section(KumoIOManager, omit=("kumo",))

_VARIABLE = re.compile(r"\{\{\s*env(?:\.(\w+)|\(\s*['\"](\w+)['\"]\s*\))\s*\}\}")


def with_connection(io_manager: KumoIOManager, kumo: KumoResource | None) -> KumoIOManager:
    """The I/O manager with this connection, which it uses to read results of jobs."""
    settings: dict[str, Any] = {
        name: getattr(io_manager, name) for name in io_manager.model_fields_set
    }
    settings["kumo"] = kumo
    return KumoIOManager(**settings)


def _settings(
    of: type[BaseModel], context: dg.ResolutionContext, given: BaseModel
) -> dict[str, Any]:
    """The settings of a resource. Secrets stay references to environment variables.

    A rendered secret would be part of the definitions, which Dagster keeps with each job.
    """
    return {
        name: _secret(context.at_path(name), value, name)
        if of.model_fields[name].json_schema_extra == SECRET
        else context.at_path(name).resolve_value(value)
        for name, value in given.model_dump(exclude_unset=True).items()
    }


def _secret(context: dg.ResolutionContext, value: Any, name: str) -> Any:
    if isinstance(value, Mapping):
        nested: Mapping[str, Any] = value
        return {k: _secret(context.at_path(k), v, f"{name}.{k}") for k, v in nested.items()}
    if isinstance(value, str):
        if variable := _VARIABLE.fullmatch(value.strip()):
            return dg.EnvVar(variable[1] or variable[2])
        if re.search(r"\{\{.*\benv\b", value):
            raise ValueError(
                f"{name} is a secret: Dagster takes it from the environment when a run begins, and one "
                f'variable holds the whole of it. Write {name}: "{{{{ env.NAME }}}}".'
            )
    return context.resolve_value(value)


# Any, for `KumoResource | None` and `KumoIOManager | None`: Dagster would inspect the fields of a pydantic
# model and refuse those that are not plain, even if a resolver has its own model of the YAML.
ResolvedKumo = Annotated[
    Any,
    dg.Resolver(
        lambda context, given: KumoResource(**_settings(KumoResource, context, given)),
        model_field_type=_KUMO.model,
        description=(
            "The connection to Kumo. Without it, the resource of the project is used. "
            'Write secrets as "{{ env.NAME }}".'
        ),
    ),
]
ResolvedIOManager = Annotated[
    Any,
    dg.Resolver(
        lambda context, given: KumoIOManager(**_settings(KumoIOManager, context, given)),
        model_field_type=_IO_MANAGER.model,
        description="Where outputs are stored. Without it, the I/O manager of the project is used.",
    ),
]
