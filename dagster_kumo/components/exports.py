"""The section `exports`."""

# No `from __future__ import annotations`: Dagster looks at the annotations of fields as objects.

from dataclasses import fields
from typing import Annotated, Any, Literal

import dagster as dg
from pydantic import BaseModel, Field

from dagster_kumo.api.connectors import CONNECTORS, Connector
from dagster_kumo.assets.export_asset import KumoExport, build_kumo_export_asset
from dagster_kumo.components.sections import Section

Storage = Literal["snowflake", "bigquery", "databricks", "s3", "gcs", "adls"]

_BY_STORAGE: dict[str, type[Connector]] = {kind.storage: kind for kind in CONNECTORS}


class ConnectorSection(dg.Model):
    """Where Kumo writes to: a warehouse by the name of a connector, or a bucket by a path."""

    type: Storage
    name: str | None = Field(
        default=None, description="Of a warehouse: the name that its connector has in Kumo."
    )
    root_dir: str | None = Field(
        default=None, description="Of a bucket: the folder, for example s3://bucket/folder."
    )
    connector_id: str | None = Field(
        default=None,
        description="Of a bucket: the connector that may write there, where there are groups.",
    )


_EXPORT = Section(
    KumoExport,
    described_by=build_kumo_export_asset,
    yaml={"connector": ConnectorSection, "key": str, "automation_condition": str},
)


def _resolve_export(context: dg.ResolutionContext, given: BaseModel) -> KumoExport:
    arguments = _EXPORT.arguments(context, given)
    if isinstance(arguments["connector"], dict):
        arguments["connector"] = _connector(**arguments["connector"])
    if isinstance(arguments.get("key"), str):
        arguments["key"] = dg.AssetKey.from_user_string(arguments["key"])
    return KumoExport(**_EXPORT.checked(arguments))


def _connector(*, type: str, **given: Any) -> Connector:  # noqa: A002 - the name that the YAML has
    kind = _BY_STORAGE[type]
    takes = [field.name for field in fields(kind)]
    needed = takes[0]
    if needed not in given or not set(given) <= set(takes):
        raise ValueError(
            f"A connector of type {type} is given by {' and, if need be, '.join(takes)}, not by "
            f"{', '.join(given) or 'nothing'}. Write connector: {{type: {type}, {needed}: ...}}."
        )
    return kind(**given)


ResolvedExport = Annotated[KumoExport, dg.Resolver(_resolve_export, model_field_type=_EXPORT.model)]
