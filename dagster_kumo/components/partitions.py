"""The section `partitions_def`."""

# No `from __future__ import annotations`: Dagster looks at the annotations of fields as objects.

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, get_args

import dagster as dg
from pydantic import Field

from dagster_kumo.components.named_fields import NamedFields

Kind = Literal["hourly", "daily", "weekly", "monthly", "time_window", "static", "dynamic", "multi"]

_MAKERS: dict[str, Callable[..., dg.PartitionsDefinition]] = {
    "hourly": dg.HourlyPartitionsDefinition,
    "daily": dg.DailyPartitionsDefinition,
    "weekly": dg.WeeklyPartitionsDefinition,
    "monthly": dg.MonthlyPartitionsDefinition,
    "time_window": dg.TimeWindowPartitionsDefinition,
    "static": dg.StaticPartitionsDefinition,
    "dynamic": dg.DynamicPartitionsDefinition,
    "multi": dg.MultiPartitionsDefinition,
}
_IN_PYTHON = {"start_date": "start", "end_date": "end", "dimensions": "partitions_defs"}
"""The parameters that some of these name differently."""


class PartitionsSection(NamedFields):
    """Partitions, with the names of Dagster's own components."""

    type: Kind = Field(description=f"One of {', '.join(get_args(Kind))}.")
    start_date: str | None = Field(
        default=None,
        description="The first one: 2026-01-31, or 2026-01-31-00:00 for hourly ones.",
    )
    end_date: str | None = Field(
        default=None, description="The end of the last one. By default there is no end."
    )
    timezone: str | None = Field(
        default=None, description="For example Europe/Berlin. The default is UTC."
    )
    minute_offset: int | None = Field(default=None, description="Minutes after the full hour.")
    hour_offset: int | None = Field(default=None, description="Hours after midnight.")
    day_offset: int | None = Field(
        default=None,
        description="Weekly: 0 is Sunday. Monthly: the day of the month, by default 1.",
    )
    end_offset: int | None = Field(
        default=None, description="How many partitions there are after those that have ended."
    )
    cron_schedule: str | None = Field(
        default=None, description="Of time_window: when a partition starts and the one before ends."
    )
    fmt: str | None = Field(
        default=None, description="Of time_window: the format of keys, for example %Y-%m-%d."
    )
    partition_keys: Sequence[str] | str | None = Field(
        default=None, description="Of static: the keys."
    )
    name: str | None = Field(
        default=None, description="Of dynamic: the name under which Dagster keeps the keys."
    )
    dimensions: Mapping[str, "PartitionsSection"] | None = Field(
        default=None, description="Of multi: the partitions of two dimensions, by their names."
    )


def _resolve_partitions(
    context: dg.ResolutionContext, given: PartitionsSection
) -> dg.PartitionsDefinition:
    return _partitions(context.resolve_value(given.model_dump(exclude_none=True)))


def _partitions(given: Mapping[str, Any]) -> dg.PartitionsDefinition:
    values = dict(given)
    kind = values.pop("type")
    make = _MAKERS[kind]
    parameters = inspect.signature(make).parameters
    takes = {name: name for name in parameters if name in PartitionsSection.model_fields}
    takes |= {name: other for name, other in _IN_PYTHON.items() if other in parameters}
    wrong = sorted(set(values) - set(takes))
    lacking = [
        name
        for name, parameter in takes.items()
        if parameters[parameter].default is inspect.Parameter.empty and name not in values
    ]
    if wrong or lacking:
        raise ValueError(
            f"partitions_def of type {kind} "
            + " and ".join(
                [f"has no {', '.join(wrong)}"] * bool(wrong)
                + [f"needs {', '.join(lacking)}"] * bool(lacking)
            )
            + f". It takes {', '.join(takes)}."
        )
    if "dimensions" in values:
        values["dimensions"] = {name: _partitions(of) for name, of in values["dimensions"].items()}
    return make(**{takes[name]: value for name, value in values.items()})


ResolvedPartitions = Annotated[
    dg.PartitionsDefinition | None,
    dg.Resolver(
        _resolve_partitions,
        model_field_type=PartitionsSection,
        description="The partitions of predictions, embeddings, exports and checks.",
    ),
]
