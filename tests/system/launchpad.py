"""The launchpad of Dagster's UI: what it fills in, and the run that its button launches."""

from collections.abc import Mapping
from typing import Any

import dagster as dg
import yaml

from tests.system.web_ui import REPOSITORY, web_ui

JOB = "predict"
PREFILLED = """
query ($selector: PipelineSelector!) {
  runConfigSchemaOrError(selector: $selector) {
    __typename
    ... on RunConfigSchema { rootDefaultYaml }
  }
}
"""

defs = dg.Definitions()
"""What the code location of this module has; set by `launch_from_launchpad`."""


def launch_from_launchpad(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    partition_key: str,
    edit: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], dg.ExecuteInProcessResult]:
    """Open the launchpad of the job `predict`, and launch it: the settings of `kumo`, and the run.

    Args:
        definitions: with the job and its resources.
        instance: what keeps the run.
        partition_key: what is chosen in the launchpad.
        edit: settings of `kumo` that the user writes over what is filled in.
    """
    global defs
    defs = definitions
    config: dict[str, Any] = yaml.safe_load(_prefilled(instance)) or {}
    kumo: dict[str, Any] = config["resources"]["kumo"]["config"]
    filled_in = dict(kumo)
    kumo.update(edit or {})
    run = definitions.resolve_job_def(JOB).execute_in_process(
        run_config=config, partition_key=partition_key, instance=instance, raise_on_error=False
    )
    return filled_in, run


def _prefilled(instance: dg.DagsterInstance) -> str:
    with web_ui(instance, __name__) as ask:
        page = ask(PREFILLED, selector={**REPOSITORY, "pipelineName": JOB})
    schema = page["runConfigSchemaOrError"]
    assert schema["__typename"] == "RunConfigSchema", schema
    return schema["rootDefaultYaml"]
