"""Assets name the place in a project where they are defined."""

import inspect
from pathlib import Path

import dagster as dg

from dagster_kumo import (
    BatchPrediction,
    KumoEvaluation,
    KumoExport,
    KumoTraining,
    SnowflakeConnector,
    build_kumo_assets_definitions,
    build_kumo_export_asset,
    kumo_assets,
)
from tests.components.sandbox import batch_prediction, project

PREDICTION = BatchPrediction(training_job_id="trainingjob-1")
HERE = Path(__file__)
DAYS = dg.DailyPartitionsDefinition("2026-01-01")


def references(spec: dg.AssetSpec) -> list[str]:
    value = spec.metadata.get("dagster/code_references")
    return [one.source for one in value.code_references] if value else []


def places(*assets: dg.AssetsDefinition) -> set[str]:
    """The one reference of each asset."""
    found = [references(spec) for asset in assets for spec in asset.specs]
    assert all(len(one) == 1 for one in found)
    return {one[0] for one in found}


def line() -> int:
    """The line that asks."""
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno


def test_every_asset_of_a_factory_names_the_line_of_its_call() -> None:
    before = line()
    made = build_kumo_assets_definitions(
        name="churn",
        prediction=PREDICTION,
        exports=[KumoExport(connector=SnowflakeConnector("w"), table_name="T")],
        evaluation=KumoEvaluation(outcomes=dg.AssetKey("bought")),
        training=KumoTraining(query="pquery-churn"),
        partitions_def=DAYS,
    )
    assert len(made) == 5
    assert places(*made) == {f"{HERE}:{before + 1}"}


def test_so_do_the_decorator_and_a_single_export_also_as_a_link_to_git() -> None:
    before = line()

    @kumo_assets(name="churn", prediction=PREDICTION)
    def churn(): ...

    export = build_kumo_export_asset(
        name="churn", predictions=churn, connector=SnowflakeConnector("w"), table_name="T"
    )
    assert places(churn) == {f"{HERE}:{before + 2}"}
    assert places(export) == {f"{HERE}:{before + 5}"}
    linked = dg.link_code_references_to_git(
        [churn],
        git_url="https://github.com/acme/shop",
        git_branch="main",
        file_path_mapping=dg.AnchorBasedFilePathMapping(
            local_file_anchor=HERE, file_anchor_path_in_repository="shop/assets.py"
        ),
    )
    assert places(*linked) == {  # pyright: ignore[reportArgumentType] - what is given comes back
        f"https://github.com/acme/shop/tree/main/shop/assets.py#L{before + 2}"
    }


def test_what_a_user_says_is_kept() -> None:
    mine = dg.CodeReferencesMetadataValue(
        code_references=[dg.UrlCodeReference(url="https://github.com/acme/shop")]
    )
    made = build_kumo_assets_definitions(
        name="churn", prediction=PREDICTION, metadata={"dagster/code_references": mine}
    )
    assert places(*made) == {"https://github.com/acme/shop"}


def test_assets_from_yaml_name_the_yaml() -> None:
    with project(batch_prediction("")) as (_, defs, root):
        (spec,) = defs.resolve_assets_def(dg.AssetKey(["purchase", "predictions"])).specs
        named = references(spec)
        assert all(one.startswith(str(root)) and "defs.yaml" in one for one in named)
