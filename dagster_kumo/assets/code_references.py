"""Where in a project an asset is defined, for the Dagster UI."""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path
from types import FrameType
from typing import Any

import dagster as dg

CODE_REFERENCES = "dagster/code_references"


def reference_to_caller() -> dict[str, Any]:
    """The file and the line that call this package, as metadata of an asset.

    There is none in a notebook, and none for YAML, whose place Dagster notes itself.
    """
    frame = inspect.currentframe()
    while frame is not None and _package_of(frame) == __name__.partition(".")[0]:
        frame = frame.f_back
    if frame is None or _package_of(frame) == dg.__name__:
        return {}
    path = Path(frame.f_code.co_filename)
    if not path.is_file():
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        reference = dg.LocalFileCodeReference(
            file_path=str(path.resolve()), line_number=frame.f_lineno
        )
        return {CODE_REFERENCES: dg.CodeReferencesMetadataValue(code_references=[reference])}


def _package_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]
