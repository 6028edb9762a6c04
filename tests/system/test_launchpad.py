"""A run from the launchpad: Dagster fills in a mask for each secret, and launches with the mask."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_kumo import KumoIOManager, KumoResource
from dagster_kumo.local import LocalKumo
from tests.support import day, instance_in, purchase_assets
from tests.system.launchpad import JOB, launch_from_launchpad

MASK = "********"


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with instance_in(tmp_path / "home") as instance:
        yield instance


def definitions(
    kumo: KumoResource, base_path: object, options: dict[str, Any] | None = None
) -> dg.Definitions:
    assets = purchase_assets()
    given = {} if options is None else {"storage_options": options}
    return dg.Definitions(
        assets=[assets],
        jobs=[dg.define_asset_job(JOB, [assets])],
        resources={
            "kumo": kumo,
            "kumo_io_manager": KumoIOManager(base_path=str(base_path), **given),
        },
    )


@pytest.mark.parametrize("written", ["variable", "literal", "nothing"])
def test_what_the_launchpad_fills_in_runs(
    written: str,
    kumo: LocalKumo,
    instance: dg.DagsterInstance,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KUMO_API_KEY" if written == "nothing" else "OUR_KEY", kumo.api_key)
    key = {"variable": dg.EnvVar("OUR_KEY"), "literal": kumo.api_key}
    resource = KumoResource(url=kumo.url, **({"api_key": key[written]} if written in key else {}))

    filled_in, run = launch_from_launchpad(definitions(resource, tmp_path), instance, day(3))

    assert run.success
    assert filled_in["api_key"] == MASK


def test_options_of_the_store_survive_the_launchpad(
    kumo: LocalKumo,
    instance: dg.DagsterInstance,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MODE", "0")
    resource = KumoResource(url=kumo.url, api_key=kumo.api_key)
    options = {"auto_mkdir": True, "token": {"env": "MODE"}}

    _, run = launch_from_launchpad(
        definitions(resource, tmp_path.as_uri(), options), instance, day(3)
    )

    assert run.success
    assert (tmp_path / "purchase" / "predictions" / day(3) / "manifest.json").exists()


def test_a_variable_that_is_written_into_the_launchpad_is_taken(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANOTHER_KEY", kumo.api_key)
    resource = KumoResource(url=kumo.url, api_key="wrong:key")

    edit = {"api_key": {"env": "ANOTHER_KEY"}}
    _, run = launch_from_launchpad(definitions(resource, tmp_path), instance, day(3), edit)

    assert run.success


def test_a_variable_behind_the_mask_that_is_not_set_is_named(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    resource = KumoResource(url=kumo.url, api_key=dg.EnvVar("A_KEY_THAT_IS_NOT_SET"))

    _, run = launch_from_launchpad(definitions(resource, tmp_path), instance, day(3))

    (failed,) = run.get_step_failure_events()
    assert (
        "variable A_KEY_THAT_IS_NOT_SET, which is not set"
        in failed.step_failure_data.error_display_string
    )
    assert not kumo.requests


def test_the_mask_is_never_sent_as_a_key(kumo: LocalKumo) -> None:
    kumo.clear_requests()

    with pytest.raises(ValueError, match="Delete the line api_key in the launchpad"):
        KumoResource(url=kumo.url, api_key=MASK).get_client()
    assert not kumo.requests


def test_options_that_are_no_dictionary_are_refused() -> None:
    with pytest.raises(ValueError, match="storage_options is a dictionary by option, not 'anon'"):
        KumoIOManager(base_path="s3://b/x", storage_options="anon")
    with pytest.raises(ValueError, match="snowflake is SnowflakeCredentials, not str"):
        KumoResource(url="https://kumo.example/api", snowflake="me")
