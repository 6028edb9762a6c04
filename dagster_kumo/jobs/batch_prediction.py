"""Batch prediction jobs and their results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from dagster_kumo.api.connectors import Connector, MetadataField, TableName, WriteMode
from dagster_kumo.api.errors import KumoDataError, KumoError, KumoJobFailedError
from dagster_kumo.api.records import (
    DONE,
    BatchPredictionJobResource,
    BatchPredictionJobSummary,
    JobProgress,
    OutputType,
)
from dagster_kumo.jobs.export_target import ExportTarget
from dagster_kumo.jobs.outputs import embeddings_urls, read_files
from dagster_kumo.jobs.prediction_table import PredictionTable, PredictionTableJob
from dagster_kumo.jobs.progressing_job import Handle, ProgressingJob

if TYPE_CHECKING:
    import pandas as pd

    from dagster_kumo.predictions.predictions import Predictions


EMBEDDINGS_BY_A_CONNECTOR = (
    "A server that keeps no embeddings can still write them with a connector: "
    'result.export("embeddings", connector), or build_kumo_export_asset(output_type="embeddings", ...).'
)


class BatchPredictionJob(ProgressingJob[JobProgress, "BatchPredictionJobResult"]):
    """A prediction job, running or ended.

    Examples:
        >>> job = BatchPredictionJob("bp-job-1", client)     # doctest: +SKIP
        >>> job.result().summary().num_entities_predicted    # doctest: +SKIP
        23570
    """

    _kind = "prediction job"

    def get(self) -> BatchPredictionJobResource:
        """The job as the server keeps it: status, tags, config and summary."""
        return self._client.get_prediction_job(self.id)

    def progress(self, *, repeat: bool = True) -> JobProgress:
        """How far the job is. With `repeat=False` the request is not retried."""
        return self._client.get_prediction_progress(self.id, repeat=repeat)

    def cancel(self) -> bool:
        """Cancel the job. True if it is cancelled now."""
        return self._client.cancel_prediction_job(self.id)

    def update_tags(self, tags: Mapping[str, str | None]) -> bool:
        """Set tags, or remove those whose value is None."""
        return self._client.update_prediction_job_tags(self.id, tags)

    def _result(self) -> BatchPredictionJobResult:
        return BatchPredictionJobResult(self.id, self._client)


class BatchPredictionJobResult(Handle):
    """The result of a prediction job: everything that the official SDK's class of this name offers.

    Examples:
        >>> result = BatchPredictionJobResult("bp-job-1", client)   # doctest: +SKIP
        >>> for table in result.predictions():                      # doctest: +SKIP
        ...     print(table.num_rows)
    """

    _kind = "prediction job"
    _ended: BatchPredictionJobResource | None = None

    def get(self) -> BatchPredictionJobResource:
        """The job as the server describes it. After the job has ended, the answer is cached."""
        if self._ended is not None:
            return self._ended
        job = self._client.get_prediction_job(self.id)
        if job.job_status_report.is_terminal:
            self._ended = job
        return job

    @property
    def tracking_url(self) -> str:
        """The job's page in Kumo."""
        return self._client.public_url(self.get().job_status_report.tracking_url)

    def summary(self) -> BatchPredictionJobSummary:
        """Summary statistics of the output.

        Raises:
            KumoJobFailedError: The job has not ended, or not DONE, so there are none.
        """
        result = self.done_job().result
        if result is None:
            raise KumoError(f"{self._called} is DONE, but the server keeps no summary of it.")
        return result

    def done_job(self) -> BatchPredictionJobResource:
        """The job as the server keeps it, which is DONE.

        Raises:
            KumoJobFailedError: The job has not ended, or not DONE.
        """
        job = self.get()
        status = job.job_status_report.status
        if not job.job_status_report.is_terminal:
            raise KumoJobFailedError(
                f"{self._called} is {status} and has no summary yet. "
                "Wait for it with BatchPredictionJob(...).result().",
                job_id=self.id,
                status=status,
            )
        self._check_done(job.job_status_report)
        return job

    @property
    def prediction_table(self) -> PredictionTable | PredictionTableJob:
        """The prediction table that the job used: the table if its job is done, otherwise that job.

        Raises:
            KumoError: There is none: the job used a table given by its path, or failed early.
        """
        table_job_id = self.get().config.pred_table_job_id
        if table_job_id is None:
            raise KumoError(
                f"{self._called} has no prediction table job: it used a table given by its "
                "path, or ended before its table was made."
            )
        job = PredictionTableJob(table_job_id, self._client)
        return PredictionTable(table_job_id, self._client) if job.status().status == DONE else job

    def export(
        self,
        output_type: OutputType,
        output_connector: Connector,
        output_table_name: TableName | None = None,
        *,
        metadata_fields: Sequence[MetadataField] = (),
        write_mode: WriteMode | None = None,
    ) -> str:
        """Start an export of an output to a warehouse or a bucket.

        Args:
            output_type: `predictions` or `embeddings`.
            output_connector: Where to, for example `SnowflakeConnector("warehouse")`.
            output_table_name: The table or folder, to which `_<output_type>` is added; a pair
                `(schema, table)` for Databricks. None names it after the job.
            metadata_fields: Further columns, `ANCHOR_TIMESTAMP` and `JOB_TIMESTAMP`.
            write_mode: `OVERWRITE` (the default of the service) or `APPEND`, if the warehouse
                supports it.

        Returns:
            the id of the export job; `ArtifactExportJob(id, client).result()` waits for it.

        Raises:
            ValueError: The connector does not have one of the options. Nothing has been sent.
        """
        target = ExportTarget(
            connector=output_connector,
            table_name=output_table_name if output_table_name is not None else self.id,
            output_type=output_type,
            write_mode=write_mode,
            metadata_fields=metadata_fields,
        )
        return self._client.create_export(self.id, target.request())

    def predictions_urls(self) -> list[str]:
        """The urls of the files: on SaaS they are presigned, so they are secrets and expire."""
        return self._client.get_output_urls(self.id, "predictions")

    def predictions_df(self) -> pd.DataFrame:
        """All predictions in memory. Read large outputs file by file, with `predictions()`."""
        return self.predictions().to_pandas()

    def predictions(self) -> Predictions:
        """The predictions, one file at a time."""
        return self._output("predictions", self.predictions_urls)

    def embeddings_urls(self) -> list[str]:
        """The urls of the files: on SaaS they are presigned, so they are secrets and expire."""
        return self._client.get_output_urls(self.id, "embeddings")

    def embeddings_df(self) -> pd.DataFrame:
        """All embeddings in memory. Read large outputs file by file, with `embeddings()`."""
        return self.embeddings().to_pandas()

    def embeddings(self) -> Predictions:
        """The embeddings, one file at a time.

        Raises:
            KumoDataError: Kumo keeps none; the message says how to get them.
        """
        return self._output("embeddings", self._embeddings_urls)

    def _embeddings_urls(self) -> list[str]:
        urls = embeddings_urls(self._client, self.id)
        if not urls:
            raise KumoDataError(
                f"Kumo has no files of the embeddings of prediction job {self.id}: they were not asked "
                f"for, or this server does not keep them.\n{EMBEDDINGS_BY_A_CONNECTOR}"
            )
        return urls

    def _output(self, output_type: OutputType, urls: Callable[[], list[str]]) -> Predictions:
        from dagster_kumo.predictions.predictions import Provenance

        job = self.done_job()
        # A job that made embeddings alone has no summary on some servers, and they have no count.
        summary = self.summary() if output_type == "predictions" else job.result
        return read_files(
            self._client,
            urls,
            what=f"The {output_type} of prediction job {self.id}",
            provenance=Provenance(
                job_id=self.id,
                output_type=output_type,
                training_job_id=job.config.model_training_job_id or None,
                prediction_time=job.config.prediction_time,
                num_entities=summary.num_entities_predicted if summary else None,
                binary_classification_threshold=(
                    job.config.predict_options.binary_classification_threshold
                ),
            ),
        )
