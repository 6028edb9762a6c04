"""`BatchPrediction`: the prediction to run, as it is written where the assets are defined."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from datetime import datetime
from typing import Any, Literal, get_args

from dagster_kumo.api.connectors import kept_by_kumo
from dagster_kumo.api.records import (
    OUTPUT_TYPES,
    BatchPredictionRequest,
    OutputType,
    PredictOptions,
)

Anchor = Literal["end", "start"]
TableChoice = Literal["inline", "generate"]
TABLE_OPTIONS = ("forecast_length", "lag_timesteps", "year_over_year")
MAX_WORKERS = 4
OWN_TAG_PREFIX = "dagster."

_NAMES_OF_MODEL = ("training_job_id", "training_job_tags", "champion_of")
_TAG_KEY = re.compile(r"[A-Za-z0-9._-]{1,64}")
MAX_TAG_VALUE = 256


def check_job_tags(tags: Mapping[str, str]) -> None:
    """Refuse tags that a Kumo job cannot carry.

    Raises:
        ValueError: One has a key or a value that Kumo does not take, or a key of Dagster's own tags.
    """
    for key, value in tags.items():
        if not _TAG_KEY.fullmatch(key) or key.startswith(OWN_TAG_PREFIX):
            raise ValueError(
                f"{key!r} cannot be a tag of a Kumo job: a key has at most 64 letters, digits, dots, "
                f"underscores and dashes, and does not begin with {OWN_TAG_PREFIX!r}."
            )
        if len(value) > MAX_TAG_VALUE:
            raise ValueError(f"The tag {key!r} is longer than {MAX_TAG_VALUE} characters.")


def changed_fields(spec: object, kind: type[Any]) -> dict[str, Any]:
    """The fields of the dataclass `kind` that differ from their defaults in `spec`, as JSON."""
    changed: dict[str, Any] = {}
    for one in fields(kind):
        default = one.default if one.default_factory is MISSING else one.default_factory()
        if (value := getattr(spec, one.name)) != default:
            changed[one.name] = dict(value) if isinstance(value, Mapping) else value
    return changed


@dataclass(frozen=True, kw_only=True)
class BatchPrediction:
    """A batch prediction to run: which model, for which time, with which options.

    Args:
        training_job_id: The training job whose model predicts.
        training_job_tags: Instead of an id, tags of the training job. Each run uses the newest
            training job that is DONE and carries them all.
        champion_of: Instead of an id or tags, the name whose champion predicts: the training job that was
            promoted last. Each run looks for its mark in Kumo.
        outputs: `predictions`, `embeddings` or both. They come from one job.
        binary_classification_threshold: The probability from which TARGET_PRED is true, 0 to 1.
        num_classes_to_return: The maximum number of classes for each entity; the most likely ones
            are kept.
        num_workers: How many workers share the work, 1 to 4; each writes one file.
        anchor: The anchor time, the point in time that predictions look ahead from: the `"end"` or
            the `"start"` of the partition's time window. With None, and without partitions, Kumo
            takes the latest time in the data.
        prediction_table: `"inline"` sends the anchor time with the launch, which needs a newer
            server. `"generate"` first runs a job that makes a prediction table with that anchor
            time, which works with every server.
        prediction_table_options: For a forecasting model with `"generate"`, the options that it was
            trained with: `forecast_length`, `lag_timesteps`, `year_over_year`. Kumo chooses those
            that are left out.
        prediction_table_job_id: Predict for the entities of this prediction table.
        prediction_table_path: Predict for the entities of your own prediction table at this path.
        graph_snapshot_id: A snapshot of the data to predict from; by default a fresh one.
        job_tags: Further tags of the Kumo job.

    Raises:
        ValueError: An argument is invalid; the message says what to write instead.

    Examples:
        >>> BatchPrediction(training_job_id="trainingjob-1", outputs=("predictions", "embeddings")).outputs
        ('predictions', 'embeddings')
    """

    training_job_id: str | None = None
    training_job_tags: Mapping[str, str] | None = None
    champion_of: str | None = None
    outputs: Sequence[OutputType] = ("predictions",)
    binary_classification_threshold: float | None = None
    num_classes_to_return: int | None = None
    num_workers: int = 1
    anchor: Anchor | None = "end"
    prediction_table: TableChoice = "inline"
    prediction_table_options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    prediction_table_job_id: str | None = None
    prediction_table_path: str | None = None
    graph_snapshot_id: str | None = None
    job_tags: Mapping[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        self._check_model()
        self._check_outputs()
        self._check_options()
        self._check_table()
        check_job_tags(self.job_tags)

    def to_json(self) -> dict[str, Any]:
        """The fields that differ from the defaults, as JSON. `BatchPrediction(**json)` is equal to this."""
        return {**changed_fields(self, BatchPrediction), "outputs": list(self.outputs)}

    def with_model(self, training_job_id: str) -> BatchPrediction:
        """The same prediction by another model."""
        named: dict[str, Any] = dict.fromkeys(_NAMES_OF_MODEL)
        return replace(self, **{**named, "training_job_id": training_job_id})

    @property
    def generates_table(self) -> bool:
        """Whether a prediction table is made first."""
        return self.prediction_table == "generate"

    @property
    def gives_own_table(self) -> bool:
        """Whether the entities come from a prediction table that already exists."""
        return bool(self.prediction_table_job_id or self.prediction_table_path)

    def request(
        self,
        *,
        training_job_id: str,
        outputs: Sequence[OutputType],
        prediction_time: datetime | None = None,
        prediction_table_job_id: str | None = None,
    ) -> BatchPredictionRequest:
        """The request for one job, without the tags of the run.

        A prediction table has its own time. Predictions alone are requested by an empty list, as the
        SDK does, since every server knows that. Embeddings must be named.
        """
        return BatchPredictionRequest(
            job_tags=dict(self.job_tags),
            model_training_job_id=training_job_id,
            predict_options=PredictOptions(
                binary_classification_threshold=self.binary_classification_threshold,
                num_classes_to_return=self.num_classes_to_return,
                num_workers=self.num_workers,
            ),
            outputs=[kept_by_kumo(t) for t in OUTPUT_TYPES] if "embeddings" in outputs else [],
            graph_snapshot_id=self.graph_snapshot_id,
            pred_table_job_id=prediction_table_job_id or self.prediction_table_job_id,
            pred_table_path=self.prediction_table_path,
            prediction_time=None if prediction_table_job_id else prediction_time,
        )

    def _check_model(self) -> None:
        given = [name for name in _NAMES_OF_MODEL if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(
                f"BatchPrediction names several models: give {' or '.join(given)}, not both."
            )
        if not given:
            raise ValueError(
                "BatchPrediction names no model: give training_job_id='trainingjob-...', "
                "training_job_tags={'use_case': '...'} for the newest one that carries them, "
                "or champion_of='...' for the promoted one."
            )
        if self.champion_of:
            check_champion_name(self.champion_of)

    def _check_outputs(self) -> None:
        if isinstance(self.outputs, str):
            raise ValueError(f"outputs is a sequence: write outputs=({self.outputs!r},).")
        unknown: list[Any] = [o for o in self.outputs if o not in OUTPUT_TYPES]
        if unknown or not self.outputs:
            raise ValueError(
                f"outputs holds {' or '.join(map(repr, OUTPUT_TYPES))} or both, not {unknown or 'nothing'}."
            )
        if len(set(self.outputs)) < len(self.outputs):
            raise ValueError(f"outputs names one twice: {tuple(self.outputs)}.")
        # A list, as JSON has it, is the same.
        object.__setattr__(self, "outputs", tuple(self.outputs))

    def _check_options(self) -> None:
        threshold = self.binary_classification_threshold
        if threshold is not None and not 0 <= threshold <= 1:
            raise ValueError(
                f"binary_classification_threshold is a probability, 0 to 1, not {threshold}."
            )
        if self.num_classes_to_return is not None and self.num_classes_to_return < 1:
            raise ValueError(
                f"num_classes_to_return is at least 1, not {self.num_classes_to_return}; "
                "leave it out for all classes."
            )
        if not 1 <= self.num_workers <= MAX_WORKERS:
            raise ValueError(f"num_workers is 1 to {MAX_WORKERS}, not {self.num_workers}.")
        if self.anchor is not None and self.anchor not in get_args(Anchor):
            raise ValueError(f"anchor is 'end', 'start' or None, not {self.anchor!r}.")

    def _check_table(self) -> None:
        if self.prediction_table not in get_args(TableChoice):
            raise ValueError(
                f"prediction_table is 'inline' or 'generate', not {self.prediction_table!r}."
            )
        if self.prediction_table_job_id and self.prediction_table_path:
            raise ValueError(
                "A prediction table is given by its job or by its path: give prediction_table_job_id "
                "or prediction_table_path, not both."
            )
        if self.generates_table and self.gives_own_table:
            raise ValueError(
                "A prediction table is generated or given: leave out prediction_table='generate', or "
                "prediction_table_job_id and prediction_table_path."
            )
        if self.prediction_table_options and not self.generates_table:
            raise ValueError(
                "prediction_table_options are for a table that is generated: "
                "write prediction_table='generate'."
            )
        for name, value in self.prediction_table_options.items():
            self._check_table_option(name, value)

    @staticmethod
    def _check_table_option(name: str, value: object) -> None:
        if name not in TABLE_OPTIONS:
            raise ValueError(
                f"{name!r} is no option of a prediction table; there are: {', '.join(TABLE_OPTIONS)}."
            )
        if name == "year_over_year":
            if not isinstance(value, bool):
                raise ValueError(f"year_over_year is True or False, not {value!r}.")
            return
        least = 1 if name == "forecast_length" else 0
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} is a whole number, at least {least}, not {value!r}.")


def check_champion_name(name: str) -> None:
    """Refuse a name that a tag in Kumo cannot hold.

    Raises:
        ValueError: It is not a plain word.
    """
    if not _TAG_KEY.fullmatch(name) or name.lower() == "none":  # which removes a tag
        raise ValueError(
            f"{name!r} cannot name a champion: write at most 64 letters, digits, dots, underscores and "
            "dashes, such as champion_of='churn'."
        )
