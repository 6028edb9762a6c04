"""`KumoIOManager`: stores outputs as Parquet files, and loads them for other assets."""

# No `from __future__ import annotations`: Dagster looks at the annotation of `kumo` as an object.

import contextlib
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import dagster as dg
from pydantic import BeforeValidator, Field

from dagster_kumo.api.errors import KumoDataError
from dagster_kumo.execution.env_numbers import FROM_ENVIRONMENT, NOT_FROM_ENVIRONMENT
from dagster_kumo.execution.masked_secrets import MASK, SECRET, unmasked
from dagster_kumo.execution.partitions.outputs import PartitionOutputs, store_each
from dagster_kumo.io_manager.base_path import check_usable, store_root
from dagster_kumo.io_manager.contexts import (
    OR_NONE,
    annotation_of,
    columns_of,
    has_partitions_def,
    listed,
    name_of,
    not_stored,
    nothing_returned,
    partition_keys,
)
from dagster_kumo.io_manager.input_types import Annotation, loader_of
from dagster_kumo.io_manager.output_metadata import output_metadata
from dagster_kumo.io_manager.step_values import (
    FinishedOutput,
    is_step_value,
    read_step_value,
    write_step_value,
)
from dagster_kumo.io_manager.validation import RowCountCheck, validate
from dagster_kumo.jobs.batch_prediction import BatchPredictionJobResult
from dagster_kumo.predictions.predictions import Predictions
from dagster_kumo.resource import KumoResource

if TYPE_CHECKING:
    from upath import UPath

    from dagster_kumo.predictions.store.store import NewVersion, PartitionStore
    from dagster_kumo.predictions.store.transfer import Transferred

DEFAULT_IO_MANAGER_KEY = "kumo_io_manager"


def _check_storage_options(value: Any) -> Any:
    if isinstance(value, Mapping) or value == MASK:
        return value  # pyright: ignore[reportUnknownVariableType] - the options are fsspec's
    raise ValueError(f"storage_options is a dictionary by option, not {value!r}.")


