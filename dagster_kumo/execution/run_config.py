"""`KumoRunConfig` and `KumoTrainingRunConfig`: what one run does differently from its definition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import dagster as dg
from pydantic import Field
from typing_extensions import Self

from dagster_kumo.jobs.prediction_spec import BatchPrediction
from dagster_kumo.jobs.training_spec import TrainingSpec


class _RunConfig(dg.Config):
    deliver_job: str | None = None
    launch_anew: bool = Field(
        default=False,
        description=(
            "Launch a new job, even if a run that this one re-executes has already launched one. "
            "Retries of this run attach to the new job."
        ),
    )

    @classmethod
    def given(cls, config: object) -> Self:
        """The fields in the configuration of an op. There are none if the op has another class for it.

        Raises:
            ValueError: A field is empty, or two contradict each other.
        """
        if not isinstance(config, Mapping) or not cls.model_fields.keys() <= config.keys():
            return cls()
        found = cls(**{name: config[name] for name in cls.model_fields})
        found._check()
        return found

    @classmethod
    def of_run(cls, run: dg.DagsterRun, op: str) -> Self:
        """The fields for one op in the configuration of a run that has not begun.

        Raises:
            ValueError: As above.
        """
        ops: Any = run.run_config.get("ops") or {}
        config: Mapping[str, Any] = (ops.get(op) or {}).get("config") or {}
        unset = {name: field.default for name, field in cls.model_fields.items()}
        return cls.given(unset | dict(config))

    def _check(self) -> None:
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, str) and not value.strip():
                raise ValueError(
                    f"{name} is empty in the run configuration. Write a value, or leave {name} out."
                )
        others = [
            name
            for name in type(self).model_fields
            if name != "deliver_job" and getattr(self, name) not in (None, False)
        ]
        if self.deliver_job is not None and others:
            raise ValueError(
                f"deliver_job is {self.deliver_job}, a job that is done, so {' and '.join(others)} cannot change "
                f"it. Leave deliver_job out to launch a job, or leave {' and '.join(others)} out."
            )


class KumoRunConfig(_RunConfig):
    """The run configuration of predictions. Dagster's launchpad shows the fields.

    It applies to one run. Every prediction asset takes it, under the name of its op: the key of the first output
    with underscores, as in `churn__predictions`. A function of `@kumo_assets` with a `config` of its own can
    subclass it.

    Examples:
        >>> import dagster as dg
        >>> run_config = dg.RunConfig(
        ...     ops={"churn__predictions": KumoRunConfig(training_job_id="trainingjob-2")}
        ... )
    """

    training_job_id: str | None = Field(
        default=None, description="The training job whose model predicts, instead of the usual one."
    )
    binary_classification_threshold: float | None = Field(
        default=None, description="The probability from which TARGET_PRED is true, 0 to 1."
    )
    deliver_job: str | None = Field(
        default=None,
        description=(
            "A prediction job that is done. The run stores its result, and launches no job. It must have used "
            "the same model, and be for the partition of the run."
        ),
    )

    def applied_to(self, prediction: BatchPrediction) -> BatchPrediction:
        """The prediction that the run makes.

        Raises:
            ValueError: The threshold is invalid.
        """
        if self.training_job_id is not None:
            prediction = prediction.with_model(self.training_job_id)
        if self.binary_classification_threshold is not None:
            threshold = self.binary_classification_threshold
            prediction = replace(prediction, binary_classification_threshold=threshold)
        return prediction


class KumoTrainingRunConfig(_RunConfig):
    """The run configuration of a candidate. Dagster's launchpad shows the fields.

    It applies to one run, under the name of the candidate's op, as in `churn__candidate`.

    Examples:
        >>> import dagster as dg
        >>> run_config = dg.RunConfig(
        ...     ops={"churn__candidate": KumoTrainingRunConfig(run_mode="best")}
        ... )
    """

    like: str | None = Field(
        default=None,
        description="A training job to train again, with its query and its plan, instead of the usual ones.",
    )
    run_mode: str | None = Field(
        default=None,
        description="By a plan that Kumo suggests instead of the usual one: fast, normal, best or debug.",
    )
    warm_start: bool | None = Field(
        default=None,
        description="Whether training begins with the weights of the training job that is trained again.",
    )
    deliver_job: str | None = Field(
        default=None,
        description=(
            "A training job that is done. The run records it as the candidate, and launches no job. It must have "
            "been trained for the same query."
        ),
    )

    def applied_to(self, training: TrainingSpec) -> TrainingSpec:
        """What the run trains.

        Raises:
            ValueError: The fields do not fit what is trained otherwise.
        """
        if self.like is not None:
            training = replace(training, query=None, like=self.like, model_plan=None, run_mode=None)
        if self.run_mode is not None:
            training = replace(training, model_plan=None, run_mode=self.run_mode)
        if self.warm_start is not None:
            training = replace(training, warm_start=self.warm_start)
        return training
