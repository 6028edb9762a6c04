"""What a run over several partitions makes of each: stored and recorded as soon as its job is done.

Dagster hands an I/O manager all partitions of such a run at once, and records their materializations
when the step has succeeded. Here the value holds jobs that may still be running. If one partition
fails, the others are still stored, and their materializations are recorded although the step fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError
from functools import partial
from typing import Any, Generic, TypeVar

import dagster as dg

from dagster_kumo.execution.partitions.concurrent_jobs import KumoPartitionsError, PartitionJobs
from dagster_kumo.execution.termination import RunJobs
from dagster_kumo.predictions.predictions import Predictions

Metadata = dict[str, Any]
T = TypeVar("T")
Store = Callable[[str, Any], Metadata]


class PartitionOutputs(Generic[T]):
    """One output of each partition of a run, for the I/O manager to store.

    Args:
        jobs: the jobs of the partitions, some of which may still be running.
        output_of: makes of a finished job the output of a partition, and the metadata of its job.
        run_jobs: what cancels the jobs if the run is terminated while an output is stored.
    """

    def __init__(
        self,
        jobs: PartitionJobs[T],
        output_of: Callable[[str, T], tuple[Predictions, Metadata]],
        run_jobs: RunJobs,
    ) -> None:
        self._jobs = jobs
        self._output_of = output_of
        self._run_jobs = run_jobs

    def store(self, context: dg.OutputContext, store: Store) -> dict[str, Metadata]:
        """Store each partition as soon as its job is done: the metadata of each.

        Raises:
            KumoPartitionsError: some partitions failed; the others are materialized.
        """

        def store_output(key: str, result: T) -> Metadata:
            output, job_metadata = self._output_of(key, result)
            return {**job_metadata, **store(key, output)}

        with self._run_jobs.cancel_jobs_on_termination():
            return _make_each(context, context.asset_key, _results(self._jobs), store_output)


def store_each(
    context: dg.OutputContext, values: Mapping[str, Any] | PartitionOutputs[Any], store: Store
) -> None:
    """Store each partition of an output, and give it the metadata that `store` returns.

    Raises:
        KumoPartitionsError: some partitions failed; the others are materialized.
    """
    if isinstance(values, PartitionOutputs):
        stored = values.store(context, store)
    else:
        given = [(key, partial(values.__getitem__, key)) for key in values]
        stored = _make_each(context, context.asset_key, given, store)
    try:
        asset: Any = dg.AssetExecutionContext.get()
    except dg.DagsterInvariantViolationError:  # outside of a run, in a test
        return
    if isinstance(asset, dg.AssetExecutionContext):  # in a graph it is an op's, which has no room
        for key, metadata in stored.items():
            asset.add_asset_metadata(metadata, context.asset_key, key)


def materialize_each(
    context: dg.AssetExecutionContext, asset_key: dg.AssetKey, jobs: PartitionJobs[Metadata]
) -> dg.MaterializeResult[Any]:
    """Wait for all partitions of an asset that Kumo keeps: the result that materializes them.

    Raises:
        KumoPartitionsError: some partitions failed; the others are materialized.
    """
    made = _make_each(context, asset_key, _results(jobs), lambda _, metadata: metadata)
    for key, metadata in made.items():
        context.add_asset_metadata(metadata, asset_key, key)
    return dg.MaterializeResult(asset_key=asset_key)


def _results(jobs: PartitionJobs[T]) -> Iterator[tuple[str, Callable[[], T]]]:
    return ((key, future.result) for key, future in jobs.completed())


def _make_each(
    context: dg.OutputContext | dg.AssetExecutionContext,
    asset_key: dg.AssetKey,
    results: Iterable[tuple[str, Callable[[], T]]],
    make: Callable[[str, T], Metadata],
) -> dict[str, Metadata]:
    """Make each partition of what `results` has for it, and go on when one fails.

    Raises:
        KumoPartitionsError: some partitions failed; the others are materialized.
    """
    made: dict[str, Metadata] = {}
    failed: dict[str, Exception] = {}
    not_begun: list[str] = []
    try:
        for key, result in results:
            try:
                made[key] = make(key, result())
            except CancelledError:
                not_begun.append(key)
            except Exception as error:  # noqa: BLE001 - raised below, with the others
                failed[key] = error
        if failed:
            of = len(made) + len(failed) + len(not_begun)
            raise KumoPartitionsError(failed, of=of, not_begun=sorted(not_begun))
    except BaseException:  # also a termination: what is made stays
        for key, metadata in made.items():
            # What Dagster would have recorded, had the step succeeded.
            context.log_event(dg.AssetMaterialization(asset_key, partition=key, metadata=metadata))
        raise
    return made
