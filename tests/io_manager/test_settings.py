"""Settings of the I/O manager: taken as Dagster's users write them, refused before anything runs."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_kumo import KumoIOManager


def value_in_a_run(manager: KumoIOManager, field: str) -> Any:
    """What a setting is in a step."""
    seen: list[Any] = []

    @dg.asset(required_resource_keys={"manager"})
    def reader(context: dg.AssetExecutionContext) -> None:
        seen.append(getattr(context.resources.manager, field))

    dg.materialize([reader], resources={"manager": manager})
    return seen[0]


@pytest.mark.parametrize("field", ["max_parallel_downloads", "preview_rows"])
def test_numbers_come_from_the_environment(
    field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = KumoIOManager(base_path=str(tmp_path), **{field: dg.EnvVar.int("NUMBER")})
    monkeypatch.setenv("NUMBER", "3")
    assert value_in_a_run(manager, field) == 3
    monkeypatch.setenv("NUMBER", "-1")
    with pytest.raises(dg.DagsterResourceFunctionError) as refused:
        value_in_a_run(manager, field)
    assert "greater than or equal to" in str(refused.value.__cause__)


def test_a_fraction_is_not_taken_for_zero(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'Write float\(os.environ\["NUMBER"\]\)'):
        KumoIOManager(base_path=str(tmp_path), grace_period=dg.EnvVar.int("NUMBER"))


@pytest.mark.parametrize("field", ["max_parallel_downloads", "preview_rows", "grace_period"])
def test_numbers_written_out_are_checked_at_once(field: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="greater than or equal to"):
        KumoIOManager(base_path=str(tmp_path), **{field: -1})
