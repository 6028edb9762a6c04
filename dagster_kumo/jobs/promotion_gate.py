"""`PromotionGate`: what a candidate must fulfil before it is promoted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from dagster_kumo.jobs.metric_direction import is_error

_ROUNDING = 1e-9
"""Differences that come from floating-point arithmetic alone."""


@dataclass(frozen=True)
class Judgement:
    """What the gate says about one metric."""

    metric: str
    passed: bool
    said: str


@dataclass(frozen=True, kw_only=True)
class PromotionGate:
    """What a candidate must fulfil before it is promoted.

    The metrics are those of Kumo, measured on the holdout data of each training job. Where there is no champion yet,
    only `min_values` and `max_values` count.

    Args:
        min_values: The least value of metrics, such as `{"auroc": 0.7}`.
        max_values: The greatest value of metrics, such as `{"mae": 20}`.
        max_loss: By how much metrics may be worse than the champion's, such as `{"auroc": 0.002}`. Of an
            error, such as mae, it is by how much it may be larger.
        min_gain: By how much metrics must be better than the champion's.
        relative: Whether `max_loss` and `min_gain` are shares of the champion's value: 0.01 is one percent.
        reference: Which metrics of the champion count: `"holdout"` for those on its holdout data, or a
            number n for the mean of its newest n evaluations, which is what its predictions have realized.
            Before its first evaluation, its holdout data count.

    Raises:
        ValueError: A limit is invalid; the message says what to write instead.

    Examples:
        >>> gate = PromotionGate(max_loss={"auroc": 0.002})
        >>> gate.judge({"auroc": 0.791}, {"auroc": 0.795})[0].said
        "auroc 0.791 is 0.004 below the champion's 0.795; needed: not more than 0.002 below"
    """

    min_values: Mapping[str, float] = field(default_factory=dict[str, float])
    max_values: Mapping[str, float] = field(default_factory=dict[str, float])
    max_loss: Mapping[str, float] = field(default_factory=dict[str, float])
    min_gain: Mapping[str, float] = field(default_factory=dict[str, float])
    relative: bool = False
    reference: Literal["holdout"] | int = "holdout"

    def __post_init__(self) -> None:
        if not (self.min_values or self.max_values or self.compared):
            raise ValueError(
                "A PromotionGate without a limit lets everything pass: give min_values, max_values, max_loss "
                "or min_gain, such as PromotionGate(min_values={'auroc': 0.7})."
            )
        for argument in ("max_loss", "min_gain"):
            for name, limit in getattr(self, argument).items():
                if is_error(name) is None:
                    raise ValueError(
                        f"{argument} has {name!r}, of which dagster-kumo does not know whether more or less is "
                        "better. Limit it by min_values or max_values."
                    )
                if not limit >= 0:
                    raise ValueError(f"{argument} of {name} is at least 0, not {limit}.")
        if twice := sorted({*self.max_loss} & {*self.min_gain}):
            raise ValueError(f"{', '.join(twice)}: give max_loss or min_gain, not both.")
        is_count = isinstance(self.reference, int) and not isinstance(self.reference, bool)
        if self.reference != "holdout" and not (is_count and self.reference > 0):
            raise ValueError(
                f"reference is 'holdout' or a number of evaluations, not {self.reference!r}."
            )

    @property
    def compared(self) -> list[str]:
        """The metrics that are compared with the champion's."""
        return [*self.max_loss, *self.min_gain]

    def to_json(self) -> dict[str, Any]:
        """The limits that are set, as JSON."""
        limits = ("min_values", "max_values", "max_loss", "min_gain")
        given = {name: dict(value) for name in limits if (value := getattr(self, name))}
        return {**given, "relative": self.relative, "reference": self.reference}

    def judge(
        self,
        candidate: Mapping[str, float],
        champion: Mapping[str, float] | None,
        *,
        measured: str = "",
    ) -> list[Judgement]:
        """What the gate says about each limit, by the metrics of the candidate and of the champion, if there is one.

        `measured` says on what the champion's were measured. It follows "the champion's 0.795".
        """
        said = [
            self._bounded(name, candidate, limit, least=True)
            for name, limit in self.min_values.items()
        ]
        said += [
            self._bounded(name, candidate, limit, least=False)
            for name, limit in self.max_values.items()
        ]
        if champion is not None:
            said += [self._compared(name, candidate, champion, measured) for name in self.compared]
        return said

    def _bounded(
        self, name: str, candidate: Mapping[str, float], limit: float, *, least: bool
    ) -> Judgement:
        if name not in candidate:
            return Judgement(name, False, _missing(name, "the candidate", candidate))
        value = candidate[name]
        passed = value >= limit - _ROUNDING if least else value <= limit + _ROUNDING
        needed = f"needed: at {'least' if least else 'most'} {limit:g}"
        return Judgement(name, passed, f"{name} is {value:.4g}; {needed}")

    def _compared(
        self,
        name: str,
        candidate: Mapping[str, float],
        champion: Mapping[str, float],
        measured: str,
    ) -> Judgement:
        if name not in candidate:
            return Judgement(name, False, _missing(name, "the candidate", candidate))
        if name not in champion:
            return Judgement(name, False, _missing(name, "the champion", champion, measured))
        value, other = candidate[name], champion[name]
        better, worse = ("below", "above") if is_error(name) else ("above", "below")
        gain = (other - value) if is_error(name) else (value - other)
        if self.relative:
            # Without a value to be a share of, any difference is beyond all limits.
            gain = gain / abs(other) if other else gain * float("inf") if gain else 0.0
        if name in self.max_loss:
            limit = self.max_loss[name]
            passed = gain >= -limit - _ROUNDING
            needed = f"not more than {self._amount(limit)} {worse}" if limit else f"not {worse} it"
        else:
            limit = self.min_gain[name]
            passed = gain >= limit - _ROUNDING
            needed = f"at least {self._amount(limit)} {better}" if limit else f"not {worse} it"
        stands = (
            f"is {self._amount(abs(gain))} {better if gain > 0 else worse}"
            if abs(gain) > _ROUNDING
            else "equals"
        )
        said = f"{name} {value:.4g} {stands} the champion's {other:.4g}{measured}; needed: {needed}"
        return Judgement(name, passed, said)

    def _amount(self, number: float) -> str:
        return f"{number:.2%}" if self.relative else f"{number:.4g}"


def _missing(name: str, whose: str, metrics: Mapping[str, float], measured: str = "") -> str:
    there: Sequence[str] = sorted(metrics)
    return f"{whose} has no {name}{measured}, only {', '.join(there) or 'nothing'}"
