"""What a subclass of a component can override."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dagster as dg

from dagster_kumo.assets.definitions import Execute
from dagster_kumo.assets.translator import DagsterKumoTranslator, KumoAssetProps
from dagster_kumo.resource import KumoResource


class Overridable:
    """Methods that a subclass of a component overrides, as in other integrations of Dagster."""

    def get_asset_spec(self, props: KumoAssetProps) -> dg.AssetSpec:
        """The spec of one asset. `translation` in the YAML changes it afterwards."""
        return DagsterKumoTranslator().get_asset_spec(props)

    def execute(
        self, context: dg.AssetExecutionContext, kumo: KumoResource, model: dg.AssetKey
    ) -> Iterator[dg.MaterializeResult[Any]]:
        """What a run of the predictions does. `model` is the asset of the trained model."""
        yield from kumo.predict(context, model=model)

    @property
    def own_execute(self) -> Execute | None:
        """`execute`, if a subclass has overridden it."""
        is_own = type(self).execute is not Overridable.execute
        return self.execute if is_own else None
