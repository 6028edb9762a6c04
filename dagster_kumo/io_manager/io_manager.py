"""`KumoIOManager`: keeps outputs as Parquet files and hands them to other assets."""

# No `from __future__ import annotations`: Dagster looks at the annotation of `kumo` as an object.

import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast
from urllib.parse import urlsplit

import dagster as dg
from pydantic import Field

from dagster_kumo.api.errors import KumoDataError
from dagster_kumo.execution.env_numbers import FROM_ENVIRONMENT, NOT_FROM_ENVIRONMENT
from dagster_kumo.execution.partitions.anchor_time import INSTEAD_OF_INLINE, said_time
from dagster_kumo.execution.partitions.outputs import store_each
from dagster_kumo.io_manager.input_types import Annotation
from dagster_kumo.io_manager.output_metadata import stored_metadata
from dagster_kumo.io_manager.step_values import (
    BroughtOutput,
    is_step_value,
    read_step_value,
    write_step_value,
)
from dagster_kumo.jobs.batch_prediction import BatchPredictionJobResult
from dagster_kumo.predictions.predictions import Predictions
from dagster_kumo.resource import KumoResource

if TYPE_CHECKING:
    from upath import UPath

    from dagster_kumo.predictions.store.store import NewVersion, PartitionStore
    from dagster_kumo.predictions.store.transfer import Transferred

DEFAULT_IO_MANAGER_KEY = "kumo_io_manager"

RowCountCheck = Literal["error", "warn", "off"]


