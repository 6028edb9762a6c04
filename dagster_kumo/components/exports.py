"""The section `exports`."""

# No `from __future__ import annotations`: Dagster looks at the annotations of fields as objects.

from collections.abc import Sequence
from dataclasses import fields
from typing import Annotated, Any

import dagster as dg
from pydantic import Field

from dagster_kumo.api.connectors import CONNECTORS, Connector, Storage
from dagster_kumo.assets.export_asset import KumoExport
from dagster_kumo.components.named_fields import NamedFields
from dagster_kumo.components.policies import RETRY_POLICY
from dagster_kumo.components.sections import InYaml, Section

_BY_STORAGE: dict[str, type[Connector]] = {kind.storage: kind for kind in CONNECTORS}


class ConnectorSection(NamedFields):
    """The target of an export: a warehouse by the name of a connector, or a bucket by a path."""

    type: Storage
    name: str | None = Field(
        default=None, description="Of a warehouse: the name that its connector has in Kumo."
    )
    root_dir: str | None = Field(
        default=None, description="Of a bucket: the folder, for example s3://bucket/folder."
    )
    connector_id: str | None = Field(
        default=None,
        description="Of a bucket: the connector that may write there, if there are groups.",
    )


def _connector(given: Any) -> Any:
    if not isinstance(given, dict):
        return given
    arguments: dict[str, Any] = dict(given)
    storage = arguments.pop("type")
    kind = _BY_STORAGE[storage]
    takes = [field.name for field in fields(kind)]
    needed = takes[0]
    if needed not in arguments or not set(arguments) <= set(takes):
        raise ValueError(
            f"A connector of type {storage} is given by {' and, if need be, '.join(takes)}, not by "
            f"{', '.join(arguments) or 'nothing'}. Write connector: {{type: {storage}, {needed}: ...}}."
        )
    return kind(**arguments)


def asset_key(given: Any) -> Any:
    """The key that a text names."""
    return dg.AssetKey.from_user_string(given) if isinstance(given, str) else given


_EXPORT = Section(
    KumoExport,
    yaml={
        "connector": InYaml(ConnectorSection, _connector),
        "key": InYaml(str, asset_key),
        "deps": InYaml(Sequence[str]),
        "automation_condition": InYaml(str),
        "retry_policy": RETRY_POLICY,
    },
)

ResolvedExport = Annotated[KumoExport, dg.Resolver(_EXPORT.make, model_field_type=_EXPORT.model)]
