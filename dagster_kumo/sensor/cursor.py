"""What the sensor remembers from one tick to the next.

Kumo lists jobs by creation, newest first, but jobs end in any order. So the cursor holds how far the
list has been visited, oldest first, and which of the visited jobs had not ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from dagster_kumo.api.records import UTCDatetime

# These bound the size of the cursor. While more jobs wait, new jobs are not visited until some of them end.
MAX_WAITING = 200
MAX_SEEN = 500


@dataclass(frozen=True)
class Cursor:
    """How far the search has come. As text it takes a few kilobytes at most."""

    after: UTCDatetime
    """All jobs created until then have been visited."""
    seen: Sequence[str] = ()
    """Visited jobs that were created later."""
    waiting: Sequence[str] = ()
    """Visited jobs that had not ended or could not be read, least recently visited first."""

    @classmethod
    def from_text(cls, text: str) -> Cursor:
        """The cursor that `to_text` wrote.

        Raises:
            ValueError: The text is not a cursor.
        """
        try:
            return TypeAdapter(cls).validate_json(text)
        except ValidationError:
            raise ValueError("it is not a cursor of this sensor") from None

    def to_text(self) -> str:
        """The cursor as text."""
        return TypeAdapter(Cursor).dump_json(self).decode()
