"""`KumoBatchPredictionComponent`: what its YAML makes, and what it refuses."""

from __future__ import annotations

import dataclasses
import datetime as dt
import textwrap
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster.components.testing import create_defs_folder_sandbox
from dateutil.relativedelta import relativedelta

from dagster_kumo import (
    BatchPrediction,
    DatabricksConnector,
    KumoBatchPredictionComponent,
    KumoEvaluation,
    KumoExport,
    KumoIOManager,
    KumoResource,
    KumoTraining,
    PromotionGate,
    SnowflakeConnector,
    build_kumo_assets_definitions,
)
from dagster_kumo.assets.specs import AssetOptions
from dagster_kumo.local import LocalKumo
from tests.components.sandbox import NEVER_USED, batch_prediction, keys, project, refusal
from tests.support import PURCHASE, files_below, resources
from tests.system.other_server import OtherServer

DAILY = "partitions_def: {type: daily, start_date: 2026-01-01}\n"


def partitions_of(defs: dg.Definitions) -> dg.PartitionsDefinition | None:
    graph = defs.resolve_asset_graph()
    return graph.get(dg.AssetKey(["purchase", "predictions"])).partitions_def


# Resources #################################################################################


def test_without_resources_of_its_own_it_takes_those_of_the_project(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    with OtherServer() as server:
        mine = {
            "kumo": KumoResource(url=server.url, api_key=server.api_key),
            "kumo_io_manager": KumoIOManager(base_path=str(tmp_path)),
        }
        checks = "checks: [{max_anchor_age: 36500 days, holdout_drift: true}]"
        yaml = batch_prediction(DAILY + checks)
        with project(yaml, resources=mine) as (_, defs, _):
            run = defs.resolve_implicit_global_asset_job_def().execute_in_process(
                instance=instance, partition_key="2026-02-01"
            )

    assert run.success
    (made,) = run.get_asset_materialization_events()
    assert made.asset_key == dg.AssetKey(["purchase", "predictions"])
    assert {e.check_name for e in run.get_asset_check_evaluations() if e.passed} == {
        "anchor_age",
        "drift",
        "entities_match_summary",
        "holdout_drift",
        "null_fraction",
        "scores_in_range",
        "unique_entities",
    }
    assert any(file.endswith(".parquet") for file in files_below(tmp_path))


def test_two_components_bring_along_different_connections() -> None:
    with create_defs_folder_sandbox() as sandbox:
        for name in ("churn", "spend"):
            folder = sandbox.defs_folder_path / name
            folder.mkdir()
            yaml = f"""
            kumo: {{api_key: "{{{{ env.{name.upper()}_KEY }}}}"}}
            io_manager: {{base_path: /store/{name}}}
            """
            (folder / "defs.yaml").write_text(batch_prediction(yaml, name=name))
        with sandbox.build_all_defs() as defs:
            dg.Definitions.validate_loadable(defs)
            assert set(defs.resources or {}) == {
                "churn_kumo",
                "churn_kumo_io_manager",
                "spend_kumo",
                "spend_kumo_io_manager",
            }


MODEL_AND_ALL = """
exports: [{connector: {type: snowflake, name: warehouse}, table_name: PURCHASE}]
checks: [{}]
schedule: {cron_schedule: 0 6 * * *}
"""


def in_a_project(**files: str) -> set[str]:
    """The keys of a project with these files, whose definitions can be loaded together."""
    with create_defs_folder_sandbox() as sandbox:
        for name, text in files.items():
            folder = sandbox.defs_folder_path / name
            folder.mkdir()
            ending = "py" if text.startswith("import") else "yaml"
            (folder / f"defs.{ending}").write_text(text)
        with sandbox.build_all_defs() as found:
            defs = dg.Definitions.merge(found, dg.Definitions(resources=NEVER_USED))
            dg.Definitions.validate_loadable(defs)
            defs.resolve_implicit_global_asset_job_def()
            return keys(defs)


def of_model(*path: str) -> set[str]:
    made = ("model", "predictions", "predictions_in_snowflake")
    return {"/".join((*path, asset)) for asset in made}


TABLES = """\
import dagster as dg

@dg.multi_asset(name="purchase", specs=[dg.AssetSpec("customers"), dg.AssetSpec("purchase")])
def tables(): ...
"""


def test_a_model_may_have_the_name_of_a_table_and_its_op() -> None:
    model = batch_prediction(MODEL_AND_ALL + "deps: [customers, purchase]")
    assert in_a_project(tables=TABLES, model=model) == {
        "customers",
        "purchase",
        *of_model("purchase"),
    }


@pytest.mark.parametrize("fan_out", ["true", "false"])
def test_models_of_one_name_live_under_two_prefixes(fan_out: str) -> None:
    models = {
        prefix: batch_prediction(
            MODEL_AND_ALL
            + f"kumo: {{url: https://{prefix}.example}}\n"
            + f"io_manager: {{base_path: /store/{prefix}}}\n"
            + f"translation: {{key_prefix: {prefix}}}\n"
            + f"fan_out: {fan_out}\n"
        )
        for prefix in ("eu", "us-east")
    }
    made = {*of_model("eu", "purchase"), *of_model("us-east", "purchase")}
    assert in_a_project(**models) == made


def test_two_models_may_stand_in_one_file() -> None:
    both = "\n---\n".join(batch_prediction(MODEL_AND_ALL, name=n) for n in ("purchase", "spend"))
    assert in_a_project(models=both) == {*of_model("purchase"), *of_model("spend")}


TEMPLATE_VARIABLES = """\
import dagster as dg

@dg.multi_asset(specs=[dg.AssetSpec("customers"), dg.AssetSpec(["dwh", "orders"])])
def both(): ...

@dg.template_var
def tables(): return both
"""


def test_dependencies_may_be_definitions_by_a_template() -> None:
    yaml = batch_prediction(
        """
        deps: ["{{ tables }}", dwh/more]
        exports:
          - connector: {type: snowflake, name: warehouse}
            table_name: PURCHASE
            deps: ["{{ tables }}"]
        """
    )
    yaml = f"template_vars_module: .variables\n{yaml}"
    several = {dg.AssetKey("customers"), dg.AssetKey(["dwh", "orders"])}
    with create_defs_folder_sandbox() as sandbox:
        folder = sandbox.defs_folder_path / "purchase"
        folder.mkdir()
        (folder / "defs.yaml").write_text(yaml)
        (folder / "variables.py").write_text(TEMPLATE_VARIABLES)
        with sandbox.load_component_and_build_defs(folder) as (_, found):
            defs = dg.Definitions.merge(found, dg.Definitions(resources=NEVER_USED))
            graph = defs.resolve_asset_graph()
    model, predictions, export = (
        graph.get(dg.AssetKey.from_user_string(key)) for key in sorted(of_model("purchase"))
    )
    assert model.parent_keys == {*several, dg.AssetKey(["dwh", "more"])}
    assert predictions.parent_keys == {*model.parent_keys, model.key}
    assert export.parent_keys == {*several, predictions.key}


@pytest.mark.parametrize("fan_out", ["true", "false"])
def test_a_prefix_goes_with_all_of_it(fan_out: str, kumo: LocalKumo, tmp_path: Path) -> None:
    yaml = f"""
    exports: [{{connector: {{type: snowflake, name: warehouse}}, table_name: PURCHASE}}]
    checks: [{{}}]
    translation: {{key_prefix: ml}}
    fan_out: {fan_out}
    """
    prediction = f"{{training_job_id: {PURCHASE}}}"
    mine = resources(kumo, tmp_path)
    with (
        project(batch_prediction(yaml, prediction=prediction), resources=mine) as (_, defs, _),
        dg.DagsterInstance.ephemeral() as instance,
    ):
        job = defs.resolve_implicit_global_asset_job_def()
        run = job.execute_in_process(instance=instance)
        observed = dg.AssetKey(["ml", "purchase", "model"])
        assert instance.fetch_observations(observed, limit=1).records
    made = {e.asset_key.to_user_string() for e in run.get_asset_materialization_events()}
    assert made == of_model("ml", "purchase") - {"ml/purchase/model"}
    evaluated = run.get_asset_check_evaluations()
    assert evaluated
    assert all(one.passed for one in evaluated)


def test_one_component_shares_its_connection_by_a_key_that_the_others_use() -> None:
    yaml = """
    kumo: {api_key: "{{ env.KUMO_API_KEY }}"}
    io_manager: {base_path: /store}
    resource_key: kumo
    io_manager_key: kumo_io_manager
    """
    with project(batch_prediction(yaml), resources={}) as (_, defs, _):
        assert set(defs.resources or {}) == {"kumo", "kumo_io_manager"}


def test_secrets_stay_references_until_a_run_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = ("TEST_KEY", "TEST_PASSWORD", "TEST_OPTION")
    for name in secrets:
        monkeypatch.setenv(name, f"{name.lower()}-sesame")
    yaml = """
    kumo:
      api_key: "{{ env.TEST_KEY }}"
      snowflake: {user: me, account: acme, password: "{{ env('TEST_PASSWORD') }}"}
      url: "{{ env.TEST_URL }}/api"
    io_manager:
      base_path: /store
      storage_options: {client: {secret: "{{ env.TEST_OPTION }}"}}
    """
    monkeypatch.setenv("TEST_URL", "https://kumo.example")
    with project(batch_prediction(yaml)) as (component, defs, _):
        assert "sesame" not in f"{component!r} {defs.resources!r}"
        (job,) = defs.resolve_all_job_defs()
        assert "sesame" not in str(job.get_job_snapshot())
        found = {}

        @dg.op
        def look(purchase_kumo: KumoResource) -> None:
            found["kumo"] = purchase_kumo

        @dg.job(resource_defs=dict(defs.resources or {}))
        def looking() -> None:
            look()

        assert looking.execute_in_process().success
        kumo = found["kumo"]
        assert kumo.url == "https://kumo.example/api"
        assert kumo.api_key == "test_key-sesame"
        assert kumo.snowflake is not None
        assert kumo.snowflake.password == dg.EnvVar("TEST_PASSWORD")  # read when it logs in
        manager = (defs.resources or {})["purchase_kumo_io_manager"]
        assert isinstance(manager, KumoIOManager)
        assert manager.storage_options["client"]["secret"] == dg.EnvVar("TEST_OPTION")


# Partitions and schedules ##################################################################


@pytest.mark.parametrize(
    ("section", "made"),
    [
        (
            "{type: hourly, start_date: 2026-01-01-00:00, end_offset: 1}",
            dg.HourlyPartitionsDefinition("2026-01-01-00:00", end_offset=1),
        ),
        (
            "{type: daily, start_date: 2026-01-01, timezone: Europe/Berlin, hour_offset: 4}",
            dg.DailyPartitionsDefinition("2026-01-01", timezone="Europe/Berlin", hour_offset=4),
        ),
        (
            "{type: weekly, start_date: 2026-01-01, day_offset: 1}",
            dg.WeeklyPartitionsDefinition("2026-01-01", day_offset=1),
        ),
        (
            "{type: monthly, start_date: 2026-01-01, end_date: 2026-07-01}",
            dg.MonthlyPartitionsDefinition("2026-01-01", end_date="2026-07-01"),
        ),
        (
            '{type: time_window, start_date: 2026-01-01, fmt: "%Y-%m-%d", cron_schedule: 0 0 * * 1-5}',
            dg.TimeWindowPartitionsDefinition(
                start="2026-01-01", fmt="%Y-%m-%d", cron_schedule="0 0 * * 1-5"
            ),
        ),
        ("{type: dynamic, name: shops}", dg.DynamicPartitionsDefinition(name="shops")),
        (
            "{type: multi, dimensions: {day: {type: daily, start_date: 2026-01-01}, "
            "region: {type: static, partition_keys: [de, fr]}}}",
            dg.MultiPartitionsDefinition(
                {
                    "day": dg.DailyPartitionsDefinition("2026-01-01"),
                    "region": dg.StaticPartitionsDefinition(["de", "fr"]),
                }
            ),
        ),
    ],
    ids=["hourly", "daily", "weekly", "monthly", "time_window", "dynamic", "multi"],
)
def test_partitions(section: str, made: dg.PartitionsDefinition) -> None:
    no_time = "{training_job_id: trainingjob-1, anchor: null}"
    prediction = {"prediction": no_time} if "dynamic" in section else {}
    with project(batch_prediction(f"partitions_def: {section}", **prediction)) as (_, defs, _):
        assert partitions_of(defs) == made


STATIC = "partitions_def: {type: static, partition_keys: [de, fr]}\n"


@pytest.mark.parametrize(
    ("attributes", "at", "asked"),
    [
        (DAILY + "schedule: {}", "2026-03-02T00:00", ["2026-03-01"]),
        (DAILY + "schedule: {hour_of_day: 6}", "2026-03-02T06:00", ["2026-03-01"]),
        ("schedule: {cron_schedule: 0 6 * * *}", "2026-03-02T06:00", [None]),
        (STATIC + "schedule: {cron_schedule: 0 6 * * *}", "2026-03-02T06:00", ["de", "fr"]),
    ],
    ids=["end of the day", "at six", "no partitions", "static ones"],
)
def test_a_schedule_asks_for_the_partitions_that_are_due(
    attributes: str, at: str, asked: list[str | None], instance: dg.DagsterInstance
) -> None:
    prediction = "{training_job_id: trainingjob-1, anchor: null}"
    with project(batch_prediction(attributes, prediction=prediction)) as (_, defs, _):
        repository = defs.get_repository_def()
        schedule = repository.get_schedule_def("purchase_schedule")
        context = dg.build_schedule_context(
            instance=instance,
            scheduled_execution_time=dt.datetime.fromisoformat(at).replace(tzinfo=dt.timezone.utc),
            repository_def=repository,
        )
        ticked = schedule.evaluate_tick(context)
        assert [request.partition_key for request in ticked.run_requests or []] == asked
        assert schedule.job_name == "purchase_job"


# Options ###################################################################################


def test_runs_are_held_where_the_section_says_so() -> None:
    held = (
        DAILY
        + 'hold: true\nschedule: {}\nautomation_condition: "{{ dg.AutomationCondition.eager() }}"'
    )
    with project(batch_prediction(held)) as (_, defs, _):
        repository = defs.get_repository_def()
    tag = {"dagster-kumo/hold": "until_done"}
    automation = repository.get_sensor_def("purchase_automation_sensor")

    assert tag.items() <= repository.get_job("purchase_job").run_tags.items()
    assert isinstance(automation, dg.AutomationConditionSensorDefinition)
    assert tag.items() <= automation.run_tags.items()
    assert repository.has_sensor_def("kumo_hold_sensor")


def test_a_sensor_takes_in_yaml_what_it_takes_in_python() -> None:
    yaml = batch_prediction(
        DAILY + "sensor: {deliver: true, default_status: RUNNING, minimum_interval_seconds: 90}"
    )
    with project(yaml, resources=NEVER_USED) as (_, defs, _):
        sensor = defs.resolve_sensor_def("purchase_kumo_jobs_sensor")
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING
    assert sensor.minimum_interval_seconds == 90
    assert sensor.required_resource_keys == {"kumo"}


def test_options_reach_the_ops_and_the_assets() -> None:
    yaml = """
    retry_policy: {max_retries: 2, delay: 30, backoff: EXPONENTIAL, jitter: FULL}
    pool: kumo
    op_tags: {team: growth}
    backfill_policy: {type: multi_run, max_partitions_per_run: 7}
    group_name: ml
    automation_condition: "{{ dg.AutomationCondition.eager() }}"
    checks:
      - pool: checks
        retry_policy: {max_retries: 3}
        max_anchor_age: P1DT6H
    """
    with project(batch_prediction(DAILY + textwrap.dedent(yaml))) as (_, defs, _):
        assets = defs.resolve_assets_def(dg.AssetKey(["purchase", "predictions"]))
        assert assets.op.retry_policy == dg.RetryPolicy(
            max_retries=2, delay=30, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.FULL
        )
        assert assets.op.pool == "kumo"
        assert assets.op.tags["team"] == "growth"
        assert assets.backfill_policy == dg.BackfillPolicy.multi_run(7)
        node = defs.resolve_asset_graph().get(dg.AssetKey(["purchase", "predictions"]))
        assert node.group_name == "ml"
        # The model, which nothing materializes, is not among the dependencies that it looks at.
        model = dg.AssetSelection.tag("dagster-kumo/asset", "model", include_sources=True)
        assert node.automation_condition == dg.AutomationCondition.eager().ignore(model)
        (checks,) = defs.asset_checks or []
        assert checks.op.pool == "checks"
        assert checks.op.retry_policy == dg.RetryPolicy(max_retries=3)
        assert "anchor_age" in {key.name for key in checks.check_keys}


EXPORT = {
    "connector": ("{type: databricks, name: w}", DatabricksConnector("w")),
    "table_name": ("[ml, churn]", ("ml", "churn")),
    "output_type": ("embeddings", "embeddings"),
    "metadata_fields": ("[JOB_TIMESTAMP]", ["JOB_TIMESTAMP"]),
    "key": ("warehouse/churn", dg.AssetKey(["warehouse", "churn"])),
    "relation_identifier": ("shop.ml.churn", "shop.ml.churn"),
    "deps": ("[a, warehouse/b]", ["a", dg.AssetKey(["warehouse", "b"])]),
    "automation_condition": (
        '"{{ dg.AutomationCondition.eager() }}"',
        dg.AutomationCondition.eager(),
    ),
    "group_name": ("marts", "marts"),
    "retry_policy": (
        "{max_retries: 3, delay: 9, backoff: LINEAR}",
        dg.RetryPolicy(max_retries=3, delay=9, backoff=dg.Backoff.LINEAR),
    ),
    "pool": ("warehouse", "warehouse"),
}
"""The fields of an export, as YAML and in Python."""


def same(export: dg.AssetsDefinition) -> list[Any]:
    """What there is to compare of an asset."""
    (spec,) = export.specs
    return [
        spec.key,
        spec.group_name,
        sorted(dep.asset_key for dep in spec.deps),
        spec.automation_condition,
        spec.metadata["dagster/table_name"],
        export.op.retry_policy,
        export.op.pool,
    ]


@pytest.mark.parametrize("templates", [False, True])
def test_an_export_takes_in_yaml_what_it_takes_in_python(templates: bool) -> None:
    arguments = {name: value for name, (_, value) in EXPORT.items()}
    assert {*arguments, "write_mode"} == {field.name for field in dataclasses.fields(KumoExport)}
    prediction = BatchPrediction(training_job_id="trainingjob-1", outputs=["embeddings"])
    made = build_kumo_assets_definitions(
        name="purchase", prediction=prediction, exports=[KumoExport(**arguments)], pool="kumo"
    )

    written = {name: text for name, (text, _) in EXPORT.items()}
    if templates:
        written |= {
            "table_name": "\"{{ ['ml', 'churn'] }}\"",
            "key": "\"{{ 'warehouse' }}/churn\"",
            "deps": "\"{{ ['a', 'warehouse/b'] }}\"",
            "pool": "\"{{ 'ware' + 'house' }}\"",
        }
    fields = ", ".join(f"{name}: {text}" for name, text in written.items())
    yaml = f"pool: kumo\nexports: [{{{fields}}}]"
    of = "{training_job_id: trainingjob-1, outputs: [embeddings]}"
    with project(batch_prediction(yaml, prediction=of)) as (component, defs, _):
        assert component.exports == [KumoExport(**arguments)]
        in_yaml = defs.resolve_assets_def(dg.AssetKey(["warehouse", "churn"]))
        assert same(in_yaml) == same(made.exports[0])
    assert made.predictions.op.pool == "kumo"


OPTIONS: dict[str, tuple[str, Any]] = {
    "group_name": ("growth", "growth"),
    "owners": ("[team:growth]", ["team:growth"]),
    "tags": ("{domain: sales}", {"domain": "sales"}),
    "kinds": ("[python]", {"python"}),
    "metadata": ("{tier: gold}", {"tier": "gold"}),
    "description": ("Who will buy.", "Who will buy."),
    "freshness_policy": (
        "\"{{ dg.FreshnessPolicy.cron('0 9 * * *', datetime.timedelta(hours=3)) }}\"",
        dg.FreshnessPolicy.cron("0 9 * * *", dt.timedelta(hours=3)),
    ),
    "code_version": ('"7"', "7"),
    "hooks": ('"{{ hooks }}"', None),  # from a module of variables, below
    "op_tags": ("{team: growth}", {"team": "growth"}),
    "retry_policy": ("{max_retries: 2}", dg.RetryPolicy(max_retries=2)),
    "pool": ("kumo", "kumo"),
    "backfill_policy": ("{type: single_run}", dg.BackfillPolicy.single_run()),
}
HOOKS = """
import dagster as dg

@dg.failure_hook
def tell(context): ...

@dg.template_var
def hooks(context): return {tell}
"""


def test_yaml_takes_every_option_of_the_factories() -> None:
    assert {*OPTIONS} == {*AssetOptions.__annotations__}
    fields = "".join(f"{name}: {text}\n" for name, (text, _) in OPTIONS.items())
    exports = "exports: [{connector: {type: snowflake, name: w}, table_name: T}]\n"
    options: dict[str, Any] = {name: value for name, (_, value) in OPTIONS.items() if value}
    made = build_kumo_assets_definitions(
        name="purchase",
        prediction=BatchPrediction(training_job_id="trainingjob-1"),
        exports=[KumoExport(connector=SnowflakeConnector("w"), table_name="T")],
        partitions_def=dg.DailyPartitionsDefinition("2026-01-01"),
        **options,
    )
    with create_defs_folder_sandbox() as sandbox:
        folder = sandbox.defs_folder_path / "purchase"
        folder.mkdir()
        (folder / "variables.py").write_text(HOOKS)
        mine = "kumo: {}\nio_manager: {base_path: /store}\n"
        yaml = batch_prediction(DAILY + mine + exports + fields)
        (folder / "defs.yaml").write_text(f"template_vars_module: .variables\n{yaml}")
        with sandbox.build_all_defs() as defs:
            for asset in (made.predictions, *made.exports):
                in_yaml = defs.resolve_assets_def(asset.key)
                (ours,), (theirs,) = asset.specs, in_yaml.specs
                for name in (
                    "group_name",
                    "owners",
                    "tags",
                    "kinds",
                    "description",
                    "code_version",
                ):
                    assert getattr(theirs, name) == getattr(ours, name), name
                assert theirs.freshness_policy == ours.freshness_policy
                assert theirs.metadata["tier"] == "gold"
                assert [hook.name for hook in in_yaml.hook_defs] == ["tell"]
                assert in_yaml.op.tags["team"] == "growth"
                assert (in_yaml.op.retry_policy, in_yaml.op.pool) == (asset.op.retry_policy, "kumo")
                assert in_yaml.backfill_policy == asset.backfill_policy


def test_the_fields_of_an_export_are_described() -> None:
    schema = KumoBatchPredictionComponent.model().model_json_schema()
    described = schema["$defs"]["KumoExport"]["properties"]
    assert {name for name, field in described.items() if field.get("description")} == set(described)


def test_a_step_for_each_file() -> None:
    with project(batch_prediction("fan_out: true\nchecks: [{}]")) as (_, defs, _):
        job = defs.resolve_implicit_global_asset_job_def()
        assert {"purchase__predictions__transfer", "purchase__predictions__store"} <= {
            op.name for op in job.graph.iterate_op_defs()
        }


def test_a_translation_may_depend_on_what_the_asset_is() -> None:
    yaml = """
    exports:
      - connector: {type: s3, root_dir: s3://bucket/out}
        table_name: churn
    translation:
      key: "{{ props.connector.storage if props.kind == 'export' else 'kumo' }}/{{ props.kind }}"
      owners: ["team:ds"]
      metadata: {query: "{{ props.name }}"}
    """
    with project(batch_prediction(yaml)) as (_, defs, _):
        assert keys(defs) == {"kumo/model", "kumo/predictions", "s3/export"}
        spec = defs.resolve_asset_graph().get(dg.AssetKey(["kumo", "predictions"]))
        assert spec.owners == ["team:ds"]
        assert spec.metadata["query"] == "purchase"


# What is refused ###########################################################################


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ("predicton: 1", ["There is no field predicton. Did you mean prediction?"]),
        (
            "exports: [{conector: {type: snowflake, name: w}, table_name: T}]",
            ["exports", "There is no field conector. Did you mean connector?"],
        ),
        (
            "partitions_def: {type: multi, dimensions: {day: {type: daily}}}",
            ["partitions_def of type daily needs start_date"],
        ),
        (
            "retry_policy: {attempts: 3}",
            ["There is no field attempts. There are max_retries, delay, backoff, jitter."],
        ),
        (
            "partitions_def: {type: daily}",
            ["partitions_def of type daily needs start_date. It takes start_date, end_date"],
        ),
        (
            "partitions_def: {type: static, partition_keys: [a], timezone: UTC}",
            ["type static has no timezone. It takes partition_keys."],
        ),
        ("partitions_def: {type: dayly, start_date: 2026-01-01}", ["partitions_def", "'daily'"]),
        (
            "exports: [{connector: {type: s3, name: warehouse}, table_name: x}]",
            ["exports", "Write connector: {type: s3, root_dir: ...}."],
        ),
        (
            "exports: [{connector: {type: s3, root_dir: bucket}, table_name: x}]",
            ["S3Connector needs a folder as s3://..."],
        ),
        ("exports: [{connector: {type: snowflake, name: w}}]", ["table_name", "required"]),
        (
            DAILY + "schedule: {cron_schedule: 0 6 * * *}",
            ["Leave cron_schedule and execution_timezone out; minute_of_hour, hour_of_day"],
        ),
        ("schedule: {}", ['Write cron_schedule: "0 6 * * *"']),
        ('kumo: {api_key: "{{ env.A }}:{{ env.B }}"}', ['Write api_key: "{{ env.NAME }}".']),
        ("checks: [{max_null_fraction: 2}]", ["max_null_fraction is a share, 0 to 1, not 2"]),
        ("checks: [{max_anchor_age: soon}]", ["checks", "max_anchor_age"]),
        (
            DAILY + "translation: {partitions_def: {type: static, partition_keys: [a]}}",
            ["beside it"],
        ),
        (
            "translation: {key: same}",
            ["the model and the predictions of purchase the same key same", "{{ props.kind }}"],
        ),
    ],
)
def test_what_cannot_be_is_said_with_the_field_and_the_way_out(
    attributes: str, said: list[str]
) -> None:
    message = refusal(batch_prediction(attributes))

    for words in said:
        assert words in message


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("{}", "BatchPrediction names no model"),
        (
            "{trainig_job_id: t}",
            "There is no field trainig_job_id. Did you mean training_job_id?",
        ),
        ("{training_job_id: t, num_workers: many}", "num_workers"),
        ('{training_job_id: t, num_workers: "{{ env.WORKERS }}"}', "num_workers: "),
        ("{training_job_id: t, anchor: middle}", "anchor"),
        ("{training_job_id: t, num_workers: 9}", "num_workers is 1 to 4, not 9."),
    ],
)
def test_a_prediction_that_cannot_be(
    section: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKERS", "many")
    message = refusal(batch_prediction("", prediction=section))

    assert said in message
    assert "defs.yaml" in message


def test_templates_may_stand_for_any_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKERS", "3")
    section = '{training_job_id: trainingjob-1, num_workers: "{{ env.WORKERS }}"}'
    with project(batch_prediction("", prediction=section)) as (component, _, _):
        assert isinstance(component, KumoBatchPredictionComponent)
        assert component.prediction.num_workers == 3


@pytest.mark.parametrize(
    ("said", "window"),
    [
        ("1 month", relativedelta(months=1)),
        ("2 years", relativedelta(years=2)),
        ("12 hours", relativedelta(hours=12)),
        ("PT12H", dt.timedelta(hours=12)),
    ],
)
def test_the_window_of_an_evaluation(said: str, window: object) -> None:
    section = DAILY + f"evaluation: {{outcomes: churn_outcomes, window: {said}}}"
    with project(batch_prediction(section)) as (component, _, _):
        assert component.evaluation.window == window


def test_a_window_that_is_no_length_of_time() -> None:
    section = DAILY + "evaluation: {outcomes: churn_outcomes, window: 2 moons}"
    assert "2 moons" in refusal(batch_prediction(section))


def test_an_evaluation_and_its_checks() -> None:
    yaml = batch_prediction(
        DAILY + "evaluation: {outcomes: churn_outcomes, window: 30 days, missing_outcome: false}\n"
        "evaluation_checks:\n"
        "  - {min_values: {auroc: 0.7}, max_drop: {auroc: 0.05}, reference: 4}\n"
        "  - {name: against_the_holdout, min_coverage: null, max_drop: {auroc: 0.05}}\n"
    )
    with project(yaml) as (component, defs, _):
        outcomes = dg.Definitions(assets=[dg.AssetSpec("churn_outcomes")])
        graph = dg.Definitions.merge(defs, outcomes).resolve_asset_graph()

    assert component.evaluation == KumoEvaluation(
        outcomes=dg.AssetKey("churn_outcomes"),
        window=dt.timedelta(days=30),
        missing_outcome=False,
    )
    evaluation = graph.get(dg.AssetKey(["purchase", "evaluation"]))
    assert evaluation.parent_keys == {
        dg.AssetKey(["purchase", "predictions"]),
        dg.AssetKey("churn_outcomes"),
    }
    assert {key.name for key in graph.asset_check_keys} == {
        *("values", "drop_from_last_4", "coverage", "drop_from_holdout")
    }


def test_checks_of_an_evaluation_need_one() -> None:
    said = refusal(batch_prediction(DAILY + "evaluation_checks: [{min_coverage: 0.9}]"))
    assert "Write evaluation: beside them" in said


@pytest.mark.parametrize("what", ["query: pquery-churn", "like: {use_case: churn}"])
def test_a_training_takes_in_yaml_what_it_takes_in_python(what: str) -> None:
    again = what.startswith("like")
    plan: dict[str, Any] = {"training_job": {"num_experiments": 4}}
    yaml = f"""
    training:
      {what}
      warm_start: {str(again).lower()}
      {"model_plan: {training_job: {num_experiments: 4}}" if again else "run_mode: best"}
      job_tags: {{team: growth}}
      refresh_snapshot: false
      automation_condition: "{{{{ dg.AutomationCondition.on_cron('0 5 * * 1') }}}}"
      retry_policy: {{max_retries: 2}}
      pool: kumo_training
      max_per_week: 2
      gate: {{min_values: {{auroc: 0.7}}, max_loss: {{auroc: 0.002}}, reference: 4}}
    evaluation: {{outcomes: bought}}
    """
    arguments: dict[str, Any] = {
        "query": None if again else "pquery-churn",
        "like": {"use_case": "churn"} if again else None,
        "warm_start": again,
        "model_plan": plan if again else None,
        "run_mode": None if again else "best",
        "job_tags": {"team": "growth"},
        "refresh_snapshot": False,
        "automation_condition": dg.AutomationCondition.on_cron("0 5 * * 1"),
        "retry_policy": dg.RetryPolicy(max_retries=2),
        "pool": "kumo_training",
        "max_per_week": 2,
        "gate": PromotionGate(min_values={"auroc": 0.7}, max_loss={"auroc": 0.002}, reference=4),
    }
    assert {*arguments} == {field.name for field in dataclasses.fields(KumoTraining)}
    champion = "{champion_of: purchase}"
    with project(batch_prediction(yaml, prediction=champion)) as (component, defs, _):
        assert component.training == KumoTraining(**arguments)
        outcomes = dg.Definitions(assets=[dg.AssetSpec("bought")])
        both = dg.Definitions.merge(defs, outcomes)
        candidate = both.resolve_assets_def(dg.AssetKey(["purchase", "candidate"]))
        assert candidate.op.pool == "kumo_training"


def test_a_training_that_names_nothing_to_train() -> None:
    assert "give query= or like=" in refusal(batch_prediction("training: {run_mode: best}"))


def test_a_schedule_trains_and_promotes_and_a_job_rolls_back() -> None:
    yaml = (
        DAILY
        + """
training: {query: pquery-churn, gate: {min_values: {auroc: 0.7}}}
training_schedule: {cron_schedule: "0 3 * * 0"}
schedule: {}
"""
    )
    with project(batch_prediction(yaml, prediction="{champion_of: shop}")) as (_, defs, _):
        schedule = defs.resolve_schedule_def("purchase_training_schedule")
        assert schedule.cron_schedule == "0 3 * * 0"
        trained = defs.resolve_job_def("purchase_training_job").asset_layer
        keys = {key.to_user_string() for key in trained.executable_asset_keys}
        assert keys == {"purchase/candidate", "purchase/model"}
        assert {key.name for key in trained.asset_graph.asset_check_keys} == {"promotion_gate"}
        daily = defs.resolve_job_def("purchase_job").asset_layer.executable_asset_keys
        assert dg.AssetKey(["purchase", "candidate"]) not in daily
        rollback = defs.resolve_job_def("purchase_rollback")
        assert {key.path[-1] for key in rollback.asset_layer.executable_asset_keys} == {"model"}


def test_a_schedule_of_a_training_needs_one() -> None:
    said = refusal(batch_prediction(DAILY + 'training_schedule: {cron_schedule: "0 3 * * 0"}'))
    assert "Write training: beside it" in said
