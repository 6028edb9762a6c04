"""The command line as people and programs use it: what it prints, and with which code it exits."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dagster_kumo import BatchPredictionJob, KumoClient
from dagster_kumo.api.records import BatchPredictionRequest
from dagster_kumo.cli import main
from dagster_kumo.local import LocalKumo
from tests.api.scripted_server import Answer, ScriptedServer
from tests.support import PURCHASE, has

Run = Callable[..., Result]


def runner() -> CliRunner:
    """One that keeps both outputs apart, which is a choice in click before 8.2."""
    options: Any = {"mix_stderr": False} if "mix_stderr" in signature(CliRunner).parameters else {}
    return CliRunner(**options)


def run_against(server: Any, *words: str, **options: Any) -> Result:
    """Call the command line for a server, with the key in the environment."""
    env = {
        "KUMO_API_KEY": getattr(server, "api_key", "acme:s3cret"),
        "KUMO_API_ENDPOINT": server.url,
    }
    result = runner().invoke(main, words, env={**env, **options.pop("env", {})}, **options)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def on_terminal(server: LocalKumo, width: int, *words: str) -> tuple[list[str], str]:
    """The lines that the installed command prints to a terminal of this width, and its stderr."""
    terminal, child = pty.openpty()
    script = Path(sys.executable).with_name("dagster-kumo")
    env = {"KUMO_API_KEY": server.api_key, "KUMO_API_ENDPOINT": server.url, "COLUMNS": str(width)}
    done = subprocess.run(
        [script, *words], env={**os.environ, **env}, stdout=child, stderr=subprocess.PIPE, text=True
    )
    os.close(child)
    with os.fdopen(terminal, "rb", buffering=0) as file:
        printed = file.read(65536).decode()
    return printed.splitlines(), done.stderr


@pytest.fixture
def run(kumo: LocalKumo) -> Run:
    return lambda *words, **options: run_against(kumo, *words, **options)


@pytest.fixture
def job_id(launch: Callable[..., BatchPredictionJob]) -> str:
    """A job that is done."""
    job = launch(job_tags={"team": "growth"}, prediction_time="2026-11-01T00:00:00")
    job.wait(poll_interval=0.02)
    return job.id


@pytest.fixture(scope="module")
def slow_kumo() -> Iterator[LocalKumo]:
    """A stand-in whose jobs do not end by themselves while a test runs."""
    with LocalKumo(queue_seconds=600) as kumo:
        yield kumo


@pytest.fixture
def queued(slow_kumo: LocalKumo) -> str:
    client = KumoClient(slow_kumo.url, slow_kumo.api_key)
    job_id, _ = client.create_prediction_job(BatchPredictionRequest(model_training_job_id=PURCHASE))
    return job_id


def table(result: Result) -> list[list[str]]:
    """The rows of a printed table, the head first, cut at the places where its columns begin."""
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    starts = [0] + [
        i for i in range(3, len(lines[0])) if lines[0][i - 3 : i] == "   " and lines[0][i] != " "
    ]
    ends = [*starts[1:], 10_000]
    return [[line[a:b].strip() for a, b in zip(starts, ends, strict=True)] for line in lines]


# check


def test_check_says_where_the_key_is_good(run: Run, kumo: LocalKumo) -> None:
    result = run("check")
    assert result.exit_code == 0
    assert result.stdout.split() == [
        *("deployment", kumo.url),
        *("API", "of", "SDK", "2.x"),
        *("API", "key", "accepted"),
    ]
    assert json.loads(run("check", "--json").stdout) == {
        "url": kumo.url,
        "api": "2.x",
        "key_accepted": True,
        "groups": None,
    }


def test_check_lists_the_groups_and_their_projects() -> None:
    with LocalKumo(rbac=True) as kumo:
        said = run_against(kumo, "check").stdout
        assert "group Analytics   projects Churn, Spend" in said
        assert "group Marketing   projects Campaigns" in said
        assert json.loads(run_against(kumo, "check", "--json").stdout)["groups"] == {
            "Analytics": ["Churn", "Spend"],
            "Marketing": ["Campaigns"],
        }
        assert run_against(kumo, "check", "--group", "Analytics").exit_code == 0
        other = run_against(kumo, "check", "--group", "Sales")
        assert other.exit_code == 2
        assert "There is no group 'Sales'; there are: Analytics, Marketing." in other.stderr
        assert run_against(kumo, "jobs", "list").exit_code == 2
        assert run_against(kumo, "jobs", "list", "--group", "Marketing").exit_code == 0


def test_a_refused_key_exits_with_one_and_is_not_printed(run: Run) -> None:
    result = run("check", env={"KUMO_API_KEY": "acme:wr0ng-s3cret"})
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "answered 401" in result.stderr
    assert "Check the API key (KUMO_API_KEY)" in result.stderr
    assert "wr0ng-s3cret" not in result.stderr


def test_without_a_key_nothing_is_asked(run: Run, kumo: LocalKumo) -> None:
    result = run("models", env={"KUMO_API_KEY": ""})
    assert result.exit_code == 2
    assert "set the environment variable KUMO_API_KEY" in result.stderr
    assert kumo.requests == []


def test_no_option_takes_the_key(run: Run) -> None:
    assert run("check", "--api-key", "acme:s3cret").exit_code == 2


def test_the_address_can_be_given(run: Run, kumo: LocalKumo) -> None:
    elsewhere = {"KUMO_API_ENDPOINT": "http://127.0.0.1:9/api"}
    assert run("check", "--url", kumo.url, env=elsewhere).exit_code == 0
    wrong = run("check", "--url", "kumo")
    assert wrong.exit_code == 2
    assert "Not an address of a Kumo API" in wrong.stderr


def test_an_address_without_its_path_is_asked_about(run: Run, kumo: LocalKumo) -> None:
    wrong = run("check", "--url", kumo.url.removesuffix("/api"))
    assert wrong.exit_code == 1
    assert "Does the address end in /api?" in wrong.stderr
    missing = run("jobs", "show", "bp-job-none")
    assert "/api?" not in missing.stderr


def test_a_group_where_there_are_none_is_refused(run: Run) -> None:
    for option in ("--group", "--project"):
        wrong = run("check", option, "Analytics")
        assert wrong.exit_code == 2
        assert "has no groups" in wrong.stderr


@pytest.mark.parametrize("words", [("--port", "99999"), ("--queue-seconds", "-1")])
def test_numbers_of_the_stand_in_that_cannot_be_are_refused(words: tuple[str, str]) -> None:
    assert CliRunner().invoke(main, ["local", *words]).exit_code == 2


def test_the_help_cuts_no_summary(run: Run) -> None:
    assert "..." not in run("--help").stdout.partition("Commands:")[2]


# models


def test_models_are_listed_with_what_tells_them_apart(run: Run) -> None:
    head, *rows = table(run("models", "--tag", "use_case=purchase"))
    assert head == ["training job", "query", "status", "created", "holdout", "tags"]
    by_id = {row[0]: row[1:] for row in rows}
    query, status, created, holdout, tags = by_id[PURCHASE]
    assert (query, status) == ("cdnow_purchase", "DONE")
    assert created.endswith(" UTC")
    assert holdout.startswith("auroc=0.786 ")
    assert tags == "use_case=purchase dataset=cdnow"
    assert by_id["trainingjob-cdnow-purchase-failed"][1] == "FAILED"


def test_models_are_filtered(run: Run, kumo: LocalKumo) -> None:
    def ids(*words: str) -> list[str]:
        return [m["training_job_id"] for m in json.loads(run("models", "--json", *words).stdout)]

    assert ids("--tag", "use_case=spend") == ["trainingjob-cdnow-spend"]
    assert ids("--tag", "use_case=purchase", "--status", "DONE") == [
        PURCHASE,
        "trainingjob-cdnow-purchase-old",
    ]
    assert len(ids("--limit", "2")) == 2
    kumo.faults.ignore_tag_filters()  # as a server may
    assert ids("--tag", "use_case=spend", "--tag", "dataset=cdnow") == ["trainingjob-cdnow-spend"]
    nothing = run("models", "--tag", "use_case=none")
    assert nothing.stdout == "There are no such training jobs.\n"
    assert nothing.exit_code == 0


def test_the_json_of_a_model_has_its_metrics(run: Run) -> None:
    (model,) = json.loads(run("models", "--tag", "use_case=spend", "--json").stdout)
    assert set(model["test_metrics"]) == {"mae", "mse", "rmse"}
    assert model["query"] == "cdnow_spend"


def test_a_model_is_shown_with_its_query(run: Run) -> None:
    shown = run("models", "show", PURCHASE)
    assert shown.exit_code == 0
    facts = dict(re.split(r"\s{3,}", line, maxsplit=1) for line in shown.stdout.splitlines())
    assert facts["status"] == "DONE"
    assert facts["text"].startswith("PREDICT ")
    assert "auroc=" in facts["holdout"]
    assert json.loads(run("models", "show", PURCHASE, "--json").stdout)["tables"]


def test_a_query_without_a_name_is_named_by_its_id(run: Run, kumo: LocalKumo) -> None:
    query = {"query_string": "PREDICT x", "graph": {}, "name": None}
    kumo.faults.answer(200, path="/predictive_queries/", body=query, times=None)
    shown = json.loads(run("models", "show", PURCHASE, "--json").stdout)
    (spend,) = json.loads(run("models", "--tag", "use_case=spend", "--json").stdout)
    assert (shown["query"], spend["query"]) == ("pquery-cdnow-purchase", "pquery-cdnow-spend")


def test_a_prediction_job_is_no_model(run: Run, done_job_id: str) -> None:
    shown = run("models", "show", done_job_id)
    assert shown.exit_code == 1
    assert f"dagster-kumo jobs show {done_job_id}" in shown.stderr


@pytest.mark.usefixtures("nothing_promoted")
def test_models_are_promoted_and_rolled_back(run: Run) -> None:
    old = f"{PURCHASE}-old"
    name = ("--name", "by-hand")
    run("models", "promote", old, *name)
    promoted = run("models", "promote", PURCHASE, *name, "--why", "better on paper")
    again = json.loads(run("models", "promote", PURCHASE, *name, "--json").stdout)
    back = run("models", "rollback", *name)
    too_far = run("models", "rollback", *name)

    assert promoted.stdout.startswith(f"{PURCHASE} predicts for by-hand from now on.\n")
    assert re.search(rf"^before +{old}$", promoted.stdout, re.MULTILINE)
    assert re.search("^why +better on paper$", promoted.stdout, re.MULTILINE)
    assert (again["champion"]["training_job_id"], again["moved"]) == (PURCHASE, False)
    assert back.stdout.startswith(f"{old} predicts for by-hand from now on.\n")
    assert too_far.exit_code == 1
    assert f"{old} is the first champion of by-hand" in too_far.stderr


def test_a_name_that_kumo_cannot_keep_exits_with_two(run: Run) -> None:
    refused = run("models", "promote", PURCHASE, "--name", "none")

    assert refused.exit_code == 2
    assert "'none' cannot name a champion" in refused.stderr


def test_a_model_that_is_not_there_exits_with_one(run: Run) -> None:
    assert run("models", "show", "trainingjob-nobody").exit_code == 1


def test_a_status_is_one_that_kumo_has_in_any_case(run: Run) -> None:
    assert table(run("models", "--status", "done")) == table(run("models", "--status", "DONE"))
    wrong = run("jobs", "list", "--status", "nope")
    assert wrong.exit_code == 2
    assert "'running'" in wrong.stderr.lower()


def test_a_narrow_terminal_gets_fewer_columns_in_one_line_each(run: Run, kumo: LocalKumo) -> None:
    for width in (80, 120, 500):
        lines, said = on_terminal(kumo, width, "models", "--tag", "use_case=purchase")
        assert max(map(len, lines)) <= width
        assert lines[0].startswith("training job")
        assert ("tags. --json prints all" in said) is (width < 500)
    assert "tags" in table(run("models"))[0]


@pytest.mark.usefixtures("job_id")
def test_columns_without_any_value_are_left_out(run: Run) -> None:
    head, *_ = table(run("jobs", "list", "--tag", "team=growth"))
    assert "created" in head
    assert "partition" not in head


@pytest.mark.parametrize("words", [("--tag", "spend"), ("--tag", "=x"), ("--limit", "0")])
def test_wrong_filters_exit_with_two(run: Run, words: tuple[str, str]) -> None:
    assert run("models", *words).exit_code == 2


# jobs


def test_jobs_are_listed(run: Run, job_id: str) -> None:
    head, first, *_ = table(run("jobs", "list", "--tag", "team=growth"))
    assert head[:5] == ["job", "status", "model", "predicts for", "entities"]
    assert first[:5] == [job_id, "DONE", PURCHASE, "2026-11-01 00:00 UTC", "23,570"]


def test_jobs_are_filtered(run: Run, job_id: str) -> None:
    def ids(*words: str) -> list[str]:
        found = json.loads(run("jobs", "list", "--json", *words).stdout)
        return [job["job_id"] for job in found]

    assert ids("--limit", "1") == [job_id]
    assert job_id in ids("--model", PURCHASE, "--status", "DONE")
    assert ids("--model", "trainingjob-none") == []
    assert ids("--status", "QUEUED") == []


def test_a_job_is_shown_with_all_that_is_known(run: Run, job_id: str, kumo: LocalKumo) -> None:
    shown = json.loads(run("jobs", "show", job_id, "--json").stdout)
    assert shown["status"] == "DONE"
    assert shown["prediction_time"] == "2026-11-01T00:00:00+00:00"
    assert shown["num_entities_predicted"] == 23_570
    assert shown["duration_seconds"] > 0
    assert shown["tags"]["team"] == "growth"
    said = run("jobs", "show", job_id).stdout
    assert f"page           {kumo.url.removesuffix('/api')}/jobs/{job_id}\n" in said
    assert "tags           team=growth\n" in said
    assert "predicts for   2026-11-01 00:00 UTC\n" in said


def test_why_a_job_failed_is_shown(
    run: Run, launch: Callable[..., BatchPredictionJob], kumo: LocalKumo
) -> None:
    kumo.faults.fail_job("A column is missing.")
    job = launch()
    job.wait(poll_interval=0.02)
    result = run("jobs", "show", job.id)
    assert result.exit_code == 0
    assert "A column is missing." in result.stdout


def test_the_page_of_a_job_can_be_opened(run: Run, job_id: str, kumo: LocalKumo) -> None:
    page = f"{kumo.url.removesuffix('/api')}/jobs/{job_id}"
    assert run("jobs", "url", job_id).stdout == f"{page}\n"
    assert json.loads(run("jobs", "url", job_id, "--json").stdout)["tracking_url"] == page


def test_a_job_that_is_not_there_exits_with_one(run: Run) -> None:
    for command in ("show", "cancel", "url"):
        result = run("jobs", command, "bp-job-none")
        assert result.exit_code == 1
        assert "Job bp-job-none was not found." in result.stderr
        assert "Traceback" not in result.output
        assert "is a training job" in run("jobs", command, "trainingjob-none").stderr


def test_cancelling_asks_first(slow_kumo: LocalKumo, queued: str) -> None:
    def status() -> str:
        return slow_kumo.jobs[-1]["job_status_report"]["status"]

    def typed(answer: str) -> str:
        """What a person types, which the runner of older clicks adds to stdout."""
        return "" if has("click", "8.2") else f" {answer}\n"

    kept = run_against(slow_kumo, "jobs", "cancel", queued, input="n\n")
    assert (kept.exit_code, kept.stdout) == (1, typed("n"))
    assert f"Cancel {queued} (QUEUED)? [y/N]" in kept.stderr
    assert status() == "QUEUED"
    done = run_against(slow_kumo, "jobs", "cancel", queued, input="y\n")
    assert (done.exit_code, done.stdout) == (0, f"{typed('y')}Cancelled {queued}.\n")
    assert status() == "CANCELLED"


def test_a_program_cancels_without_being_asked(slow_kumo: LocalKumo, queued: str) -> None:
    result = run_against(slow_kumo, "jobs", "cancel", queued, "--yes", "--json")
    assert json.loads(result.stdout) == {"job_id": queued, "cancelled": True}
    again = run_against(slow_kumo, "jobs", "cancel", queued, "--yes")
    assert again.exit_code == 1
    assert f"Prediction job {queued} is CANCELLED: there is nothing to cancel." in again.stderr


def test_who_waits_for_a_job_is_said_before_it_is_cancelled(slow_kumo: LocalKumo) -> None:
    client = KumoClient(slow_kumo.url, slow_kumo.api_key)
    tags = {"dagster.asset": "churn/predictions"}
    job_id, _ = client.create_prediction_job(
        BatchPredictionRequest(model_training_job_id=PURCHASE, job_tags=tags)
    )
    result = run_against(slow_kumo, "jobs", "cancel", job_id, input="n\n")
    assert f"A Dagster run launched {job_id} for churn/predictions." in result.stderr


# Servers of all kinds


def test_nobody_writes_to_the_terminal_by_the_name_of_a_job(server: ScriptedServer) -> None:
    job = {
        "job_id": "bp\x1b[31m-1",
        "job_status_report": {"status": "DONE"},
        "tags": {"note": "[red]a[/red]\nb"},
    }
    server.answer(Answer(json.dumps([job]).encode()))
    result = run_against(server, "jobs", "list")
    assert "bp?[31m-1" in result.stdout
    assert "\x1b" not in result.stdout
    server.answer(Answer(json.dumps(job).encode()))
    assert "note=[red]a[/red]?b" in run_against(server, "jobs", "show", "1").stdout
    server.answer(Answer(b'{"detail": "gone \\u001b[31mred"}', status=404))
    assert "gone ?[31mred" in run_against(server, "jobs", "show", "1").stderr


def test_an_answer_that_is_not_kumos_exits_with_one(server: ScriptedServer) -> None:
    server.answer(Answer(b"<html>Sign in</html>"))
    result = run_against(server, "check")
    assert result.exit_code == 1
    assert "not JSON" in result.stderr


def test_the_installed_command_runs(kumo: LocalKumo, job_id: str) -> None:
    script = Path(sys.executable).with_name("dagster-kumo")
    env = {**os.environ, "KUMO_API_KEY": kumo.api_key, "KUMO_API_ENDPOINT": kumo.url}
    done = subprocess.run([script, "jobs", "url", job_id], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{kumo.url.removesuffix('/api')}/jobs/{job_id}\n"
