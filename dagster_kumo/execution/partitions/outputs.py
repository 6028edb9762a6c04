"""What a run over several partitions makes of each: stored as soon as its job is done.

Dagster hands an I/O manager all partitions of an output at once, and records their materializations
when all are stored. Here the value holds jobs that may still be running. What of a partition fails is
named in the error of the step; the rest is still stored, and recorded although the step fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import CancelledError
from functools import partial
from typing import Any, Generic, TypeVar

import dagster as dg

from dagster_kumo.execution.metadata import PREDICTION_TIME_METADATA
from dagster_kumo.execution.partitions.concurrent_jobs import (
    KumoPartitionsError,
    PartitionFailure,
    PartitionJobs,
)
from dagster_kumo.execution.termination import RunJobs
from dagster_kumo.predictions.predictions import Predictions

Metadata = dict[str, Any]
T = TypeVar("T")
Context = dg.OutputContext | dg.AssetExecutionContext
Store = Callable[[dg.AssetKey, str, Any], Metadata]
"""Stores what is given of a partition of an asset, and returns the metadata of it."""


class PartitionOutputs(Generic[T]):
    """The outputs of all partitions of a run, for the I/O manager to store.

    It is the value of each output. With the first one, all outputs of a partition are stored as soon as
    the partition's job is done.

    Args:
        jobs: The jobs of the partitions, some of which may still be running.
        assets: For each output, what makes of a finished job the output of a partition and the job's metadata.
        run_jobs: What cancels the jobs if the run is terminated while an output is stored.
    """

    def __init__(
        self,
        jobs: PartitionJobs[T],
        assets: Mapping[dg.AssetKey, Callable[[str, T], tuple[Predictions, Metadata]]],
        run_jobs: RunJobs,
    ) -> None:
        self._jobs = jobs
        self._assets = assets
        self._run_jobs = run_jobs
        self._results: _Results | None = None

    def store(self, context: dg.OutputContext, store: Store) -> None:
        """Store all outputs, unless that is done, and give those of the context their metadata.

        Raises:
            KumoPartitionsError: Some partitions failed; the others are materialized.
        """

        def store_output(asset_key: dg.AssetKey, key: str, done: T) -> Metadata:
            output, job_metadata = self._assets[asset_key](key, done)
            first, rest = _around_data(job_metadata)
            return {**first, **store(asset_key, key, output), **rest}

        if self._results is None:
            self._results = _Results(self._assets)
            with self._run_jobs.cancel_jobs_on_termination():
                self._results.make(context, self._jobs.completed(), store_output)
        _add_metadata(context.asset_key, self._results.take(context, context.asset_key))


def materialize_one(
    context: dg.AssetExecutionContext,
    asset_key: dg.AssetKey,
    value: Any,
    job_metadata: Metadata,
    data_version: dg.DataVersion,
) -> dg.MaterializeResult[Any]:
    """The result that materializes an output, with most of the job's metadata after the data's.

    Dagster shows the entries of the result first, then those of the I/O manager, then those added to the asset.
    """
    first, rest = _around_data(job_metadata)
    context.add_asset_metadata(rest, asset_key)
    return dg.MaterializeResult(
        asset_key=asset_key, metadata=first, data_version=data_version, value=value
    )


def store_each(
    context: dg.OutputContext, values: Mapping[str, Any], store: Callable[[str, Any], Metadata]
) -> None:
    """Store each partition of an output, and give it the metadata that `store` returns.

    Raises:
        KumoPartitionsError: Some partitions failed; the others are materialized.
    """
    given = ((key, partial(values.__getitem__, key)) for key in values)
    _make_each(context, context.asset_key, given, store)


def materialize_each(
    context: dg.AssetExecutionContext, asset_key: dg.AssetKey, jobs: PartitionJobs[Metadata]
) -> dg.MaterializeResult[Any]:
    """Wait for all partitions of an asset that Kumo keeps: the result that materializes them.

    Raises:
        KumoPartitionsError: Some partitions failed; the others are materialized.
    """
    _make_each(context, asset_key, jobs.completed(), lambda _, metadata: metadata)
    return dg.MaterializeResult(asset_key=asset_key)


def _make_each(
    context: Context,
    asset_key: dg.AssetKey,
    given: Iterable[tuple[str, Callable[[], T]]],
    make: Callable[[str, T], Metadata],
) -> None:
    results = _Results([asset_key])
    results.make(context, given, lambda _, key, value: make(key, value))
    _add_metadata(asset_key, results.take(context, asset_key))


def _around_data(job_metadata: Metadata) -> tuple[Metadata, Metadata]:
    """What is shown before the metadata of the data, and what after."""
    rest = dict(job_metadata)
    time = rest.pop(PREDICTION_TIME_METADATA, None)
    return ({} if time is None else {PREDICTION_TIME_METADATA: time}), rest


def _add_metadata(asset_key: dg.AssetKey, made: Mapping[str, Metadata]) -> None:
    """Give the materializations that Dagster will record their metadata."""
    try:
        asset: Any = dg.AssetExecutionContext.get()
    except dg.DagsterInvariantViolationError:  # outside of a run, in a test
        return
    if isinstance(asset, dg.AssetExecutionContext):  # in a graph it is an op's
        for key, metadata in made.items():
            asset.add_asset_metadata(metadata, asset_key, key)


class _Results:
    """What is made of the partitions of some assets, and what failed."""

    def __init__(self, asset_keys: Iterable[dg.AssetKey]) -> None:
        self._made: dict[dg.AssetKey, dict[str, Metadata]] = {key: {} for key in asset_keys}
        self._failed: list[PartitionFailure] = []
        self._not_begun: list[str] = []
        self._partitions = 0

    def make(
        self,
        context: Context,
        results: Iterable[tuple[str, Callable[[], T]]],
        make: Callable[[dg.AssetKey, str, T], Metadata],
    ) -> None:
        """Make each asset of each partition, and continue if one fails."""
        try:
            for key, result in results:
                self._partitions += 1
                self._make_partition(key, result, make)
        except BaseException:  # a termination: finished ones stay
            self._record(context)
            raise

    def take(self, context: Context, asset_key: dg.AssetKey) -> Mapping[str, Metadata]:
        """What is made of an asset, which Dagster records when the caller returns.

        Raises:
            KumoPartitionsError: Some of it failed; what is made of this asset, and of those that have
                not been taken, is materialized.
        """
        failed = [one for one in self._failed if one.asset_key in (None, asset_key)]
        if failed:
            self._record(context)
            raise KumoPartitionsError(
                self._failed, of=self._partitions, not_begun=sorted(self._not_begun)
            )
        return self._made.pop(asset_key)

    def _make_partition(
        self, key: str, result: Callable[[], T], make: Callable[[dg.AssetKey, str, T], Metadata]
    ) -> None:
        try:
            value = result()
        except CancelledError:
            self._not_begun.append(key)
            return
        except Exception as error:  # noqa: BLE001 - raised by `take`, with the others
            self._failed.append(PartitionFailure(key, error))
            return
        for asset_key, made in self._made.items():
            try:
                made[key] = make(asset_key, key, value)
            except Exception as error:  # noqa: BLE001 - as above
                named = asset_key if len(self._made) > 1 else None
                self._failed.append(PartitionFailure(key, error, named))

    def _record(self, context: Context) -> None:
        """Record what Dagster records when a step succeeds."""
        for asset_key, made in self._made.items():
            for key, metadata in made.items():
                context.log_event(
                    dg.AssetMaterialization(asset_key, partition=key, metadata=metadata)
                )
