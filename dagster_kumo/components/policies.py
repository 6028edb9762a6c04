"""The sections `retry_policy` and `backfill_policy`."""

# No `from __future__ import annotations`: Dagster looks at the annotations of fields as objects.

from typing import Annotated, Any, Literal

import dagster as dg
from pydantic import Field

from dagster_kumo.components.named_fields import NamedFields
from dagster_kumo.components.sections import InYaml


class RetryPolicySection(NamedFields):
    """When a failed step is retried; the fields are those of `RetryPolicy`."""

    max_retries: int = Field(default=1, description="The most retries of a step.")
    delay: float | None = Field(default=None, description="Seconds between two attempts.")
    backoff: Literal["LINEAR", "EXPONENTIAL"] | None = Field(
        default=None, description="How the delay grows. By default it is constant."
    )
    jitter: Literal["FULL", "PLUS_MINUS"] | None = Field(
        default=None, description="How the delay varies at random. By default it does not."
    )


class BackfillPolicySection(NamedFields):
    """How many partitions a run of a backfill has, with the names of Dagster's own components."""

    type: Literal["single_run", "multi_run"] = Field(
        description="All partitions in one run, or a few in each of several runs."
    )
    max_partitions_per_run: int = Field(
        default=1, description="Of multi_run: the most partitions of a run."
    )


def _retry_policy(given: Any) -> Any:
    if not isinstance(given, dict):
        return given
    fields: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    for name, names in (("backoff", dg.Backoff), ("jitter", dg.Jitter)):
        if name in fields:
            fields[name] = names[fields[name]]
    return dg.RetryPolicy(**fields)


RETRY_POLICY = InYaml(RetryPolicySection, _retry_policy)


def _resolve_backfill_policy(
    context: dg.ResolutionContext,  # noqa: ARG001 - the form of a resolver
    given: BackfillPolicySection,
) -> dg.BackfillPolicy:
    if given.type == "single_run":
        return dg.BackfillPolicy.single_run()
    return dg.BackfillPolicy.multi_run(given.max_partitions_per_run)


ResolvedRetryPolicy = Annotated[
    dg.RetryPolicy | None,
    dg.Resolver(
        lambda _, given: _retry_policy(given.model_dump(exclude_unset=True)),
        model_field_type=RetryPolicySection,
    ),
]
ResolvedBackfillPolicy = Annotated[
    dg.BackfillPolicy | None,
    dg.Resolver(_resolve_backfill_policy, model_field_type=BackfillPolicySection),
]
