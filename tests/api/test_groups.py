"""Deployments with groups and projects (RBAC)."""

from __future__ import annotations

import json

import pytest

from dagster_kumo import KumoAPIError, KumoClient
from dagster_kumo.local import LocalKumo
from tests.api.scripted_server import Answer


@pytest.fixture(scope="module")
def grouped():
    with LocalKumo(rbac=True) as kumo:
        yield kumo


@pytest.fixture
def connect(grouped):
    grouped.clear_requests()
    return lambda **scope: KumoClient(grouped.url, grouped.api_key, request_max_retries=0, **scope)


@pytest.mark.parametrize("group", ["Analytics", "group-analytics"])
@pytest.mark.parametrize("project", ["Spend", "project-spend"])
def test_group_and_project_are_given_by_name_or_id(grouped, connect, group, project):
    connect(group=group, project=project).list_prediction_jobs()
    asked = grouped.requests[-1]
    assert asked.status == 200
    assert asked.query["group_id"] == "group-analytics"
    assert asked.query["project_id"] == "project-spend"


def test_they_are_looked_up_once_and_sent_with_every_call(grouped, connect):
    client = connect(group="Marketing")
    for _ in range(3):
        client.list_prediction_jobs({"a": "b"})
    paths = [request.path.rpartition("/")[2] for request in grouped.requests]
    assert paths == ["authentication", "config", "groups"] + ["prediction_jobs"] * 3
    assert [r.query.get("group_id") for r in grouped.requests[3:]] == ["group-marketing"] * 3
    assert all(r.query["a"] == "b" for r in grouped.requests[3:])


@pytest.mark.parametrize(
    ("scope", "said"),
    [
        ({"group": "Sales"}, "no group 'Sales'; there are: Analytics, Marketing"),
        ({"group": "Analytics", "project": "X"}, "no project 'X'; there are: Churn, Spend"),
        ({}, "several groups (Analytics, Marketing): name one with group="),
    ],
)
def test_a_scope_that_is_not_there_is_refused_with_those_that_are(connect, scope, said):
    with pytest.raises(ValueError) as caught:
        connect(**scope).list_prediction_jobs()
    assert said in str(caught.value)


def answer_with_groups(groups: object):
    answers = {"/api/config": {"rbac": True}, "/api/v1/groups": groups}
    return lambda request: Answer(json.dumps(answers.get(request.path, [])).encode())


def test_the_only_group_needs_no_name(server):
    server.answer_by(answer_with_groups([{"group_id": "g-1", "display_name": "All"}]))
    KumoClient(server.url, "acme:s3cr3t").check()
    assert server.calls[-1].path == "/api/v1/connectors?group_id=g-1"


def test_a_key_without_any_group_is_told_so(server):
    server.answer_by(answer_with_groups([]))
    with pytest.raises(ValueError, match="no group"):
        KumoClient(server.url, "acme:s3cr3t").check()


def test_groups_of_another_shape_are_an_api_error(server):
    server.answer_by(answer_with_groups([{"name": "All"}]))
    with pytest.raises(KumoAPIError, match="list of groups"):
        KumoClient(server.url, "acme:s3cr3t", group="All").check()


@pytest.mark.parametrize("flags", [Answer(b"", 404), Answer(b"{}"), Answer(b"[]"), Answer(b"null")])
def test_without_groups_nothing_is_added(server, flags):
    server.answer_by(lambda request: flags if request.path == "/api/config" else Answer(b"[]"))
    KumoClient(server.url, "acme:s3cr3t", group="ignored").check()
    assert [call.path for call in server.calls] == ["/api/v1/connectors"]
