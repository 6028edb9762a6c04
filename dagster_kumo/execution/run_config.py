"""`KumoRunConfig`: what one run of a prediction does differently from its definition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import dagster as dg
from pydantic import Field
from typing_extensions import Self

from dagster_kumo.jobs.prediction_spec import BatchPrediction


class KumoRunConfig(dg.Config):
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

    def _check(self) -> None:
        for name in ("training_job_id", "deliver_job"):
            if getattr(self, name) is not None and not getattr(self, name).strip():
                raise ValueError(
                    f"{name} is empty in the run configuration. Write the id of a job, or leave {name} out."
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
