"""Materializing in a deployment with groups and projects (RBAC)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_kumo import KumoIOManager, KumoResource
from dagster_kumo.local import LocalKumo
from tests.support import day, error_of, purchase_assets


@pytest.fixture(scope="module")
def grouped() -> Iterator[LocalKumo]:
    with LocalKumo(rbac=True) as kumo:
        yield kumo


@pytest.fixture
def kumo(grouped: LocalKumo) -> LocalKumo:
    grouped.clear_requests()
    return grouped


def materialize(kumo: LocalKumo, base_path: Path, **scope: Any) -> dg.ExecuteInProcessResult:
    resource = KumoResource(url=kumo.url, api_key=kumo.api_key, request_max_retries=0, **scope)
    store = KumoIOManager(base_path=str(base_path), statistics=False)
    return dg.materialize(
        [purchase_assets()],
        resources={"kumo": resource, "kumo_io_manager": store},
        partition_key=day(5),
        raise_on_error=False,
    )


@pytest.mark.parametrize(
    ("group", "project"), [("Analytics", "Churn"), ("group-analytics", "project-churn")]
)
def test_every_call_of_a_run_names_group_and_project(
    group: str, project: str, kumo: LocalKumo, tmp_path: Path
) -> None:
    run = materialize(kumo, tmp_path, group=group, project=project)

    assert run.success
    assert kumo.jobs[-1]["project_id"] == "project-churn"
    calls = [
        request
        for request in kumo.requests
        if request.path.startswith("/api/v1/")
        and not request.path.endswith(("authentication", "groups", "projects"))
    ]
    assert len(calls) > 5
    assert {(c.query.get("group_id"), c.query.get("project_id")) for c in calls} == {
        ("group-analytics", "project-churn")
    }


REFUSED: dict[str, tuple[dict[str, str], str]] = {
    "no such group": ({"group": "Sales"}, "no group 'Sales'; there are: Analytics, Marketing"),
    "no such project": (
        {"group": "Marketing", "project": "Churn"},
        "no project 'Churn'; there are: Campaigns",
    ),
    "none of several": ({}, "several groups (Analytics, Marketing): name one with group="),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_there_is_refused_with_what_is(
    what: str, kumo: LocalKumo, tmp_path: Path
) -> None:
    scope, said = REFUSED[what]
    launched = len(kumo.jobs)

    run = materialize(kumo, tmp_path, **scope)

    found_class, message = error_of(run)
    assert found_class == "ValueError"
    assert said in message
    assert len(kumo.jobs) == launched


def test_the_sdks_environment_variable_turns_groups_off(
    kumo: LocalKumo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RBAC_ENABLED", "false")

    KumoResource(url=kumo.url, api_key=kumo.api_key).get_client().check()

    paths = [request.path for request in kumo.requests]
    assert paths == ["/api/v1/authentication", "/api/v1/connectors"]
    assert kumo.requests[-1].query == {}
