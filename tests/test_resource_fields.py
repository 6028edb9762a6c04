"""The fields of `KumoResource` as definitions set them, from code and from the environment."""

from typing import Any

import certifi
import dagster as dg
import pytest

from dagster_kumo import (
    BatchPrediction,
    KumoResource,
    build_kumo_assets_definitions,
    build_kumo_export_asset,
    kumo_assets,
)
from dagster_kumo.api.connectors import S3Connector

DAYS = dg.DailyPartitionsDefinition(start_date="2026-01-01")


def resource_in_a_run(**fields: Any) -> KumoResource:
    """The resource as a run has it, with the values of its variables."""
    seen: list[KumoResource] = []

    @dg.asset
    def look(kumo: KumoResource) -> None:
        kumo.get_client()
        seen.append(kumo)

    kumo = KumoResource(url="https://127.0.0.1:1/api", api_key="acme:secret", **fields)
    dg.materialize([look], resources={"kumo": kumo})
    return seen[0]


@pytest.mark.parametrize("field", ["max_concurrent_jobs", "request_max_retries"])
def test_whole_numbers_come_from_the_environment(
    field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUMBER", "3")

    assert getattr(resource_in_a_run(**{field: dg.EnvVar.int("NUMBER")}), field) == 3


@pytest.mark.parametrize(
    ("field", "number"), [("max_concurrent_jobs", "0"), ("request_max_retries", "-1")]
)
def test_a_number_from_the_environment_is_checked_when_it_is_known(
    field: str, number: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUMBER", number)

    with pytest.raises(dg.DagsterError) as raised:
        resource_in_a_run(**{field: dg.EnvVar.int("NUMBER")})
    assert "greater than or equal to" in str(raised.value.__cause__)


@pytest.mark.parametrize(
    "field", ["request_timeout", "poll_interval", "poll_timeout", "max_requests_per_second"]
)
def test_a_number_that_may_be_a_fraction_says_how_to_read_it(field: str) -> None:
    with pytest.raises(ValueError, match=r'float\(os.environ\["NUMBER"\]\)'):
        KumoResource(**{field: dg.EnvVar.int("NUMBER")})
    with pytest.raises(ValueError, match="greater than 0"):
        KumoResource(**{field: 0})


def test_a_bundle_of_cas_is_named_by_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUNDLE", certifi.where())

    resource_in_a_run(verify_ssl=certifi.where())
    resource_in_a_run(verify_ssl=dg.EnvVar("BUNDLE"))
    assert resource_in_a_run(verify_ssl=False).verify_ssl is False


def test_a_bundle_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUNDLE", "/no/such/bundle.pem")

    with pytest.raises(ValueError, match="CA bundle that does not exist"):
        resource_in_a_run(verify_ssl=dg.EnvVar("BUNDLE"))
    monkeypatch.delenv("BUNDLE")
    with pytest.raises(ValueError, match="BUNDLE, which is not set"):
        resource_in_a_run(verify_ssl=dg.EnvVar("BUNDLE"))
    with pytest.raises(ValueError, match="True, False or the path"):
        KumoResource(verify_ssl=7)


@pytest.mark.parametrize("partition_key", [None, "2026-01-03"])
def test_an_asset_that_is_called_directly_says_how_to_test_it(partition_key: str | None) -> None:
    kumo = KumoResource(url="https://127.0.0.1:1/api", api_key="acme:secret")
    partitions_def = DAYS if partition_key else None

    @kumo_assets(
        name="churn",
        prediction=BatchPrediction(training_job_id="trainingjob-1"),
        partitions_def=partitions_def,
    )
    def churn(context: dg.AssetExecutionContext, kumo: KumoResource):
        yield from kumo.predict(context)

    export = build_kumo_export_asset(
        name="churn", predictions=churn, connector=S3Connector("s3://b/x"), table_name="t"
    )

    with pytest.raises(ValueError, match=r"dg\.materialize\("):
        list(churn(dg.build_asset_context(partition_key=partition_key), kumo=kumo))
    context = dg.build_asset_context(partition_key=partition_key, resources={"kumo": kumo})
    with pytest.raises(ValueError, match=r"dg\.materialize\("):
        list(export(context))
    prediction = BatchPrediction(training_job_id="trainingjob-1")
    built = build_kumo_assets_definitions(
        name="built", prediction=prediction, partitions_def=partitions_def
    )
    with pytest.raises(ValueError, match=r"dg\.materialize\("):
        list(built.predictions(context))
