"""What `build_kumo_assets_definitions` returns, used in each way that Dagster has for assets."""

import datetime as dt
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_kumo import (
    BatchPrediction,
    DagsterKumoTranslator,
    KumoAssetProps,
    KumoEvaluation,
    KumoExport,
    KumoModelAssets,
    KumoResource,
    S3Connector,
    SnowflakeConnector,
    build_kumo_assets_definitions,
    build_kumo_export_asset,
    build_kumo_prediction_checks,
    build_kumo_sensor,
    kumo_assets,
)
from dagster_kumo.local import LocalKumo
from tests.support import PURCHASE, day, has, resources

PREDICTION = BatchPrediction(training_job_id=PURCHASE)
MODEL, PREDICTIONS, EXPORT = (
    dg.AssetKey(["churn", name]) for name in ("model", "predictions", "predictions_in_snowflake")
)
NOWHERE = {"kumo": KumoResource(), "kumo_io_manager": dg.FilesystemIOManager()}


def churn(name: str = "churn", **options: Any) -> KumoModelAssets:
    return build_kumo_assets_definitions(
        name=name,
        prediction=options.pop("prediction", PREDICTION),
        exports=[KumoExport(connector=SnowflakeConnector("warehouse"), table_name="CHURN")],
        **{"deps": ["customers"], **options},
    )


def module(**names: Any) -> types.ModuleType:
    made = types.ModuleType("models")
    vars(made).update(names)
    return made


def keys(assets: Iterable[Any]) -> set[dg.AssetKey]:
    return {key for made in assets for key in made.keys}


def loads(assets: Any, **definitions: Any) -> dg.Definitions:
    defs = dg.Definitions(assets=assets, resources=NOWHERE, **definitions)
    dg.Definitions.validate_loadable(defs)
    defs.resolve_implicit_global_asset_job_def()
    return defs


# A list of definitions ######################################################################


def test_the_list_names_its_parts() -> None:
    made = churn()

    assert made == [made.model, made.predictions, *made.exports]
    assert [one.key for one in made] == [MODEL, PREDICTIONS, EXPORT]


def test_a_group_is_named_after_the_model() -> None:
    assert {spec.group_name for made in churn() for spec in made.specs} == {"churn"}
    assert {spec.group_name for made in churn(group_name="ml") for spec in made.specs} == {"ml"}
    # None leaves it to Dagster, which names it when the assets are loaded.
    loaded = dg.load_assets_from_modules([module(a=churn(group_name=None))], group_name="loaded")
    assert {spec.group_name for made in loaded for spec in made.specs} == {"loaded"}


@pytest.mark.parametrize("fan_out", [False, True])
def test_modules_are_searched_for_it(fan_out: bool) -> None:
    models = module(churn=churn(fan_out=fan_out), spend=churn("spend", fan_out=fan_out))

    found = keys(dg.load_assets_from_modules([models]))
    assert {MODEL, PREDICTIONS, EXPORT, dg.AssetKey(["spend", "predictions"])} <= found
    assert keys(dg.load_definitions_from_module(models).assets or []) == found


