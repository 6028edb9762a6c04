"""`KumoResource`: the connection to Kumo, with predict(), export() and train()."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, cast

import dagster as dg
from pydantic import BeforeValidator, Field, PrivateAttr

from dagster_kumo.api.client import KumoClient
from dagster_kumo.api.connection import LAUNCH_SETTLING_TIME
from dagster_kumo.api.connectors import Connector, MetadataField, TableName, WriteMode
from dagster_kumo.api.records import OutputType
from dagster_kumo.execution.adopted_job import adopted_job
from dagster_kumo.execution.env_numbers import FROM_ENVIRONMENT, NOT_FROM_ENVIRONMENT
from dagster_kumo.execution.export_run import ExportRun
from dagster_kumo.execution.launch.held_run import warn_unless_held
from dagster_kumo.execution.launches import model_for_run
from dagster_kumo.execution.masked_secrets import MASK, SECRET, from_environment, unmasked
from dagster_kumo.execution.model_observation import observe_model
from dagster_kumo.execution.prediction_run import PredictionRun
from dagster_kumo.execution.selection import RunDefinition, check_has_run
from dagster_kumo.execution.settings import CancelOnTermination, CostRate, RunSettings
from dagster_kumo.execution.training_run import train
from dagster_kumo.jobs.batch_prediction import BatchPredictionJob, BatchPredictionJobResult
from dagster_kumo.jobs.export_target import ExportTarget
from dagster_kumo.jobs.training_job import TrainingJob
from dagster_kumo.jobs.training_spec import TrainingSpec
from dagster_kumo.jobs.waiting import POLL_INTERVAL

DEFAULT_RESOURCE_KEY = "kumo"


def _check_verify_ssl(value: Any) -> Any:
    """Accept True, False, a path, and an `EnvVar` with a path."""
    if isinstance(value, bool | str) or (isinstance(value, Mapping) and list(value) == ["env"]):
        return value
    raise ValueError(f"verify_ssl is True, False or the path of a CA bundle, not {value!r}.")


class SnowflakeCredentials(dg.Config):
    """The login to Snowflake, for a deployment in Snowpark Container Services.

    Give either a password or a private key.
    """

    user: str = Field(
        description="The user. Its default role must be allowed to use Kumo's service."
    )
    account: str = Field(description="The account's identifier, for example `myorg-account123`.")
    password: str | None = Field(default=None, repr=False, json_schema_extra=SECRET)
    private_key: str | None = Field(
        default=None,
        repr=False,
        json_schema_extra=SECRET,
        description="The key for key-pair authentication, as PEM text.",
    )
    private_key_passphrase: str | None = Field(
        default=None,
        repr=False,
        json_schema_extra=SECRET,
        description="The passphrase, if the key is encrypted.",
    )
    host: str | None = Field(
        default=None,
        description=(
            "The account's host, if it is not reached by its public name, for example with a "
            "private link."
        ),
    )


def _check_snowflake(value: Any) -> Any:
    if value is None or value == MASK or isinstance(value, SnowflakeCredentials):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(f"snowflake is SnowflakeCredentials, not {type(value).__name__}.")
    given = cast(Mapping[str, Any], value)
    return SnowflakeCredentials(
        **{
            name: dg.EnvVar(one["env"]) if isinstance(one, Mapping) else one
            for name, one in given.items()
        }
    )


class KumoResource(dg.ConfigurableResource):  # pyright: ignore[reportMissingTypeArgument] - the argument is the class itself
    """The connection to one Kumo deployment.

    Every setting has a default: with `KUMO_API_KEY` in the environment, `KumoResource()` is enough.

    ```pycon
    >>> import dagster as dg
    >>> defs = dg.Definitions(
    ...     resources={"kumo": KumoResource(api_key=dg.EnvVar("KUMO_API_KEY"))},
    ... )

    ```
    """

    api_key: str | None = Field(
        default=None,
        repr=False,
        json_schema_extra=SECRET,
        description=(
            "`<customer_id>:<secret>`. Falls back to the environment variable KUMO_API_KEY. With url and "
            "neither of the two, no key is sent: a self-hosted deployment may ask for none."
        ),
    )
    url: str | None = Field(
        default=None,
        description=(
            "The API's address. Falls back to KUMO_API_ENDPOINT, then to the customer in the key."
        ),
    )
    # Secret as a whole: the Dagster UI would show secret fields of a nested value.
    # Any, because the launchpad replaces a secret by a text.
    snowflake: Annotated[Any, BeforeValidator(_check_snowflake)] = Field(
        default=None,
        json_schema_extra=SECRET,
        description=(
            "Instead of an API key, for a deployment in Snowpark Container Services. Needs url."
        ),
    )
    group: str | None = Field(
        default=None,
        description="The group to work in, by name or id, if the deployment has groups.",
    )
    project: str | None = Field(
        default=None,
        description=(
            "The project to work in, by name or id, if the deployment has groups. On SDK 3.0 also by slug, "
            "and the default project if left out."
        ),
    )
    request_timeout: Annotated[float, Field(gt=0), NOT_FROM_ENVIRONMENT] = Field(
        default=60.0,
        description="Seconds without data, or with almost none, after which a request counts as lost.",
    )
    request_max_retries: Annotated[int, Field(ge=0), FROM_ENVIRONMENT] = Field(
        default=8,
        description="How often a request is repeated after 408, 429, 5xx or a broken connection.",
    )
    max_requests_per_second: Annotated[float | None, Field(gt=0), NOT_FROM_ENVIRONMENT] = Field(
        default=None,
        description=(
            "How many calls to Kumo's API all runs of this user on this machine may make per second, together. "
            "Each machine, pod or container counts separately. No limit by default."
        ),
    )
    poll_interval: Annotated[float, Field(gt=0), NOT_FROM_ENVIRONMENT] = Field(
        default=POLL_INTERVAL,
        description=(
            "The longest time between two polls of a job, in seconds. Polls are frequent at first "
            "and less frequent later, depending on the time waited and on the job's own estimate."
        ),
    )
    poll_timeout: Annotated[float | None, Field(gt=0), NOT_FROM_ENVIRONMENT] = Field(
        default=None,
        description=(
            "How long to wait for a job, in seconds. No limit by default. A job that takes longer "
            "is not cancelled."
        ),
    )
    max_concurrent_jobs: Annotated[int, Field(ge=1), FROM_ENVIRONMENT] = Field(
        default=10,
        description=(
            "How many Kumo jobs a run over several partitions keeps going at the same time "
            "(BackfillPolicy.single_run())."
        ),
    )
    launch_settling_time: Annotated[float, Field(ge=0), NOT_FROM_ENVIRONMENT] = Field(
        default=LAUNCH_SETTLING_TIME,
        description=(
            "Seconds until a job that was launched appears in all of Kumo's answers. For this "
            "long, a later attempt looks for the job of an earlier one before it launches, and a "
            "404 for a new job is not an error. A first launch does not wait."
        ),
    )
    cancel_on_termination: CancelOnTermination = Field(
        default="user",
        description=(
            "Whether Kumo jobs are cancelled with their run: if a user terminates it ('user'), "
            "also if its process is evicted or the run passes its time limit ('always'), or never "
            "('never')."
        ),
    )
    cost_per_job_hour: Annotated[float | None, Field(ge=0), NOT_FROM_ENVIRONMENT] = Field(
        default=None,
        description=(
            "What an hour of a prediction job costs you, in a currency of your own. With it, "
            "materializations have the entry dagster-kumo/cost."
        ),
    )
    cost_per_thousand_entities: Annotated[float | None, Field(ge=0), NOT_FROM_ENVIRONMENT] = Field(
        default=None, description="What a prediction costs you for a thousand entities, likewise."
    )
    # Any, because Dagster has no type for a union in a resource.
    verify_ssl: Annotated[Any, BeforeValidator(_check_verify_ssl)] = Field(
        default=True,
        description=(
            "False accepts any TLS certificate. A path names a bundle of CAs to trust; it can be "
            "an `EnvVar`."
        ),
    )

    _client: KumoClient | None = PrivateAttr(default=None)

    def get_client(self) -> KumoClient:
        """The client for Kumo's API.

        Raises:
            ValueError: There are neither an API key nor Snowflake credentials, or no address.
        """
        if self._client is None:
            self._client = KumoClient(
                self.url,
                unmasked(self, "api_key"),
                snowflake=self._snowflake(),
                group=self.group,
                project=self.project,
                request_timeout=self.request_timeout,
                request_max_retries=self.request_max_retries,
                max_requests_per_second=self.max_requests_per_second,
                launch_settling_time=self.launch_settling_time,
                verify_ssl=from_environment("verify_ssl", self.verify_ssl),
            )
        return self._client

    def _snowflake(self) -> dict[str, Any] | None:
        credentials = unmasked(self, "snowflake")
        if isinstance(credentials, SnowflakeCredentials):
            credentials = credentials.model_dump()
        return from_environment("snowflake", credentials)

    def batch_prediction_job(self, job_id: str) -> BatchPredictionJob:
        """A prediction job, by its id."""
        return BatchPredictionJob(job_id, self.get_client())

    def batch_prediction_job_result(self, job_id: str) -> BatchPredictionJobResult:
        """The result of a prediction job, by the job's id."""
        return BatchPredictionJobResult(job_id, self.get_client())

    def training_job(self, job_id: str) -> TrainingJob:
        """A training job, by its id."""
        return TrainingJob(job_id, self.get_client())

    def predict(
        self, context: dg.AssetExecutionContext, *, model: dg.AssetKey | None = None
    ) -> Iterator[dg.MaterializeResult[Any]]:
        """Run the prediction of assets made by `@kumo_assets`, and yield their results.

        For each partition of the run, it launches a job or attaches to the job of an earlier
        attempt, and waits for it. It passes each selected output to the I/O manager as
        `Predictions`. No file is read before that. With `prediction_table="generate"`, a job makes
        each table first. If the run's tag `dagster-kumo/deliver_job` names a job that is done, the
        run delivers that job instead.

        Args:
            context: The context of the assets.
            model: The asset of the trained model, at which an observation describes the model.

        Raises:
            KumoModelError: There is no trained model as asked for.
            KumoValidationError: Kumo refused the launch.
            KumoJobFailedError: The job ended FAILED or CANCELLED.
            KumoDataError: The job or its table is for another time than the partition's; or another asset's
                output is stored in the place.
            OSError: The I/O manager cannot store the outputs. No job was launched.
            KumoPartitionsError: Some partitions failed with one of these, in a run over several.
        """
        check_has_run(context)
        warn_unless_held(context)
        definition = RunDefinition.of(context)
        client = self.get_client()
        adopted = adopted_job(context, client, definition)
        trained = (
            adopted.model if adopted else model_for_run(context, client, definition.prediction)
        )
        if model is not None:
            observe_model(context, client, trained, model)
        yield from PredictionRun(context, self._settings(), definition, trained, adopted).results()

    def export(
        self,
        context: dg.AssetExecutionContext,
        *,
        predictions: dg.AssetKey,
        connector: Connector,
        table_name: TableName,
        output_type: OutputType = "predictions",
        write_mode: WriteMode | None = None,
        metadata_fields: Sequence[MetadataField] = (),
    ) -> Iterator[dg.MaterializeResult[Any]]:
        """Export an output of the job behind an upstream asset, and yield the result.

        Args:
            context: The context of the export asset; its partition is the one that is exported.
            predictions: The asset whose latest materialization says which prediction job it was.
            connector: Where to.
            table_name: The table or folder, to which `_<output_type>` is added. `{partition_key}` in
                it stands for the partition.
            output_type: `predictions` or `embeddings`.
            write_mode: `OVERWRITE` or `APPEND`, if the warehouse supports it.
            metadata_fields: Further columns, `ANCHOR_TIMESTAMP` and `JOB_TIMESTAMP`.

        Raises:
            KumoError: The upstream asset has not been materialized by a prediction job.
            KumoJobFailedError: The export ended FAILED or CANCELLED.
            KumoPartitionsError: Some partitions failed, in a run over several.
        """
        check_has_run(context)
        target = ExportTarget(
            connector=connector,
            table_name=table_name,
            output_type=output_type,
            write_mode=write_mode,
            metadata_fields=metadata_fields,
        )
        settings = self._settings()
        yield from ExportRun(context, settings, predictions=predictions, target=target).results()

    def train(
        self,
        context: dg.AssetExecutionContext,
        training: TrainingSpec,
        *,
        champion_of: str | None = None,
    ) -> Iterator[dg.MaterializeResult[Any]]:
        """Train a candidate, and yield the result: an asset whose materialization is a training job.

        It launches a training job or attaches to that of an earlier attempt, and waits for it.

        Args:
            context: The context of the candidate's asset, which has no partitions.
            training: What to train.
            champion_of: The name whose champion's metrics stand beside those of the candidate.

        Raises:
            KumoModelError: There is no such query, or no such training job to train again.
            KumoJobFailedError: The job ended FAILED or CANCELLED.
        """
        check_has_run(context)
        warn_unless_held(context)
        yield from train(context, self._settings(), training, champion_of)

    @property
    def cost_rate(self) -> CostRate:
        """What jobs cost."""
        return CostRate(self.cost_per_job_hour, self.cost_per_thousand_entities)

    def _settings(self) -> RunSettings:
        return RunSettings(
            client=self.get_client(),
            poll_interval=self.poll_interval,
            poll_timeout=self.poll_timeout,
            max_concurrent_jobs=self.max_concurrent_jobs,
            cancel_on_termination=self.cancel_on_termination,
            rate=self.cost_rate,
        )


