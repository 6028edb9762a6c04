"""`dg` from end to end, in a project that has nothing but YAML."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from dagster_kumo import KumoIOManager
from dagster_kumo.local import LocalKumo
from tests.support import day, instance_in

pytestmark = pytest.mark.scale

BATCH_PREDICTION = "dagster_kumo.KumoBatchPredictionComponent"
WORKSPACE = "dagster_kumo.KumoWorkspaceComponent"

PYPROJECT = """\
[project]
name = "shop"
version = "0.1.0"

[tool.dg]
directory_type = "project"

[tool.dg.project]
root_module = "shop"
"""
# As it is in every project that `create-dagster project` makes.
DEFINITIONS = """\
from pathlib import Path

from dagster import definitions, load_from_defs_folder


@definitions
def defs():
    return load_from_defs_folder(path_within_project=Path(__file__).parent)
"""
# Several commands in one process, since each takes seconds to begin.
COMMANDS = """\
import json, sys
from dagster_dg_cli.cli import cli

for command in json.loads(sys.argv[1]):
    print("$ dg", *command, flush=True)
    code = cli.main(command, prog_name="dg", standalone_mode=False)
    if code:
        sys.exit(f"dg {' '.join(command)} ended with {code}")
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    package = tmp_path / "shop" / "src" / "shop"
    (package / "defs").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "definitions.py").write_text(DEFINITIONS)
    root = tmp_path / "shop"
    (root / "pyproject.toml").write_text(PYPROJECT)
    return root


def dg_commands(
    shop: Path, commands: list[list[str]], **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run commands of `dg` in a project, until one fails."""
    environment = {
        # Instead of installing the project, in addition to what the tests themselves run with.
        "PYTHONPATH": os.pathsep.join([str(shop / "src"), os.environ.get("PYTHONPATH", "")]),
        "DAGSTER_DG_CLI_TELEMETRY_ENABLED": "false",
        "COLUMNS": "200",
        **environment,
    }
    return subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps(commands)],
        cwd=shop,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.timeout(300)
def test_from_nothing_to_predictions(kumo: LocalKumo, shop: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    connection = {"KUMO_API_KEY": kumo.api_key, "KUMO_API_ENDPOINT": kumo.url}
    store = str(tmp_path / "store")
    made = ["churn/predictions", "cdnow_spend/predictions"]
    scaffold = ["scaffold", "defs"]
    in_process = '{"execution": {"config": {"in_process": {}}}}'
    commands = [
        ["list", "components"],
        [
            *scaffold,
            BATCH_PREDICTION,
            "churn",
            "--base-path",
            store,
            "--training-job-id",
            "trainingjob-cdnow-purchase",
        ],
        [*scaffold, WORKSPACE, "models", "--base-path", store, "--query-name", "cdnow_spend"],
        ["utils", "refresh-defs-state"],
        ["check", "defs"],
        ["launch", "--assets", ",".join(made), "--partition", day(2), "--config-json", in_process],
    ]

    before = len(kumo.jobs)

    run = dg_commands(shop, commands, DAGSTER_HOME=str(home), **connection)

    assert run.returncode == 0, f"{run.stdout[-3000:]}\n{run.stderr[-6000:]}"
    listed, _, _ = run.stdout.partition("$ dg scaffold")
    assert BATCH_PREDICTION in listed
    assert WORKSPACE in listed
    assert "All component YAML validated successfully." in run.stdout
    assert "All definitions loaded successfully." in run.stdout + run.stderr
    manager = KumoIOManager(base_path=store)
    with instance_in(home) as instance:
        for key in map(dg.AssetKey.from_user_string, made):
            assert instance.get_materialized_partitions(key) == {day(2)}
            assert manager.partition_store(key, day(2)) is not None
    launched = {job["config"]["model_training_job_id"] for job in kumo.jobs[before:]}
    assert launched == {"trainingjob-cdnow-purchase", "trainingjob-cdnow-spend"}
    for file in [*shop.rglob("*"), *home.rglob("*")]:
        assert not file.is_file() or kumo.api_key.encode() not in file.read_bytes(), file


WRONG = """\
type: dagster_kumo.KumoBatchPredictionComponent
attributes:
  name: churn
  prediction:
    trainig_job_id: trainingjob-1
  exports:
    - connector: {type: snowflake, nam: warehouse}
      table_name: CHURN
  patitions_def: {type: daily, start_date: "2026-01-01"}
"""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("command", ["yaml", "defs"])
def test_a_wrong_field_is_named_with_the_right_one(shop: Path, command: str) -> None:
    folder = shop / "src/shop/defs/churn"
    folder.mkdir()
    (folder / "defs.yaml").write_text(WRONG)
    options = ["--no-check-yaml"] if command == "defs" else []

    run = dg_commands(shop, [["check", command, *options]])

    assert run.returncode
    said = run.stdout + run.stderr
    assert "any of the given schemas" not in said
    if command == "defs":  # which reads no further
        assert "There is no field patitions_def. Did you mean partitions_def?" in said
        return
    for wrong, right in [
        ("trainig_job_id", "training_job_id"),
        ("nam", "name"),
        ("patitions_def", "partitions_def"),
    ]:
        assert f"('{wrong}' was unexpected)" in said
        fields, *_ = re.findall(f"'{wrong}' is not one of (.*)", said)
        assert f"'{right}'" in fields