class KumoIOManager(dg.ConfigurableIOManager):
    """Stores predictions and embeddings as the Parquet files that Kumo wrote, partition by partition.

    Files are transferred with bounded memory, several at a time, and checked before the new version comes into
    force. Until then, and if anything fails, the previous version stays as it is.

    Inputs are loaded by their annotation: `Predictions` (also when there is none), `pandas.DataFrame`,
    `pyarrow.Table`, `pyarrow.dataset.Dataset`, `pyarrow.RecordBatchReader`, `polars.DataFrame` or
    `.LazyFrame`, `duckdb.DuckDBPyRelation`, `dask.dataframe.DataFrame`, `pyspark.sql.DataFrame`,
    `BatchPredictionJobResult`, or `dict[str, ...]` of one of them by Dagster partition.
    `AssetIn(metadata={"columns": [...]})` reads only those columns;
    `AssetIn(metadata={"allow_missing_partitions": True})` leaves out partitions that are not stored.

    DataFrames and Arrow tables that other assets return are stored as well.

    ```pycon
    >>> import dagster as dg
    >>> defs = dg.Definitions(
    ...     resources={"kumo_io_manager": KumoIOManager(base_path="s3://bucket/predictions")},
    ... )

    ```
    """

    base_path: str = Field(
        description="The folder to store in: a path, or any url that fsspec knows (s3://, gs://, abfss://)."
    )
    # Any, because the launchpad replaces a secret by a text.
    storage_options: Annotated[Any, BeforeValidator(_check_storage_options)] = Field(
        default={},
        repr=False,
        json_schema_extra=SECRET,
        description=(
            "Options of the file system, as fsspec takes them: endpoint, credentials. Write "
            "secrets as EnvVar: Dagster stores values that are written in code with the "
            "definitions of each job."
        ),
    )
    max_parallel_downloads: Annotated[int, Field(ge=1), FROM_ENVIRONMENT] = Field(
        default=16,
        description="How many connections fetch files at most. How many there are follows the network.",
    )
    preview_rows: Annotated[int, Field(ge=0), FROM_ENVIRONMENT] = Field(
        default=0,
        description=(
            "How many rows the metadata shows. None by default, because they copy data into the "
            "event log."
        ),
    )
    statistics: bool = Field(
        default=True, description="Whether statistics of the columns are computed for the metadata."
    )
    statistics_columns: list[str] | None = Field(
        default=None,
        description="Which columns have statistics, if an output has them. All by default.",
    )
    row_count_check: RowCountCheck = Field(
        default="error",
        description=(
            "What to do with predictions that have fewer rows than the job's summary has entities: "
            "refuse them ('error'), store them with a warning ('warn'), or store them silently "
            "('off')."
        ),
    )
    grace_period: Annotated[float, Field(ge=0), NOT_FROM_ENVIRONMENT] = Field(
        default=3600.0,
        description="Seconds for which a version that is no longer in force is kept for its readers.",
    )
    kumo: dg.ResourceDependency[KumoResource | None] = None  # pyright: ignore[reportAssignmentType] - the form in which Dagster takes an optional resource
    """The connection, for inputs annotated with `BatchPredictionJobResult`; None takes the one that
    the environment describes."""

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:  # noqa: ARG002 - Dagster's signature
        """Refuse an invalid store before any job is launched.

        Raises:
            ValueError: Nothing can be stored at `base_path` with these `storage_options`.
        """
        try:
            check_usable(self.root(), self.base_path, self._storage_options())
        except ValueError as error:
            raise ValueError(f"{error}\nNo prediction job was launched.") from None

    # Writing

    def check_writable(
        self, asset_key: dg.AssetKey, partition_key: str | None, before: str | None = None
    ) -> None:
        """Check that an output could be stored, before anything is paid for it.

        The disk must have room for as much as is stored of the partition `before`.

        Raises:
            KumoDataError: The output of another asset is stored there.
            OSError: Nothing can be written there; says why, and what to do.
        """
        needed = 0
        if before is not None:
            with contextlib.suppress(KumoDataError, OSError):
                manifest = self.partition_store(asset_key, before).manifest()
                needed = sum(file.size_bytes for file in manifest.files) if manifest else 0
        self.partition_store(asset_key, partition_key).check_writable(needed)

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Store an output: one new version for each partition.

        Raises:
            TypeError: It cannot be stored.
            KumoDataError: A file is not what it should be.
            KumoPartitionsError: Some partitions failed, in a run over several.
        """
        if is_step_value(context):
            write_step_value(self.root(), context, obj)
            return
        if obj is None:
            raise TypeError(nothing_returned(context))
        if isinstance(obj, PartitionOutputs):
            obj.store(
                context,
                lambda asset_key, key, output: self._store_partition(
                    context, partial(self.partition_store, asset_key), key, output
                ),
            )
            return
        store_of = partial(self._store, context)
        keys = partition_keys(context)
        by_partition = isinstance(obj, Mapping) and keys != [None]
        if by_partition and (len(obj) != len(keys) or not all(key in obj for key in keys)):
            raise KumoDataError(
                f"This run is for the partitions {listed(keys)} of {name_of(context)}, but its value has "
                f"{listed(list(obj)) or 'none'}. "
                "Return a dictionary with a value for each partition of the run."
            )
        if len(keys) == 1:
            value = obj[keys[0]] if by_partition else obj
            context.add_output_metadata(self._store_partition(context, store_of, keys[0], value))
            return
        if not by_partition:
            raise KumoDataError(
                f"{name_of(context)} is made for {len(keys)} partitions in one run, so its value must be a "
                "dictionary by partition key. Return one, or give the asset BackfillPolicy.multi_run()."
            )
        store_each(context, obj, partial(self._store_partition, context, store_of))

    def _store_partition(
        self,
        context: dg.OutputContext,
        store_of: Callable[[str | None], "PartitionStore"],
        key: str | None,
        obj: Any,
    ) -> dict[str, Any]:
        from dagster_kumo.predictions.store.tables import as_predictions
        from dagster_kumo.predictions.store.transfer import transfer

        store = store_of(key)
        before = None
        if isinstance(obj, FinishedOutput):
            output, transferred = obj.output, obj.transferred
            with store.shared_version(obj.plan.version) as version:
                stored = self._validate_and_commit(context, version, output, transferred)
        elif before := self._stored_before(context, store, output := as_predictions(obj)):
            stored, transferred = before
        else:
            with store.new_version() as version:
                transferred = transfer(
                    output.files,
                    version,
                    max_parallel=self.max_parallel_downloads,
                    summarise=self.summarised,
                )
                stored = self._validate_and_commit(context, version, output, transferred)
        files, mega = len(transferred.files), transferred.size_bytes / 1e6
        size = f"{mega:,.1f} MB" if mega >= 1 else f"{mega * 1e3:,.0f} kB"
        if not before and transferred.seconds >= 1:
            size += f" at {mega / transferred.seconds:,.1f} MB/s"
        context.log.info(
            f"{'Kept' if before else 'Stored'} {transferred.num_rows:,} rows in {files} "
            f"file{'s' * (files != 1)} ({size}) in {store.directory}"
        )
        return output_metadata(
            context,
            stored,
            transferred,
            partition_key=key,
            provenance=output.provenance,
            preview_rows=self.preview_rows,
            store_of=store_of,
        )

    def _stored_before(
        self, context: dg.OutputContext, store: "PartitionStore", output: Predictions
    ) -> tuple[Predictions, "Transferred"] | None:
        """What an earlier attempt stored of the same job: it is read again, and not fetched again."""
        from dagster_kumo.predictions.store.transfer import read_stored

        manifest = store.manifest() if output.job_id is not None else None
        if manifest is None or manifest.owner != store.owner:
            return None
        if (manifest.job_id, manifest.output_type) != (output.job_id, output.output_type):
            return None
        stored = store.predictions(manifest)
        try:
            transferred = read_stored(stored.files, summarise=self.summarised)
            if transferred.files != manifest.files:
                raise KumoDataError(
                    f"The files in {store.directory} are not those of its manifest."
                )
        except (KumoDataError, OSError) as error:
            context.log.warning(f"What is stored of job {output.job_id} is fetched again: {error}")
            return None
        validate(
            output, transferred, row_count_check=self.row_count_check, warn=context.log.warning
        )
        context.log.info(f"An earlier attempt has stored the files of job {output.job_id}.")
        return stored, transferred

    @property
    def summarised(self) -> bool | list[str]:
        """Whether there are statistics, or of which columns."""
        return self.statistics and (self.statistics_columns is None or self.statistics_columns)

    def _validate_and_commit(
        self,
        context: dg.OutputContext,
        version: "NewVersion",
        output: Predictions,
        transferred: "Transferred",
    ) -> Predictions:
        from dagster_kumo.predictions.store.statistics_file import write_statistics

        warn = context.log.warning
        validate(output, transferred, row_count_check=self.row_count_check, warn=warn)
        entities = output.provenance.num_entities if output.provenance else None
        write_statistics(version, transferred, entities=entities, warn=warn)
        return version.commit(transferred.files, output.provenance)

    # Reading

    def load_input(self, context: dg.InputContext) -> Any:
        """Load an input, as its annotation says.

        Raises:
            FileNotFoundError: It is not stored, or one of its partitions is not.
            TypeError: The annotation or the input's metadata is not supported.
        """
        if context.upstream_output is not None and is_step_value(context.upstream_output):
            return read_step_value(self.root(), context.upstream_output)
        annotation = annotation_of(context)
        metadata = context.definition_metadata or {}
        columns = columns_of(metadata)
        keys = partition_keys(context)
        if annotation.by_partition and keys == [None] and not has_partitions_def(context):
            raise TypeError(
                f"{name_of(context)} has no partitions, so there is no dictionary by partition. "
                "Annotate the input with what the dictionary would hold."
            )
        found = self._found(context, keys)
        missing = [key for key in keys if key not in found]
        allowed = (
            annotation.optional
            or annotation.optional_values
            or (keys != [None] and bool(metadata.get("allow_missing_partitions")))
        )
        if missing and not allowed:
            raise FileNotFoundError(not_stored(context, missing))
        if annotation.by_partition:
            loaded = {key: self._load(annotation, [one], columns) for key, one in found.items()}
            return {key: loaded.get(key) for key in keys} if annotation.optional_values else loaded
        if found:
            return self._load(annotation, list(found.values()), columns)
        if annotation.optional or annotation.is_open:
            return None
        raise FileNotFoundError(
            f"No partition of {name_of(context)} is stored that the input asks for.\n{OR_NONE}"
        )

    def _found(
        self, context: dg.InputContext, keys: Sequence[str | None]
    ) -> dict[str | None, Predictions]:
        """The partitions that are stored, in order."""
        found: dict[str | None, Predictions] = {}
        for key in keys:
            try:
                found[key] = self._store(context, key).read()
            except FileNotFoundError:
                continue
        return found

    def _load(
        self, annotation: Annotation, stored: list[Predictions], columns: Sequence[str] | None
    ) -> Any:
        if annotation.kind is BatchPredictionJobResult:
            return self._job_result(stored)
        load = loader_of(annotation.kind)
        # Several partitions are one output, in the order of their keys.
        files = [file for one in stored for file in one.files]
        output = stored[0] if len(stored) == 1 else Predictions(files)
        return load(output if columns is None else output.select(columns))

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

    # Locations

    def root(self) -> "UPath":
        """The folder of the whole store."""
        return store_root(self.base_path, self._storage_options())

    def _storage_options(self) -> Mapping[str, Any]:
        return unmasked(self, "storage_options") or {}

    def partition_store(
        self, asset_key: dg.AssetKey, partition_key: str | None
    ) -> "PartitionStore":
        """The store of an asset's partition."""
        return self._store_in(asset_key.path, asset_key.to_user_string(), partition_key)

    def _store(
        self, context: dg.InputContext | dg.OutputContext, partition_key: str | None
    ) -> "PartitionStore":
        parts = context.asset_key.path if context.has_asset_key else context.get_identifier()
        return self._store_in(parts, name_of(context), partition_key)

    def _store_in(
        self, parts: Sequence[str], name: str, partition_key: str | None
    ) -> "PartitionStore":
        from dagster_kumo.predictions.store.folder_names import folder_name
        from dagster_kumo.predictions.store.store import PartitionStore

        directory = self.root()
        for part in [*parts, *([partition_key] if partition_key is not None else [])]:
            directory /= folder_name(part)
        # Asset `a` with partition `b` and asset `a/b` have the same folder. On a disk that does not
        # distinguish upper and lower case, so have partitions `b` and `B`.
        owner = f"{name}, partition {partition_key}" if partition_key is not None else name
        return PartitionStore(
            directory, grace_period=timedelta(seconds=self.grace_period), owner=owner
        )