class LocalKumoResource(KumoResource):
    """A stand-in for Kumo on this machine, with a small model of its own. It is not Kumo.

    It starts by itself with the first call, in a process that all runs share, and ends half an hour after the last
    one. It needs the extra `local`.

    ```pycon
    >>> import dagster as dg
    >>> defs = dg.Definitions(resources={"kumo": LocalKumoResource(data="data/kumo")})

    ```
    """

    data: str = Field(description="The folder for jobs, prediction files and exports.")
    queue_seconds: float = Field(default=0.5, ge=0, description="How long a job is QUEUED.")
    run_seconds: float = Field(default=1.5, ge=0, description="How long a job is RUNNING.")
    api: str = Field(
        default="2", description="Generation of the API: '2' as of SDK 2.x, '3' as of SDK 3.0."
    )
    poll_interval: Annotated[float, Field(gt=0), NOT_FROM_ENVIRONMENT] = Field(
        default=1.0, description="The longest time between two polls of a job, in seconds."
    )

    def get_client(self) -> KumoClient:
        """The client for the stand-in, which is started if it does not run.

        Raises:
            RuntimeError: It does not start; says where its log is.
        """
        if self._client is None:
            from dagster_kumo.local import LocalKumo

            local = LocalKumo.shared(
                self.data,
                queue_seconds=self.queue_seconds,
                run_seconds=self.run_seconds,
                api="3" if self.api == "3" else "2",
            )
            self._client = KumoClient(local.url, local.api_key)
        return self._client
