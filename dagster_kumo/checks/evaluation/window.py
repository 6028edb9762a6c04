"""The outcome window: the time after the anchor time that a prediction is about."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from dateutil.relativedelta import relativedelta

from dagster_kumo.api.errors import KumoError, KumoWindowError
from dagster_kumo.execution.partitions.anchor_time import said_time
from dagster_kumo.jobs.query_columns import parsed_query

Span = timedelta | relativedelta
"""A length of time. `relativedelta(months=1)` is a calendar month."""

_UNITS = ("years", "months", "days", "hours", "minutes", "seconds", "microseconds")
_GIVE_WINDOW = (
    "Give the window where the evaluation is defined, for example window=timedelta(days=30)."
)


@dataclass(frozen=True)
class OutcomeWindow:
    """How long after the anchor time the outcome is known.

    Attributes:
        ends: The ends of the query's windows, after the anchor time. The latest one counts. Which one that is
            may depend on the calendar. Empty for a static query, whose outcome is known at once.
    """

    ends: tuple[relativedelta, ...]

    @classmethod
    def of(cls, span: Span) -> OutcomeWindow:
        """The window that a user gives.

        Raises:
            ValueError: It is not a positive length of time.

        >>> OutcomeWindow.of(timedelta(days=30)).to_json()
        [{'days': 30}]
        """
        start = datetime(2000, 1, 1)
        if start + span <= start:
            raise ValueError(
                f"window={span!r} is no positive length of time. Write window=timedelta(days=30), or "
                "window=relativedelta(months=1) for calendar months."
            )
        if isinstance(span, timedelta):
            span = relativedelta(
                days=span.days, seconds=span.seconds, microseconds=span.microseconds
            )
        return cls((span,))

    @classmethod
    def from_json(cls, ends: list[dict[str, int]]) -> OutcomeWindow:
        """The window that `to_json` describes."""
        return cls(tuple(relativedelta(**end) for end in ends))  # pyright: ignore[reportArgumentType] - units of time alone

    def to_json(self) -> list[dict[str, int]]:
        """The ends by their units."""
        return [
            {unit: value for unit in _UNITS if (value := getattr(end, unit))} for end in self.ends
        ]

    def closes_at(self, anchor: datetime) -> datetime:
        """When the outcome of predictions with this anchor time is known.

        It is counted in UTC, in which Kumo keeps times: a day has 24 hours, whatever clocks do.

        >>> anchor = datetime(2026, 1, 31, tzinfo=timezone.utc)
        >>> OutcomeWindow.of(relativedelta(months=1)).closes_at(anchor).isoformat()
        '2026-02-28T00:00:00+00:00'
        """
        start = anchor.astimezone(timezone.utc)
        return max((start + end for end in self.ends), default=start)

    def check_closed(self, anchor: datetime, *, of: str) -> None:
        """Refuse an evaluation of predictions with this anchor time, which messages call `of`, before the outcome is known.

        Raises:
            KumoWindowError: The window is still open.
        """
        closes_at = self.closes_at(anchor)
        if datetime.now(timezone.utc) < closes_at:
            raise KumoWindowError(
                f"{of} looks ahead until {said_time(closes_at)}, so what happened is not known yet.\n"
                "Materialize the evaluation after that time.",
                closes_at=closes_at,
            )


def window_of_query(query: str, *, forecast_length: int | None = None) -> OutcomeWindow:
    """The window of a predictive query, read by the vendor's parser.

    Args:
        query: The text of the query.
        forecast_length: How many windows a forecast has, if not the query but the options of the prediction
            table say so.

    Raises:
        KumoError: The parser is not installed, or cannot read the query. Says to give the window.

    >>> window_of_query("PREDICT SUM(orders.price, 0, 7, days) FORECAST 4 TIMEFRAMES FOR EACH users.id").to_json()
    [{'days': 28}]
    """
    try:
        parsed = parsed_query(query)
        several = max(parsed.num_forecasts, forecast_length or 1)
        return OutcomeWindow(tuple(_ends(parsed.target_ast, several)))
    except ImportError:
        raise KumoError(
            "The outcome window is read from the predictive query by structured-data-models-pql, which is not "
            f"installed: pip install 'dagster-kumo[evaluation]'.\nOr say it: {_GIVE_WINDOW}"
        ) from None
    except Exception as error:  # noqa: BLE001 - the parser is no supported API: any error may come
        raise KumoError(
            f"The outcome window cannot be read from the predictive query {query!r}: "
            f"{type(error).__name__}: {error}\n{_GIVE_WINDOW}"
        ) from None


def _ends(node: Any, num_forecasts: int) -> Iterator[relativedelta]:
    """The end of each aggregation in a target. What filters an aggregation looks back, and does not count."""
    if type(node).__name__ == "Aggregation":
        span: Any = node.aggr_time_range
        if span is not None:
            start = span.start or 0
            end = start + num_forecasts * (span.end - start)
            unit: str = span.unit.value
            yield relativedelta(**{unit: end})  # pyright: ignore[reportArgumentType] - a unit of time
        return
    for child in node.children:
        yield from _ends(child, num_forecasts)
