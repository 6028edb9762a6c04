"""What one run does differently, by its run configuration."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_kumo import (
    BatchPrediction,
    KumoResource,
    KumoRunConfig,
    build_kumo_assets_definitions,
    kumo_assets,
)
from dagster_kumo.local import LocalKumo
from tests.support import (
    PREDICTIONS,
    error_of,
    metadata_of,
    predict_all,
    purchase_assets,
    resources,
)

OP = "purchase__predictions"
OTHER_MODEL = "trainingjob-cdnow-purchase-old"
BY_TAGS = BatchPrediction(training_job_tags={"use_case": "purchase"})


def factory(*, fan_out: bool) -> dg.AssetsDefinition:
    return build_kumo_assets_definitions(
        name="purchase", prediction=BY_TAGS, fan_out=fan_out
    ).predictions


MADE_BY = {
    "decorator": lambda: purchase_assets(prediction=BY_TAGS, partitions_def=None),
    "factory": lambda: factory(fan_out=False),
    "fan-out": lambda: factory(fan_out=True),
}


@pytest.fixture
def run(kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path) -> Any:
    def run(
        assets: dg.AssetsDefinition | None = None,
        config: Mapping[str, Any] | KumoRunConfig | None = None,
        **options: Any,
    ) -> dg.ExecuteInProcessResult:
        made = assets or purchase_assets(prediction=BY_TAGS, partitions_def=None)
        defs = dg.Definitions([made], resources=resources(kumo, tmp_path))
        given = config if isinstance(config, KumoRunConfig) else {"config": config or {}}
        run_config: Any = (
            dg.RunConfig(ops={OP: given})
            if isinstance(given, KumoRunConfig)
            else {"ops": {OP: given}}
        )
        return defs.resolve_implicit_global_asset_job_def().execute_in_process(
            run_config=run_config, instance=instance, raise_on_error=False, **options
        )

    return run


@pytest.mark.parametrize("made_by", MADE_BY)
def test_another_model_and_threshold_for_one_run(made_by: str, run: Any, kumo: LocalKumo) -> None:
    config = {"training_job_id": OTHER_MODEL, "binary_classification_threshold": 0.25}

    done = run(MADE_BY[made_by](), config)

    assert done.success
    asked = kumo.jobs[-1]["config"]
    assert asked["model_training_job_id"] == OTHER_MODEL
    assert asked["predict_options"]["binary_classification_threshold"] == 0.25
    assert metadata_of(done, PREDICTIONS)["dagster-kumo/training_job_id"] == OTHER_MODEL


@pytest.mark.parametrize("made_by", MADE_BY)
def test_a_job_that_is_done_is_delivered(made_by: str, run: Any, kumo: LocalKumo) -> None:
    job_id = predict_all(kumo)
    before = len(kumo.jobs)

    done = run(MADE_BY[made_by](), KumoRunConfig(deliver_job=job_id))

    assert done.success
    assert metadata_of(done, PREDICTIONS)["dagster-kumo/job_id"] == job_id
    assert len(kumo.jobs) == before


def test_a_functions_own_config_may_extend_it(run: Any, kumo: LocalKumo) -> None:
    class OurConfig(KumoRunConfig):
        note: str = ""

    noted: list[str] = []

    @kumo_assets(name="purchase", prediction=BY_TAGS)
    def purchase(context: dg.AssetExecutionContext, kumo: KumoResource, config: OurConfig):
        noted.append(config.note)
        yield from kumo.predict(context)

    assert run(purchase, {"note": "trial", "training_job_id": OTHER_MODEL}).success
    assert noted == ["trial"]
    assert kumo.jobs[-1]["config"]["model_training_job_id"] == OTHER_MODEL


def test_a_functions_other_config_is_left_alone(run: Any) -> None:
    class OurConfig(dg.Config):
        training_job_id: str = "not for Kumo"

    @kumo_assets(name="purchase", prediction=BY_TAGS)
    def purchase(context: dg.AssetExecutionContext, kumo: KumoResource, config: OurConfig):
        assert config.training_job_id
        yield from kumo.predict(context)

    assert run(purchase).success


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"training_job_id": " "}, "training_job_id is empty"),
        ({"binary_classification_threshold": 2.0}, "a probability, 0 to 1, not 2.0"),
        ({"deliver_job": "bp-1", "launch_anew": True}, "launch_anew cannot change it"),
        ({"deliver_job": "bp-1", "training_job_id": "t"}, "training_job_id cannot change it"),
        ({"training_job_id": "trainingjob-none"}, "There is no training job trainingjob-none"),
    ],
)
def test_a_bad_value_is_refused_before_a_launch(
    config: dict[str, Any], said: str, run: Any, kumo: LocalKumo
) -> None:
    before = len(kumo.jobs)

    done = run(None, config)

    assert not done.success
    assert said in error_of(done)[1]
    assert len(kumo.jobs) == before