USES: dict[str, Callable[[KumoModelAssets], dict[str, Any]]] = {
    "a job's selection": lambda made: {"jobs": [dg.define_asset_job("j", selection=made)]},
    "an asset selection": lambda made: {
        "jobs": [dg.define_asset_job("j", selection=dg.AssetSelection.assets(*made))]
    },
    "a schedule's target": lambda made: {
        "schedules": [dg.ScheduleDefinition(name="s", cron_schedule="0 6 * * *", target=made)]
    },
    "a sensor's target": lambda made: {
        "sensors": [dg.sensor(target=made, name="s")(lambda _: None)]
    },
    "an automation sensor's target": lambda made: {
        "sensors": [dg.AutomationConditionSensorDefinition("s", target=made)]
    },
    "freshness checks": lambda made: {
        "asset_checks": dg.build_last_update_freshness_checks(
            assets=[made.predictions], lower_bound_delta=dt.timedelta(days=1)
        )
    },
    "column checks": lambda made: {
        "asset_checks": dg.build_column_schema_change_checks(assets=made)
    },
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("fan_out", [False, True])
def test_it_goes_wherever_dagster_takes_assets(use: str, fan_out: bool) -> None:
    made = churn(fan_out=fan_out)
    loads(made, **USES[use](made))


def test_other_assets_depend_on_all_of_it() -> None:
    made = churn()

    @dg.asset(deps=made)
    def after() -> None: ...

    assert {dep.asset_key for spec in after.specs for dep in spec.deps} == keys(made)


def test_a_job_of_all_of_it_runs(kumo: LocalKumo, tmp_path: Path) -> None:
    made = churn(partitions_def=dg.DailyPartitionsDefinition(start_date=day(9)))
    job = dg.define_asset_job("all", selection=made)
    defs = dg.Definitions(assets=made, jobs=[job], resources=resources(kumo, tmp_path))

    run = defs.resolve_job_def("all").execute_in_process(partition_key=day(5))

    assert {event.asset_key for event in run.get_asset_materialization_events()} == {
        PREDICTIONS,
        EXPORT,
    }


def test_the_model_can_be_observed(kumo: LocalKumo, tmp_path: Path) -> None:
    before = len(kumo.jobs)
    defs = dg.Definitions(assets=churn(), resources=resources(kumo, tmp_path))
    job = defs.resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.ephemeral() as instance:
        job.execute_in_process(instance=instance, asset_selection=[MODEL])
        (record,) = instance.fetch_observations(MODEL, limit=1).records
        assert record.asset_observation is not None
        seen = record.asset_observation.metadata
    assert seen["dagster-kumo/training_job_id"].value == PURCHASE
    assert len(kumo.jobs) == before  # nothing is paid for


# Changed by Dagster #########################################################################


@pytest.mark.parametrize("kind", ["plain", "fan_out", "generated table"])
def test_a_prefix_goes_with_all_of_it(kind: str, kumo: LocalKumo, tmp_path: Path) -> None:
    table = "generate" if kind == "generated table" else "inline"
    prediction = BatchPrediction(training_job_id=PURCHASE, prediction_table=table)
    made = churn(prediction=prediction, fan_out=kind == "fan_out")
    checks = build_kumo_prediction_checks(asset=made.predictions)
    models = module(churn=made, checks=checks)
    assets = dg.load_assets_from_modules([models], key_prefix="ml")
    defs = dg.Definitions(
        assets=assets,
        asset_checks=dg.load_asset_checks_from_modules([models], asset_key_prefix="ml"),
        resources=resources(kumo, tmp_path),
    )
    assert {key.path[0] for key in defs.resolve_asset_graph().get_all_asset_keys()} == {
        "ml",
        "customers",
    }

    with dg.DagsterInstance.ephemeral() as instance:
        job = defs.resolve_implicit_global_asset_job_def()
        run = job.execute_in_process(instance=instance)
        evaluated = run.get_asset_check_evaluations()
        assert evaluated
        assert all(one.passed for one in evaluated)
        observed = instance.fetch_observations(MODEL.with_prefix("ml"), limit=9).records
        assert instance.fetch_observations(MODEL, limit=1).records == []
    predicted = [one for one in observed if one.event_log_entry.step_key != "churn__model"]
    assert len(predicted) == 1
    assert {event.asset_key for event in run.get_asset_materialization_events()} >= {
        PREDICTIONS.with_prefix("ml"),
        EXPORT.with_prefix("ml"),
    }
    assert "ml/churn/predictions" in (build_kumo_sensor(assets).description or "")


@pytest.mark.parametrize("fan_out", [False, True])
def test_specs_may_be_changed_and_definitions_merged(
    fan_out: bool, kumo: LocalKumo, tmp_path: Path
) -> None:
    changed = dg.map_asset_specs(
        lambda spec: spec.replace_attributes(owners=["team:ml"], tags={**spec.tags, "tier": "1"}),
        churn(fan_out=fan_out),
    )
    defs = dg.Definitions.merge(
        dg.Definitions(assets=changed, resources=resources(kumo, tmp_path)),
        dg.Definitions(assets=churn("spend")),
    ).map_asset_specs(func=lambda spec: spec.merge_attributes(metadata={"reviewed": True}))

    job = defs.resolve_implicit_global_asset_job_def()
    run = job.execute_in_process(asset_selection=[PREDICTIONS, EXPORT])

    assert len(run.get_asset_materialization_events()) == 2
    spec = defs.resolve_asset_graph().get(PREDICTIONS)
    assert (spec.owners, spec.tags["tier"], spec.metadata["reviewed"]) == (["team:ml"], "1", True)


PROJECT = """\
import dagster as dg
from dagster_kumo import *

churn, spend = (
    build_kumo_assets_definitions(
        name=name,
        prediction=BatchPrediction(training_job_id="trainingjob-1"),
        exports=[KumoExport(connector=SnowflakeConnector("warehouse"), table_name=name)],
        deps=["customers"],
    )
    for name in ("churn", "spend")
)
checks = build_kumo_prediction_checks(asset=churn)
"""


def test_a_project_finds_it_in_its_defs_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "src" / "two_models"
    (package / "defs" / "models").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "defs" / "models" / "models.py").write_text(PROJECT)
    settings = '[tool.dg]\ndirectory_type = "project"\n'
    settings += '[tool.dg.project]\nroot_module = "two_models"\n'
    (tmp_path / "pyproject.toml").write_text(settings)
    monkeypatch.syspath_prepend(str(tmp_path / "src"))

    found = dg.load_from_defs_folder(path_within_project=package)

    defs = dg.Definitions.merge(found, dg.Definitions(resources=NOWHERE))
    dg.Definitions.validate_loadable(defs)
    graph = defs.resolve_asset_graph()
    assert {MODEL, PREDICTIONS, EXPORT} < graph.executable_asset_keys
    assert dg.AssetKey(["spend", "predictions_in_snowflake"]) in graph.executable_asset_keys
    assert {key.asset_key for key in graph.asset_check_keys} == {PREDICTIONS}


