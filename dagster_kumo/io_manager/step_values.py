"""The values that the steps of a fan-out pass on, through the store, which all steps can reach.

They contain no secrets: a step that fetches a file requests the file's url again.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg

from dagster_kumo.predictions.predictions import Expectation, Predictions, Provenance
from dagster_kumo.predictions.store.folder_names import folder_name

if TYPE_CHECKING:
    from upath import UPath

    from dagster_kumo.predictions.store.transfer import Transferred, TransferredFile

STEP_VALUE = "dagster-kumo/step_value"
_FOLDER = ".steps"


@dataclass(frozen=True)
class OutputPlan:
    """An output whose files are transferred one by one, into a version that is not in force yet."""

    asset_key: dg.AssetKey
    partition_key: str | None
    version: str
    provenance: Provenance
    expectation: Expectation | None
    names: list[str]
    """The names of the files in Kumo."""
    metadata: dict[str, Any]
    """The job."""
    data_version: str
    begun: float
    """The unix time at which the job was done."""


@dataclass(frozen=True)
class PlannedFile:
    """A file to transfer."""

    plan: OutputPlan
    index: int


@dataclass(frozen=True)
class FinishedFile(PlannedFile):
    """A file that has been transferred into the version."""

    file: TransferredFile


@dataclass(frozen=True)
class FinishedOutput:
    """An output whose files are all in the version, which can be put in force."""

    plan: OutputPlan
    transferred: Transferred

    @property
    def output(self) -> Predictions:
        """The job behind it, without the files."""
        return Predictions([], provenance=self.plan.provenance, expectation=self.plan.expectation)


def is_step_value(context: dg.OutputContext | None) -> bool:
    """Whether an output passes between the steps of a fan-out."""
    return context is not None and STEP_VALUE in (context.definition_metadata or {})


def write_step_value(root: UPath, context: dg.OutputContext, value: Any) -> None:
    """Store a value that a step passes on; `root` is the store's folder."""
    path = _path(root, context)
    path.fs.makedirs(path.parent.path, exist_ok=True)
    path.fs.pipe_file(path.path, pickle.dumps(value))


def read_step_value(root: UPath, context: dg.OutputContext) -> Any:
    """The value that a step has passed on.

    Raises:
        FileNotFoundError: It is gone, because the run has succeeded.
    """
    path = _path(root, context)
    try:
        content: Any = path.fs.cat_file(path.path)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"What the step {context.step_key} of run {context.run_id} handed on is not in {root} "
            "any more, or was never there.\n"
            "Materialize again, all steps; base_path must be one place for the machines of all steps."
        ) from None
    return pickle.loads(content)


def remove_step_values(root: UPath, run_ids: Collection[str | None], graph: str) -> None:
    """Remove the values that the steps of a graph passed on in some runs, as far as possible."""
    for run_id in {run_id for run_id in run_ids if run_id is not None}:
        folder = root / _FOLDER / folder_name(graph) / run_id
        with contextlib.suppress(OSError):
            folder.fs.rm(folder.path, recursive=True)


def _path(root: UPath, context: dg.OutputContext) -> UPath:
    graph, _, step = context.step_key.partition(".")
    path = root / _FOLDER
    for part in (graph, context.run_id, step, context.mapping_key or context.name):
        path /= folder_name(part)
    return path
