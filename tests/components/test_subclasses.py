"""What a subclass of a component changes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_kumo import (
    BatchPrediction,
    KumoAssetProps,
    KumoBatchPredictionComponent,
    KumoResource,
)
from dagster_kumo.components import KumoWorkspaceComponent
from dagster_kumo.local import LocalKumo
from tests.components.sandbox import NEVER_USED
from tests.support import PURCHASE, resources

NOWHERE: Any = None
"""The context of a component, which does not look at it."""
executed: list[str] = []


class _Ours:
    def get_asset_spec(self, props: KumoAssetProps) -> dg.AssetSpec:
        spec = super().get_asset_spec(props)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType] - a component comes next
        return spec.replace_attributes(owners=["team:growth"])  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - as above

    def execute(
        self, context: dg.AssetExecutionContext, kumo: KumoResource, model: dg.AssetKey
    ) -> Iterator[dg.MaterializeResult[Any]]:
        executed.append(model.to_user_string())
        yield from super().execute(context, kumo, model)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType] - as above


class OurPredictions(_Ours, KumoBatchPredictionComponent): ...


class OurWorkspace(_Ours, KumoWorkspaceComponent): ...


def our_predictions(**fields: Any) -> dg.Definitions:
    prediction = BatchPrediction(training_job_id=PURCHASE)
    return OurPredictions(name="purchase", prediction=prediction, **fields).build_defs(NOWHERE)


def test_a_subclass_changes_specs_and_what_a_run_does(
    kumo: LocalKumo, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    executed.clear()
    given = dg.Definitions(resources=resources(kumo, tmp_path))
    defs = dg.Definitions.merge(our_predictions(), given)

    predict = defs.resolve_implicit_global_asset_job_def()
    assert predict.execute_in_process(instance=instance).success

    assert executed == ["purchase/model"]
    assert {tuple(spec.owners) for spec in defs.resolve_all_asset_specs()} == {("team:growth",)}


def test_a_fan_out_has_steps_of_its_own() -> None:
    with pytest.raises(ValueError, match="has an execute of its own, and fan_out"):
        our_predictions(fan_out=True)


def test_a_subclass_of_the_workspace_changes_all_models(kumo: LocalKumo, tmp_path: Path) -> None:
    component = OurWorkspace(kumo=KumoResource(url=kumo.url, api_key=kumo.api_key))
    state = tmp_path / "state.json"
    component.write_state_to_path(state)

    defs = component.build_defs_from_state(NOWHERE, state)
    given = dg.Definitions(resources=NEVER_USED)
    specs = dg.Definitions.merge(defs, given).resolve_all_asset_specs()

    assert len(specs) > 2
    assert {tuple(spec.owners) for spec in specs} == {("team:growth",)}
