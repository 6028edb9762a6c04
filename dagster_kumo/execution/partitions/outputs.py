"""What a run over several partitions makes of each: delivered as soon as its job is done.

Dagster hands an I/O manager all partitions of such a run at once, and writes their materializations
when the step's result is there. Here the value is a mapping whose partitions arrive while it is read,
and when some fail, the materializations of the others are written all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any, TypeVar

import dagster as dg

from dagster_kumo.execution.partitions.concurrent_jobs import KumoPartitionsError, PartitionJobs
from dagster_kumo.execution.termination import RunJobs
from dagster_kumo.predictions.predictions import Predictions

Metadata = dict[str, Any]
T = TypeVar("T")


class PartitionOutputs(Mapping[str, Predictions]):
    """One output of each partition, in the order in which their jobs are done.

    Args:
        context: the context of the assets, which is told what is known of each job.
        asset_key: the asset of the output.
        done: what came of the jobs.
        describe: makes of it the output of a partition, and what is known of its job.
        jobs: the jobs of the run, some of which go on while the first outputs are stored.
    """

    def __init__(
        self,
        context: dg.AssetExecutionContext,
        asset_key: dg.AssetKey,
        done: PartitionJobs[T],
        describe: Callable[[str, T], tuple[Predictions, Metadata]],
        jobs: RunJobs,
    ) -> None:
        self._context = context
        self._asset_key = asset_key
        self._done: Mapping[str, Any] = done
        self._describe: Callable[[str, Any], tuple[Predictions, Metadata]] = describe
        self.jobs = jobs
        self.metadata: dict[str, Metadata] = {}
        """What is known of each job, by the partitions that have been handed out."""

    def __len__(self) -> int:
        return len(self._done)

    def __contains__(self, key: object) -> bool:
        return key in self._done

    def __iter__(self) -> Iterator[str]:
        return iter(self._done)

    def __getitem__(self, key: str) -> Predictions:
        output, metadata = self._describe(key, self._done[key])
        if key not in self.metadata:
            self.metadata[key] = metadata
            self._context.add_asset_metadata(metadata, self._asset_key, key)
        return output


def store_each(
    context: dg.OutputContext, values: Mapping[str, Any], store: Callable[[str, Any], Metadata]
) -> None:
    """Store each partition of an output, and give it metadata of its own, which `store` returns.

    A partition that fails does not keep the others from being stored.

    Raises:
        KumoPartitionsError: some partitions failed; the others are materialized.
    """
    stored: dict[str, Metadata] = {}
    failed: dict[str, Exception] = {}
    not_begun: list[str] = []
    live = values if isinstance(values, PartitionOutputs) else None
    try:
        try:
            with live.jobs.cancel_jobs_on_termination() if live else nullcontext():
                for key, value in values.items():
                    try:
                        stored[key] = store(key, value)
                    except Exception as error:  # noqa: BLE001 - raised below, with the others
                        failed[key] = error
        except KumoPartitionsError as error:
            failed.update(error.failed)
            not_begun.extend(error.not_begun)
        if failed:
            raise KumoPartitionsError(failed, of=len(values), not_begun=not_begun)
    except BaseException:  # also a termination: what is stored is in force
        known: Mapping[str, Metadata] = live.metadata if live else {}
        whole = {key: {**known.get(key, {}), **metadata} for key, metadata in stored.items()}
        _write_materializations(context, context.asset_key, whole)
        raise
    try:
        asset: Any = dg.AssetExecutionContext.get()
    except dg.DagsterInvariantViolationError:  # a context that a test has built: there is no run
        return
    if isinstance(asset, dg.AssetExecutionContext):  # in a graph it is an op's, which has no room
        for key, metadata in stored.items():
            asset.add_asset_metadata(metadata, context.asset_key, key)


def materialize_each(
    context: dg.AssetExecutionContext,
    asset_key: dg.AssetKey,
    made: PartitionJobs[T],
    metadata_of: Callable[[T], Metadata],
) -> dg.MaterializeResult[Any]:
    """Wait for all partitions of an asset that Kumo keeps: the result that materializes them.

    Raises:
        KumoPartitionsError: some partitions failed; the others are materialized.
    """
    done: dict[str, Metadata] = {}
    try:
        for key, one in made.items():
            done[key] = metadata_of(one)
    except BaseException:
        _write_materializations(context, asset_key, done)
        raise
    for key, metadata in done.items():
        context.add_asset_metadata(metadata, asset_key, key)
    return dg.MaterializeResult(asset_key=asset_key)


def _write_materializations(
    context: dg.OutputContext | dg.AssetExecutionContext,
    asset_key: dg.AssetKey,
    metadata: Mapping[str, Metadata],
) -> None:
    """Write what Dagster would have written, had the step come to its end."""
    for key, entries in metadata.items():
        context.log_event(dg.AssetMaterialization(asset_key, partition=key, metadata=entries))
