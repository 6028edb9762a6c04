"""Components from YAML, in a project that is made for a test."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
from dagster.components.testing import create_defs_folder_sandbox

from dagster_kumo import KumoIOManager, KumoResource

NEVER_USED = {"kumo": KumoResource(), "kumo_io_manager": KumoIOManager(base_path="/store")}
"""The resources of a project whose assets are only looked at."""


@contextmanager
def project(
    yaml: str, *, resources: Mapping[str, Any] = NEVER_USED
) -> Iterator[tuple[Any, dg.Definitions, Path]]:
    """The component that a `defs.yaml` says, its definitions with those of the project, and its root."""
    with create_defs_folder_sandbox() as sandbox:
        folder = sandbox.defs_folder_path / "under_test"
        folder.mkdir()
        (folder / "defs.yaml").write_text(textwrap.dedent(yaml))
        with sandbox.load_component_and_build_defs(folder) as (component, defs):
            given = dg.Definitions(resources=resources)
            yield component, dg.Definitions.merge(defs, given), sandbox.project_root


def batch_prediction(
    attributes: str,
    *,
    name: str = "purchase",
    prediction: str = "{training_job_id: trainingjob-1}",
) -> str:
    """The YAML of a `KumoBatchPredictionComponent` with these attributes beside those that it needs."""
    needed = f"name: {name}\nprediction: {prediction}\n"
    return _yaml("KumoBatchPredictionComponent", needed + textwrap.dedent(attributes))


def workspace(attributes: str) -> str:
    """The YAML of a `KumoWorkspaceComponent` with these attributes."""
    return _yaml("KumoWorkspaceComponent", textwrap.dedent(attributes))


def _yaml(component: str, attributes: str) -> str:
    return f"type: dagster_kumo.{component}\nattributes:\n{textwrap.indent(attributes, '  ')}"


def keys(defs: dg.Definitions) -> set[str]:
    """The keys of all assets, as texts."""
    return {key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys()}


def refusal(yaml: str) -> str:
    """What is said when the YAML cannot be loaded: all messages, from the outermost to the cause."""
    said: list[str] = []
    try:
        with project(yaml) as (_, defs, _):
            dg.Definitions.validate_loadable(defs)
    except Exception as error:  # noqa: BLE001 - Dagster wraps each in several of its own
        cause: BaseException | None = error
        while cause is not None:
            said.append(str(cause))
            cause = cause.__cause__ or cause.__context__
    assert said, "it loads"
    return "\n".join(said)