class KumoIOManager(dg.ConfigurableIOManager):
    """Stores predictions and embeddings as the Parquet files that Kumo wrote, partition by partition.

    Files are moved with bounded memory, several at a time, and checked before the new version comes
    into force; until then, and if anything fails, the version stored before stays as it is.

    Inputs are loaded by their annotation: `Predictions` (also when there is none), `pandas.DataFrame`,
    `pyarrow.Table`, `pyarrow.dataset.Dataset`, `pyarrow.RecordBatchReader`, `polars.DataFrame` or
    `.LazyFrame`, `duckdb.DuckDBPyRelation`, `dask.dataframe.DataFrame`, `pyspark.sql.DataFrame`,
    `BatchPredictionJobResult`, or `dict[str, ...]` of one of them by Dagster partition.
    `AssetIn(metadata={"columns": [...]})` reads only those columns;
    `AssetIn(metadata={"allow_missing_partitions": True})` leaves out partitions that are not stored.

    DataFrames and Arrow tables that other assets return are stored as well.

    Examples:
        >>> import dagster as dg
        >>> defs = dg.Definitions(
        ...     resources={"kumo_io_manager": KumoIOManager(base_path="s3://bucket/predictions")},
        ... )
    """

    base_path: str = Field(
        description="The folder to store in: a path, or any url that fsspec knows (s3://, gs://, abfss://)."
    )
    storage_options: dict[str, Any] = Field(
        default_factory=dict,
        repr=False,
        json_schema_extra={"dagster__is_secret": True},
        description=(
            "Options of the file system, as fsspec takes them: endpoint, credentials. Write a secret as "
            "EnvVar: Dagster keeps what is written out in code, with the definitions of each job."
        ),
    )
    max_parallel_downloads: Annotated[int, Field(ge=1), FROM_ENVIRONMENT] = Field(
        default=4, description="How many files are moved at the same time."
    )
    preview_rows: Annotated[int, Field(ge=0), FROM_ENVIRONMENT] = Field(
        default=0,
        description=(
            "How many rows the metadata shows. None by default: rows in an event log are data in one more place."
        ),
    )
    statistics: bool = Field(
        default=True, description="Whether statistics of the columns are computed for the metadata."
    )
    statistics_columns: list[str] | None = Field(
        default=None,
        description="Which columns have statistics, as far as an output has them. All by default.",
    )
    row_count_check: RowCountCheck = Field(
        default="error",
        description=(
            "What to do about predictions with fewer rows than the job's summary has entities: refuse "
            "them ('error'), store them with a warning ('warn'), or nothing ('off')."
        ),
    )
    grace_period: Annotated[float, Field(ge=0), NOT_FROM_ENVIRONMENT] = Field(
        default=3600.0,
        description="Seconds for which a version that is no longer in force is kept for its readers.",
    )
    kumo: dg.ResourceDependency[KumoResource | None] = None  # pyright: ignore[reportAssignmentType] - the form in which Dagster takes an optional resource
    """The connection, for inputs annotated with `BatchPredictionJobResult`; None takes the one that
    the environment describes."""

    # Writing

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Store an output: of each partition one new version.

        Raises:
            KumoDataError: a file is not what it should be.
            KumoPartitionsError: some partitions failed, in a run over several.
        """
        if is_step_value(context):
            write_step_value(self.root(), context, obj)
            return
        keys = list(context.asset_partition_keys) if _is_partitioned(context) else [None]
        if len(keys) == 1:
            context.add_output_metadata(self._store_partition(context, keys[0], obj))
            return
        if not isinstance(obj, Mapping) or len(obj) != len(keys) or not all(k in obj for k in keys):
            raise KumoDataError(
                f"{context.asset_key.to_user_string()} is made for {len(keys)} partitions in one run, so its "
                "value must be a dictionary by partition key. Return one, or give the asset "
                "BackfillPolicy.multi_run()."
            )
        store_each(context, obj, partial(self._store_partition, context))

    def _store_partition(
        self, context: dg.OutputContext, key: str | None, obj: Any
    ) -> dict[str, Any]:
        from dagster_kumo.predictions.store.tables import as_predictions
        from dagster_kumo.predictions.store.transfer import transfer

        store = self._store(context, key)
        if isinstance(obj, BroughtOutput):
            output, transferred = obj.output, obj.transferred
            with store.shared_version(obj.plan.version) as version:
                stored = self._committed(context, version, output, transferred)
        else:
            output = as_predictions(obj)
            with store.new_version() as version:
                transferred = transfer(
                    output.files,
                    version,
                    max_parallel=self.max_parallel_downloads,
                    summarise=self.summarised,
                )
                stored = self._committed(context, version, output, transferred)
        rate = transferred.size_bytes / 1e6 / max(transferred.seconds, 1e-3)
        files = len(transferred.files)
        context.log.info(
            f"Stored {transferred.num_rows:,} rows in {files} file{'s' * (files != 1)} "
            f"({transferred.size_bytes / 1e6:,.1f} MB at {rate:,.0f} MB/s) in {store.directory}"
        )
        return stored_metadata(
            context,
            stored,
            transferred,
            partition_key=key,
            provenance=output.provenance,
            preview_rows=self.preview_rows,
            store_of=partial(self._store, context),
        )

    @property
    def summarised(self) -> bool | list[str]:
        """Whether there are statistics, or of which columns."""
        return self.statistics and (self.statistics_columns is None or self.statistics_columns)

    def _committed(
        self,
        context: dg.OutputContext,
        version: "NewVersion",
        output: Predictions,
        transferred: "Transferred",
    ) -> Predictions:
        from dagster_kumo.predictions.statistics.stored_statistics import keep_statistics

        self._check_rows(context, output, transferred)
        _check_anchor(output, transferred)
        keep_statistics(version, transferred, warn=context.log.warning)
        return version.commit(transferred.files, output.provenance)

    def _check_rows(
        self, context: dg.OutputContext, output: Predictions, transferred: "Transferred"
    ) -> None:
        """Fewer rows than entities mean that some have no prediction. More are normal: of a
        multiclass model there is one for each entity and class. Embeddings are only counted."""
        expected = output.provenance.num_entities if output.provenance else None
        if expected is None or output.output_type != "predictions" or self.row_count_check == "off":
            return
        if transferred.num_rows < expected:
            message = (
                f"Prediction job {output.job_id} says that it predicted for {expected:,} entities, but its "
                f"files hold {transferred.num_rows:,} rows."
            )
            if self.row_count_check == "error":
                raise KumoDataError(
                    f"{message} They are not stored, and what was stored before stays in force.\n"
                    "Materialize again, or set row_count_check='warn' to store them all the same."
                )
            context.log.warning(message)

    # Reading

    def load_input(self, context: dg.InputContext) -> Any:
        """Load an input as its annotation asks.

        Raises:
            FileNotFoundError: a partition is not stored.
        """
        if context.upstream_output is not None and is_step_value(context.upstream_output):
            return read_step_value(self.root(), context.upstream_output)
        annotation = Annotation.parse(context.dagster_type.typing_type)
        metadata = context.definition_metadata or {}
        columns: Sequence[str] | None = metadata.get("columns")
        if _is_partitioned(context):
            keys: list[str | None] = list(context.asset_partition_keys)
        else:
            keys = [None]
        skip_missing = annotation.optional or bool(metadata.get("allow_missing_partitions"))
        found = self._found(context, keys, skip_missing=skip_missing)
        if annotation.by_partition:
            return {key: self._load(annotation, [one], columns) for key, one in found.items()}
        if not found and (annotation.optional or keys != [None]):
            if annotation.optional:
                return None
            raise FileNotFoundError(
                f"None of the {len(keys)} partitions of {_name(context)} is stored."
            )
        return self._load(annotation, list(found.values()), columns)

    def _found(
        self, context: dg.InputContext, keys: list[str | None], *, skip_missing: bool
    ) -> dict[str | None, Predictions]:
        found: dict[str | None, Predictions] = {}
        missing: list[str | None] = []
        for key in keys:
            try:
                found[key] = self._store(context, key).read()
            except FileNotFoundError:
                missing.append(key)
        if missing and not skip_missing:
            which = f" {', '.join(map(str, missing[:5]))}" if missing != [None] else ""
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            raise FileNotFoundError(
                f"{_name(context)} is not stored{' for' + which if which else ''}{more}. Materialize it first, "
                'or write AssetIn(metadata={"allow_missing_partitions": True}) to go on without.'
            )
        return found

    def _load(
        self, annotation: Annotation, stored: list[Predictions], columns: Sequence[str] | None
    ) -> Any:
        if annotation.is_job_result:
            return self._job_result(stored)
        return annotation.load(_joined(stored), columns)

    def _job_result(self, stored: list[Predictions]) -> BatchPredictionJobResult:
        if len(stored) != 1:
            raise TypeError(
                f"There are {len(stored)} partitions, each with a job of its own: annotate the input with "
                "dict[str, BatchPredictionJobResult]."
            )
        if stored[0].job_id is None:
            raise TypeError(
                "What is stored was not made by a prediction job, so there is no result of one."
            )
        kumo = self.kumo or KumoResource()
        return kumo.batch_prediction_job_result(stored[0].job_id)

    # Places

    def partition_store(
        self, asset_key: dg.AssetKey, partition_key: str | None
    ) -> "PartitionStore":
        """Where a partition of an asset is stored."""
        return self._store_in(asset_key.path, asset_key.to_user_string(), partition_key)

    def root(self) -> "UPath":
        """The folder of the whole store."""
        from upath import UPath

        if urlsplit(self.base_path).password is not None:
            # It would be shown in Dagster's UI and be a part of every path in the logs.
            raise ValueError(
                "base_path holds a password, which everybody would see.\n"
                "Give it in storage_options, which are hidden."
            )
        return UPath(self.base_path, **_resolved(self.storage_options))

    def _store(
        self, context: dg.InputContext | dg.OutputContext, partition_key: str | None
    ) -> "PartitionStore":
        parts = context.asset_key.path if context.has_asset_key else context.get_identifier()
        return self._store_in(parts, _name(context), partition_key)

    def _store_in(
        self, parts: Sequence[str], name: str, partition_key: str | None
    ) -> "PartitionStore":
        from dagster_kumo.predictions.store.folder_names import folder_name
        from dagster_kumo.predictions.store.store import PartitionStore

        directory = self.root()
        for part in [*parts, *([partition_key] if partition_key is not None else [])]:
            directory /= folder_name(part)
        # Asset `a`, partition `b`, and asset `a/b` have the same folder, and so have, on a disk that
        # takes upper and lower case for the same, partitions `b` and `B`.
        owner = f"{name}, partition {partition_key}" if partition_key is not None else name
        return PartitionStore(
            directory, grace_period=timedelta(seconds=self.grace_period), owner=owner
        )


def _is_partitioned(context: dg.InputContext | dg.OutputContext) -> bool:
    return context.has_asset_key and context.has_asset_partitions


def _resolved(option: Any) -> Any:
    """An option with the value of each `EnvVar` in it, which Dagster resolves in fields only."""
    if isinstance(option, dg.EnvVar):
        option = {"env": option.env_var_name}
    if not isinstance(option, Mapping):
        return option
    options = cast(Mapping[str, Any], option)
    if set(options) != {"env"}:
        return {name: _resolved(value) for name, value in options.items()}
    value = os.getenv(str(options["env"]))
    if value is None:
        raise ValueError(
            f"storage_options name the environment variable {options['env']}, which is not set.\n"
            "Set it where the run's process starts."
        )
    return value


def _joined(stored: list[Predictions]) -> Predictions:
    """Several partitions as one output, in the order of their keys."""
    if len(stored) == 1:
        return stored[0]
    return Predictions([file for one in stored for file in one.files])


def _name(context: dg.InputContext | dg.OutputContext) -> str:
    return context.asset_key.to_user_string() if context.has_asset_key else context.name


def _check_anchor(output: Predictions, transferred: "Transferred") -> None:
    """Refuse predictions for another time than the one that was asked, and those for nobody knows when.

    A server that does not know `prediction_time` predicts for the latest time in its data. The data
    says for when it is; more than the partition's own window apart is another partition's data.
    Embeddings and queries that are not about time have no such column: of them the server must have
    said that it heard.
    """
    provenance = output.provenance
    if provenance is None or provenance.prediction_time is None or provenance.window is None:
        return
    asked = (
        f"Prediction job {provenance.job_id} was asked to predict for "
        f"{said_time(provenance.prediction_time)}, but"
    )
    refused = "It is not stored, and what was stored before stays in force."
    way_out = "" if provenance.prediction_table_job_id else f"\n{INSTEAD_OF_INLINE}"
    if transferred.anchors is None and provenance.time_stated_by is None:
        raise KumoDataError(
            f"{asked} neither the job nor its {provenance.output_type} say for when it did. "
            f"{refused}{way_out}"
        )
    for found in transferred.anchors or ():
        if abs(found - provenance.prediction_time) > provenance.window:
            raise KumoDataError(f"{asked} its data is for {said_time(found)}. {refused}{way_out}")