@pytest.mark.parametrize("fan_out", [False, True])
def test_definitions_may_be_renamed_one_by_one(
    fan_out: bool, kumo: LocalKumo, tmp_path: Path
) -> None:
    renamed = {key: key.with_prefix("ml") for key in (MODEL, PREDICTIONS, EXPORT)}
    made = [one.with_attributes(asset_key_replacements=renamed) for one in churn(fan_out=fan_out)]
    job = dg.Definitions(
        assets=made, resources=resources(kumo, tmp_path)
    ).resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.ephemeral() as instance:
        run = job.execute_in_process(instance=instance)
        assert instance.fetch_observations(renamed[MODEL], limit=1).records
    assert {event.asset_key for event in run.get_asset_materialization_events()} == {
        renamed[PREDICTIONS],
        renamed[EXPORT],
    }


# Names ######################################################################################


class Prefixed(DagsterKumoTranslator):
    def get_asset_spec(self, props: KumoAssetProps) -> dg.AssetSpec:
        spec = super().get_asset_spec(props)
        return spec.replace_attributes(key=spec.key.with_prefix("eu"))


@dg.asset(name="churn")
def table() -> None: ...


@dg.multi_asset(name="churn", specs=[dg.AssetSpec("one"), dg.AssetSpec("two")])
def several(): ...


@dg.op
def one_op() -> int:
    return 1


@dg.graph_asset(name="churn")
def graph() -> int:
    return one_op()


@dg.asset_check(asset="elsewhere", name="churn")
def check() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=True)


@pytest.mark.parametrize("fan_out", [False, True])
@pytest.mark.parametrize("beside", [table, several, graph, check])
def test_a_model_may_have_the_name_of_something_else(fan_out: bool, beside: Any) -> None:
    is_check = isinstance(beside, dg.AssetChecksDefinition)
    made = churn(fan_out=fan_out)
    loads([*made] if is_check else [beside, *made], asset_checks=[beside] if is_check else [])


