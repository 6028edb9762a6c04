"""A check of an asset: what it runs for one partition, and the finding for all partitions of a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

import dagster as dg

from dagster_kumo.api.errors import KumoDataError

ALLOWED = "allowed"
"""The metadata entry of the limit. It is text, since Dagster plots numbers and a limit never changes."""


@dataclass(frozen=True)
class Finding:
    """What a check found, in one line. After a failure, a second line says what to do."""

    passed: bool
    said: str
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR


class NothingToCheck(Exception):
    """There is nothing to check. The message says why, and what to do.

    By default the check fails with a warning, which does not block.
    """

    def __init__(
        self, reason: str, severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.WARN
    ) -> None:
        super().__init__(reason)
        self.severity = severity


class Partitioned(Protocol):
    """What checks read."""

    @property
    def partition_keys(self) -> Sequence[str | None]:
        """The partitions of the run; None stands for an asset without partitions."""
        ...


Data = TypeVar("Data", bound=Partitioned)


class AssetCheck(ABC, Generic[Data]):
    """A check. Its fields are its limits."""

    name: str
    description: str

    @abstractmethod
    def run(self, data: Data, partition_key: str | None, /) -> Finding:
        """Check one partition.

        Raises:
            NothingToCheck: There is nothing that this check could check.
            KumoDataError: A stored file is damaged.
        """

    def partition_keys(self, data: Data) -> Sequence[str | None]:
        """The partitions to check."""
        return data.partition_keys

    def find(self, data: Data) -> Finding:
        """Check all partitions of the run, and merge the findings into one."""
        return _merge_findings(
            {key: self._run_in_partition(data, key) for key in self.partition_keys(data)}
        )

    def _run_in_partition(self, data: Data, partition_key: str | None) -> Finding:
        """The finding of one partition. It is a failure if there is nothing to check or a file is damaged."""
        try:
            return self.run(data, partition_key)
        except NothingToCheck as reason:
            return Finding(False, str(reason), severity=reason.severity)
        except KumoDataError as error:
            return Finding(False, f"{error}\nMaterialize again.")


def _merge_findings(findings: Mapping[str | None, Finding]) -> Finding:
    """One finding, which failed if any failed. It has the text and the numbers of the worst one."""
    if len(findings) == 1:
        ((key, finding),) = findings.items()
        label = {} if key is None else {"partition": key}
        return replace(finding, metadata={**label, **finding.metadata})
    failed = [key for key, finding in findings.items() if not finding.passed]
    counts = {"partitions": len(findings), "failed_partitions": len(failed)}
    if not failed:
        return Finding(True, f"Passed in all {len(findings)} partitions.", counts)
    worst = max(failed, key=lambda key: findings[key].severity == dg.AssetCheckSeverity.ERROR)
    more = ", ..." if len(failed) > 5 else ""
    return Finding(
        False,
        f"Failed in {len(failed)} of {len(findings)} partitions: "
        f"{', '.join(map(str, failed[:5]))}{more}. {worst}: {findings[worst].said}",
        {**counts, "partition": str(worst), **findings[worst].metadata},
        findings[worst].severity,
    )
