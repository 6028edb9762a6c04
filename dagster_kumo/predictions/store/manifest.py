"""The manifest of an asset partition: which version is in force, and what it holds."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from dagster_kumo.api.errors import KumoDataError
from dagster_kumo.api.records import OutputType, UTCDatetime

MANIFEST = "manifest.json"
FORMAT = 1

# A manifest names only files beside it.
PlainName = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]


class StoredFileEntry(BaseModel):
    """One partition file in a manifest."""

    name: PlainName
    num_rows: int
    size_bytes: int


class _Format(BaseModel):
    """What every manifest has, whatever else changes."""

    format: int


class Manifest(BaseModel):
    """What is stored of one asset partition."""

    format: int = FORMAT
    version: PlainName
    created_at: UTCDatetime
    owner: str | None = None
    """Whose output it is, in the words of the I/O manager."""
    files: list[StoredFileEntry]
    job_id: str | None = None
    output_type: OutputType | None = None
    training_job_id: str | None = None
    prediction_time: UTCDatetime | None = None
    num_entities: int | None = None
    superseded: dict[str, UTCDatetime] = Field(default_factory=dict[str, datetime])
    """Versions that are not in force any more, and since when."""

    @property
    def num_rows(self) -> int:
        return sum(file.num_rows for file in self.files)

    @classmethod
    def parse(cls, content: Any, path: str) -> Manifest:
        """Read a manifest; messages call it by its `path`.

        Raises:
            KumoDataError: It is not a manifest, or one of a newer format.
        """
        try:
            written = _Format.model_validate_json(content).format
            if written != FORMAT:
                raise KumoDataError(
                    f"{path} was written by a newer dagster-kumo (format {written}). Upgrade to read it."
                )
            return cls.model_validate_json(content)
        except ValidationError as error:
            raise KumoDataError(f"{path} is not a manifest of dagster-kumo: {error}") from None