@pytest.mark.parametrize("fan_out", [False, True])
def test_one_model_may_be_there_under_two_prefixes(fan_out: bool) -> None:
    europe = churn(translator=Prefixed(), fan_out=fan_out)
    made = churn(fan_out=fan_out)
    checks = [
        *build_kumo_prediction_checks(asset=made.predictions),
        *build_kumo_prediction_checks(asset=europe.predictions),
    ]
    loads([*made, *europe], asset_checks=checks)


def test_decorated_assets_may_have_the_name_of_a_table() -> None:
    @kumo_assets(name="churn", prediction=PREDICTION)
    def decorated(context: dg.AssetExecutionContext, kumo: KumoResource):
        yield from kumo.predict(context)

    loads([table, decorated])


# Dependencies ###############################################################################


@dg.observable_source_asset
def observed() -> dg.DataVersion:
    return dg.DataVersion("1")


ONE_AND_TWO = {dg.AssetKey("one"), dg.AssetKey("two")}
DEPS: dict[str, tuple[Callable[[], Iterable[Any]], set[dg.AssetKey]]] = {
    "several assets": (lambda: [several], ONE_AND_TWO),
    "an asset": (lambda: [table], {dg.AssetKey("churn")}),
    "a graph": (lambda: [graph], {dg.AssetKey("churn")}),
    "a spec": (lambda: [dg.AssetSpec("one")], {dg.AssetKey("one")}),
    "a source": (lambda: [dg.SourceAsset("one")], {dg.AssetKey("one")}),
    "an observable": (lambda: [observed], {dg.AssetKey("observed")}),
    "a name": (lambda: ["one"], {dg.AssetKey("one")}),
    "a path": (lambda: ["dwh/one"], {dg.AssetKey(["dwh", "one"])}),
    "a key": (lambda: [dg.AssetKey(["dwh", "one"])], {dg.AssetKey(["dwh", "one"])}),
    "parts of a key": (lambda: [["dwh", "one"]], {dg.AssetKey(["dwh", "one"])}),
    "a dependency": (lambda: [dg.AssetDep("one")], {dg.AssetKey("one")}),
    "a tuple of them": (lambda: (several, "three"), {*ONE_AND_TWO, dg.AssetKey("three")}),
    "a generator": (lambda: (name for name in ("one", "two")), ONE_AND_TWO),
    "another model": (lambda: churn("spend").exports, {dg.AssetKey(["spend", EXPORT.path[1]])}),
    "a list in the list": (lambda: [[several]], ONE_AND_TWO),
}


def upstream(*assets: dg.AssetsDefinition) -> list[set[dg.AssetKey]]:
    return [{dep.asset_key for spec in made.specs for dep in spec.deps} for made in assets]


@pytest.mark.parametrize("kind", DEPS)
def test_dependencies_may_be_of_any_kind(kind: str) -> None:
    deps, wanted = DEPS[kind]
    for fan_out in (False, True):
        made = churn(deps=deps(), fan_out=fan_out)
        assert upstream(made.model, made.predictions) == [wanted, {MODEL, *wanted}]
        loads(made)

    @kumo_assets(name="churn", prediction=PREDICTION, deps=deps())
    def decorated(context: dg.AssetExecutionContext) -> Any: ...

    export = build_kumo_export_asset(
        name="churn",
        predictions=PREDICTIONS,
        connector=SnowflakeConnector("warehouse"),
        table_name="CHURN",
        deps=deps(),
    )
    assert upstream(decorated, export) == [wanted, {PREDICTIONS, *wanted}]


def test_a_dependency_keeps_its_partition_mapping() -> None:
    days = dg.DailyPartitionsDefinition(start_date="2026-01-01")
    dep = dg.AssetDep("customers", partition_mapping=dg.LastPartitionMapping())
    for fan_out in (False, True):
        made = churn(deps=[dep], partitions_def=days, fan_out=fan_out)
        (spec,) = made.predictions.specs
        mappings = {dep.asset_key: dep.partition_mapping for dep in spec.deps}
        assert mappings[dg.AssetKey("customers")] == dg.LastPartitionMapping()


def test_outcomes_keep_their_partition_mapping() -> None:
    regions = dg.StaticPartitionsDefinition(["north", "south"])
    bought = dg.AssetSpec("bought", partitions_def=regions)
    evaluation = KumoEvaluation(
        outcomes=dg.AssetIn("bought", partition_mapping=dg.AllPartitionMapping()),
        window=dt.timedelta(days=30),
    )
    days = dg.DailyPartitionsDefinition(start_date="2026-01-01")
    made = churn(evaluation=evaluation, partitions_def=days)
    assert made.evaluation is not None

    loads([*made, bought])
    (spec,) = made.evaluation.specs
    mappings = {dep.asset_key: dep.partition_mapping for dep in spec.deps}
    assert mappings == {PREDICTIONS: None, dg.AssetKey("bought"): dg.AllPartitionMapping()}


class Weather(DagsterKumoTranslator):
    def get_asset_spec(self, props: KumoAssetProps) -> dg.AssetSpec:
        spec = super().get_asset_spec(props)
        return spec.replace_attributes(deps=[*spec.deps, "weather"])


def test_an_evaluation_has_what_a_translator_adds_upstream() -> None:
    evaluation = KumoEvaluation(outcomes=dg.AssetIn("bought"), window=dt.timedelta(days=30))
    made = churn(evaluation=evaluation, translator=Weather())
    assert made.evaluation is not None

    graph = dg.Definitions(
        [*made, dg.AssetSpec("bought"), dg.AssetSpec("weather")], resources=NOWHERE
    ).resolve_asset_graph()
    upstream = {dg.AssetKey("bought"), dg.AssetKey("weather"), PREDICTIONS}
    assert graph.get(made.evaluation.key).parent_keys == upstream


@pytest.mark.parametrize(
    "deps", ["customers", dg.AssetKey("customers"), table, dg.SourceAsset("customers"), None]
)
def test_one_dependency_alone_is_no_list(deps: Any) -> None:
    with pytest.raises(ValueError, match=r"deps=\[\.\.\.\]"):
        churn(deps=deps)
    with pytest.raises(ValueError, match=r"deps=\[\.\.\.\]"):
        export_of(PREDICTIONS, deps=deps)


# What is exported ###########################################################################


DAYS = dg.DailyPartitionsDefinition(start_date="2026-01-01")
PREDICTED: dict[str, Callable[[KumoModelAssets], Any]] = {
    "all of the model": lambda made: made,
    "its predictions": lambda made: made.predictions,
    "a list of those": lambda made: [made.predictions],
    "a spec": lambda made: next(iter(made.predictions.specs)),
    "a key": lambda made: made.predictions.key,
    "a path": lambda _: "churn/predictions",
    "parts of a key": lambda _: ["churn", "predictions"],
    "a tuple of parts": lambda _: ("churn", "predictions"),
}


def export_of(predictions: Any, **options: Any) -> dg.AssetsDefinition:
    return build_kumo_export_asset(
        name="churn",
        predictions=predictions,
        connector=SnowflakeConnector("warehouse"),
        table_name="CHURN",
        **options,
    )


@pytest.mark.parametrize("given", PREDICTED)
@pytest.mark.parametrize("fan_out", [False, True])
def test_the_output_to_export_may_be_given_in_any_way(given: str, fan_out: bool) -> None:
    made = churn(partitions_def=DAYS, fan_out=fan_out)

    export = export_of(PREDICTED[given](made))

    assert upstream(export) == [{PREDICTIONS}]
    is_definition = given in {"all of the model", "its predictions", "a list of those", "a spec"}
    assert export.partitions_def == (DAYS if is_definition else None)


NOT_ONE_OUTPUT: dict[str, tuple[Callable[[], Any], str]] = {
    "the model": (lambda: churn().model, "no predictions, only churn/model"),
    "the spec of the model": (lambda: next(iter(churn().model.specs)), "only churn/model"),
    "two models": (
        lambda: [*churn(), *churn("spend")],
        "several outputs: churn/predictions, spend/predictions",
    ),
    "another asset": (lambda: table, "no predictions, only churn"),
    "nothing": (lambda: [], "only nothing"),
    "a number": (lambda: 1, 'takes no int.*\n.*predictions="churn/predictions"'),
}


@pytest.mark.parametrize("given", NOT_ONE_OUTPUT)
def test_what_is_not_one_output_is_refused(given: str) -> None:
    predictions, message = NOT_ONE_OUTPUT[given]
    with pytest.raises(ValueError, match=message):
        export_of(predictions())


def test_an_export_may_have_settings_of_its_own() -> None:
    retries = dg.RetryPolicy(max_retries=3)
    own = KumoExport(
        connector=SnowflakeConnector("warehouse"),
        table_name="CHURN",
        key=dg.AssetKey("own"),
        deps=[several, "dwh/three"],
        group_name="marts",
        retry_policy=retries,
        pool="warehouse",
    )
    shared = KumoExport(connector=SnowflakeConnector("warehouse"), table_name="CHURN")
    of_model = dg.RetryPolicy(max_retries=1)
    for fan_out in (False, True):
        made = build_kumo_assets_definitions(
            name="churn",
            prediction=PREDICTION,
            exports=[own, shared],
            fan_out=fan_out,
            retry_policy=of_model,
            pool="kumo",
        )
        assert [(e.op.pool, e.op.retry_policy) for e in made.exports] == [
            ("warehouse", retries),
            ("kumo", of_model),
        ]
        groups = [spec.group_name for export in made.exports for spec in export.specs]
        assert groups == ["marts", "churn"]
        wanted = {PREDICTIONS, *ONE_AND_TWO, dg.AssetKey(["dwh", "three"])}
        assert upstream(*made.exports) == [wanted, {PREDICTIONS}]
        loads(made)

    alone = export_of(PREDICTIONS, pool="warehouse", retry_policy=retries, group_name="marts")
    assert (alone.op.pool, alone.op.retry_policy) == ("warehouse", retries)


def test_an_export_that_cannot_be_is_refused_where_it_is_written() -> None:
    with pytest.raises(ValueError, match="has no write mode"):
        KumoExport(connector=S3Connector("s3://bucket"), table_name="churn", write_mode="APPEND")


# Automation #################################################################################


def requested(assets: Any, key: dg.AssetKey, days: int = 5) -> list[int]:
    """How much of an asset is requested each morning; its table is materialized every day."""
    defs = dg.Definitions(assets=assets, resources=NOWHERE)
    history: list[int] = []
    cursor = None
    with dg.DagsterInstance.ephemeral() as instance:
        for number in range(days):
            morning = dt.datetime(2026, 10, 2 + number, 6, tzinfo=dt.timezone.utc)
            result = dg.evaluate_automation_conditions(
                defs, instance, cursor=cursor, evaluation_time=morning
            )
            cursor = result.cursor
            history.append(sum(one.true_subset.size for one in result.results if one.key == key))
            if history[-1]:
                partitioned = defs.resolve_asset_graph().get(key).is_partitioned
                partition = f"2026-10-{1 + number:02}" if partitioned else None
                made = dg.AssetMaterialization(key, partition=partition)
                instance.report_runless_asset_event(made)
            instance.report_runless_asset_event(dg.AssetMaterialization("customers"))
    return history


CONDITIONS = {
    "eager": dg.AutomationCondition.eager(),
    "on_missing": dg.AutomationCondition.on_missing(),
    "on_cron": dg.AutomationCondition.on_cron("0 5 * * *"),
    "or": dg.AutomationCondition.eager() | dg.AutomationCondition.on_cron("0 5 * * *"),
}


class Eager(DagsterKumoTranslator):
    def get_asset_spec(self, props: KumoAssetProps) -> dg.AssetSpec:
        spec = super().get_asset_spec(props)
        if props.kind != "predictions":
            return spec
        return spec.replace_attributes(automation_condition=CONDITIONS["eager"])


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("daily", [False, True])
@pytest.mark.parametrize("fan_out", [False, True])
def test_predictions_are_requested_as_any_asset_of_the_tables(
    condition: str, daily: bool, fan_out: bool
) -> None:
    days = dg.DailyPartitionsDefinition("2026-10-01") if daily else None
    automatic = CONDITIONS[condition]

    @dg.asset(deps=["customers"], automation_condition=automatic, partitions_def=days)
    def plain() -> None: ...

    made = churn(automation_condition=automatic, partitions_def=days, fan_out=fan_out)

    wanted = requested([plain], plain.key)
    # Older versions of Dagster wait for an update after the time, and there is one evaluation a day.
    never = {"on_missing"} if has("dagster", "1.13") else {"on_missing", "on_cron"}
    assert sum(wanted) or condition in never
    assert requested(made, PREDICTIONS) == wanted
    # Nor does it matter under which key the model is.
    prefixed = dg.load_assets_from_modules([module(made=made)], key_prefix="ml")
    assert requested(prefixed, PREDICTIONS.with_prefix("ml")) == wanted


def test_a_condition_may_come_from_the_translator() -> None:
    by_translator = requested(churn(translator=Eager()), PREDICTIONS)
    assert by_translator == requested(churn(automation_condition=CONDITIONS["eager"]), PREDICTIONS)
    assert sum(by_translator)


THE_MODEL = dg.AssetSelection.tag("dagster-kumo/asset", "model", include_sources=True)
SET_LATER: dict[str, Callable[[KumoModelAssets, Any], Any]] = {
    "map_asset_specs": lambda made, condition: dg.map_asset_specs(
        lambda spec: (
            spec.replace_attributes(automation_condition=condition)
            if spec.key == PREDICTIONS
            else spec
        ),
        made,
    ),
    "module": lambda made, condition: dg.load_assets_from_modules(
        [module(made=made)], automation_condition=condition
    ),
}


@pytest.mark.parametrize("way", SET_LATER)
@pytest.mark.parametrize("fan_out", [False, True])
def test_a_condition_that_is_set_later_can_leave_the_model_out(way: str, fan_out: bool) -> None:
    def history(condition: Any) -> list[int]:
        return requested(SET_LATER[way](churn(fan_out=fan_out), condition), PREDICTIONS)

    condition = CONDITIONS["eager"]
    wanted = requested(churn(automation_condition=condition), PREDICTIONS)
    assert sum(wanted)
    assert history(condition.ignore(THE_MODEL)) == wanted
    assert sum(history(condition)) == 0  # it waits for the first observation of the model


def test_a_run_that_observes_the_model_asks_for_no_other_run(
    kumo: LocalKumo, tmp_path: Path
) -> None:
    # A condition that was set later looks at the model as well.
    made = SET_LATER["map_asset_specs"](churn(), CONDITIONS["eager"])
    defs = dg.Definitions(assets=made, resources=resources(kumo, tmp_path, statistics=False))
    job = defs.resolve_implicit_global_asset_job_def()
    cursor, history = None, []
    with dg.DagsterInstance.ephemeral() as instance:
        for number in range(6):
            if number == 2:  # by hand
                job.execute_in_process(instance=instance, asset_selection=[PREDICTIONS])
            if number in (0, 3):
                instance.report_runless_asset_event(dg.AssetMaterialization("customers"))
            result = dg.evaluate_automation_conditions(defs, instance, cursor=cursor)
            cursor = result.cursor
            history.append(result.total_requested)
            if history[-1]:
                job.execute_in_process(instance=instance, asset_selection=[PREDICTIONS])
    assert history == [0, 0, 0, 1, 0, 0]
