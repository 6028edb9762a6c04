"""The definitions of one model in a component: assets, exports, checks and schedule."""

# No `from __future__ import annotations`: Dagster looks at the annotations of fields as objects.

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from typing import Annotated, Any

import dagster as dg

# Dagster has these for integrations, in this module alone.
from dagster.components.utils.translation import TranslationFn, TranslationFnResolver

from dagster_kumo.assets.definitions import build_kumo_assets_definitions
from dagster_kumo.assets.specs import AssetOptions
from dagster_kumo.assets.translator import DagsterKumoTranslator, KumoAssetProps
from dagster_kumo.checks.check_builder import build_kumo_prediction_checks
from dagster_kumo.checks.evaluation_checks import build_kumo_evaluation_checks
from dagster_kumo.components.checks import ResolvedChecks
from dagster_kumo.components.evaluation import ResolvedEvaluation, ResolvedEvaluationChecks
from dagster_kumo.components.exports import ResolvedExport
from dagster_kumo.components.named_fields import NamedFieldsResolvable
from dagster_kumo.components.overridable import Overridable
from dagster_kumo.components.partitions import ResolvedPartitions
from dagster_kumo.components.policies import ResolvedBackfillPolicy, ResolvedRetryPolicy
from dagster_kumo.components.resources import with_connection
from dagster_kumo.components.schedule import Schedule
from dagster_kumo.components.sections import Section
from dagster_kumo.components.sensor import ResolvedSensor
from dagster_kumo.components.training import ResolvedTraining
from dagster_kumo.execution.launch.held_run import HOLD_UNTIL_DONE
from dagster_kumo.io_manager.io_manager import DEFAULT_IO_MANAGER_KEY, KumoIOManager
from dagster_kumo.jobs.prediction_spec import BatchPrediction
from dagster_kumo.resource import DEFAULT_RESOURCE_KEY, KumoResource
from dagster_kumo.sensor.hold.sensor_builder import build_kumo_hold_sensor
from dagster_kumo.sensor.sensor_builder import build_kumo_sensor

PREDICTION = Section(BatchPrediction)

KumoTranslationFn = TranslationFn[KumoAssetProps]


ResolvedPrediction = Annotated[
    BatchPrediction,
    dg.Resolver(
        PREDICTION.make,
        model_field_type=PREDICTION.model,
        description="What to run: the model, the time and the options.",
    ),
]
ResolvedDeps = Annotated[
    Sequence[Any],
    dg.Resolver.default(
        model_field_type=Sequence[str],
        description="The source tables that the model reads, by their asset keys.",
        examples=[["customers", "warehouse/orders"]],
    ),
]
ResolvedTranslation = Annotated[
    KumoTranslationFn | None,
    TranslationFnResolver[KumoAssetProps](lambda props: {"props": props}),
]
ResolvedAutomationCondition = Annotated[
    dg.AutomationCondition[Any] | None,
    dg.Resolver.default(
        model_field_type=str,
        description="When Dagster materializes predictions and embeddings automatically.",
        examples=["{{ dg.AutomationCondition.eager() }}"],
    ),
]
ResolvedFreshnessPolicy = Annotated[
    dg.FreshnessPolicy | None,
    dg.Resolver.default(
        model_field_type=str,
        description="How late an output or an export may be.",
        examples=["{{ dg.FreshnessPolicy.cron('0 9 * * *', datetime.timedelta(hours=3)) }}"],
    ),
]
ResolvedHooks = Annotated[
    AbstractSet[dg.HookDefinition],
    dg.Resolver.default(
        model_field_type=str,
        description="What runs when a step has succeeded or failed, from `template_vars_module`.",
        examples=["{{ hooks }}"],
    ),
]


@dataclass(kw_only=True)
class ModelFields(NamedFieldsResolvable):
    """The definitions of one model; the fields are those of `build_kumo_assets_definitions`."""

    prediction: ResolvedPrediction
    partitions_def: ResolvedPartitions = None
    deps: ResolvedDeps = ()
    exports: Annotated[
        Sequence[ResolvedExport],
        dg.Resolver.default(description="The exports: what Kumo writes to warehouses and buckets."),
    ] = ()
    checks: Annotated[
        Sequence[ResolvedChecks],
        dg.Resolver.default(
            description="Asset checks of stored outputs. Each entry is one op.",
            examples=[[{"blocking": True}]],
        ),
    ] = ()
    training: Annotated[
        ResolvedTraining | None,
        dg.Resolver.default(
            description="How the model is trained again.",
            examples=[{"query": "pquery-churn", "run_mode": "best"}],
        ),
    ] = None
    evaluation: Annotated[
        ResolvedEvaluation | None,
        dg.Resolver.default(
            description="The outcomes that the predictions are compared with, once they are known."
        ),
    ] = None
    evaluation_checks: Annotated[
        Sequence[ResolvedEvaluationChecks],
        dg.Resolver.default(
            description="Asset checks of the evaluation. Each entry is one op.",
            examples=[[{"min_coverage": 0.95}]],
        ),
    ] = ()
    schedule: Annotated[
        Schedule | None,
        dg.Resolver.default(
            description="When all assets are materialized. `{}`: at the end of each partition."
        ),
    ] = None
    training_schedule: Annotated[
        Schedule | None,
        dg.Resolver.default(
            description="When a candidate is trained and, if it passes its gate, promoted.",
            examples=[{"cron_schedule": "0 3 * * 0"}],
        ),
    ] = None
    sensor: ResolvedSensor = None
    hold: Annotated[
        bool,
        dg.Resolver.default(
            description=(
                "Whether runs of the schedule, of its job and of the automation condition wait for Kumo in "
                "Dagster's queue, without a worker. dagster.yaml must say so too."
            )
        ),
    ] = False
    translation: ResolvedTranslation = None
    automation_condition: ResolvedAutomationCondition = None
    deadline: Annotated[
        timedelta | None,
        dg.Resolver.default(
            model_field_type=timedelta | str,
            description="How long after the end of its partition an output should be there, such as PT3H.",
        ),
    ] = None
    fan_out: Annotated[
        bool,
        dg.Resolver.default(
            description="Whether each of Kumo's files is transferred by its own step."
        ),
    ] = False
    group_name: str | None = None
    owners: Sequence[str] = ()
    tags: Mapping[str, str] = field(default_factory=dict[str, str])
    kinds: Sequence[str] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    description: str | None = None
    freshness_policy: ResolvedFreshnessPolicy = None
    code_version: str | None = None
    hooks: ResolvedHooks = frozenset()
    op_tags: Mapping[str, Any] = field(default_factory=dict[str, Any])
    retry_policy: ResolvedRetryPolicy = None
    pool: str | None = None
    backfill_policy: ResolvedBackfillPolicy = None
    resource_key: Annotated[
        str | None,
        dg.Resolver.default(
            description=(
                "The key of the connection: `kumo`, or `<name>_kumo` of one given here, with the keys' "
                "prefix before it."
            )
        ),
    ] = None
    io_manager_key: Annotated[
        str | None,
        dg.Resolver.default(
            description=(
                "The key of the I/O manager: `kumo_io_manager`, or `<name>_kumo_io_manager` of one "
                "given here, with the keys' prefix before it."
            )
        ),
    ] = None

    def definitions(
        self,
        name: str,
        *,
        kumo: KumoResource | None,
        io_manager: KumoIOManager | None,
        component: Overridable,
    ) -> dg.Definitions:
        """All definitions of the model. `kumo` and `io_manager` are None if they are the project's.

        Raises:
            ValueError: An attribute is invalid; the message says what to write instead.
        """
        translator = _Translator(self.translation, component)
        own_name = self._own_name(name, translator)
        prefix = f"{own_name}_"
        resource_key = self.resource_key or (prefix if kumo else "") + DEFAULT_RESOURCE_KEY
        io_manager_key = self.io_manager_key or (
            (prefix if io_manager else "") + DEFAULT_IO_MANAGER_KEY
        )
        resources: dict[str, Any] = {}
        if kumo is not None:
            resources[resource_key] = kumo
        if io_manager is not None:
            resources[io_manager_key] = with_connection(io_manager, kumo)
        options: dict[str, Any] = {
            **{option: getattr(self, option) for option in AssetOptions.__annotations__},
            "group_name": self.group_name or name,
            "kinds": {*self.kinds},
            # Rendering templates makes a number of "7".
            "code_version": None if self.code_version is None else str(self.code_version),
        }
        assets = build_kumo_assets_definitions(
            name=name,
            prediction=self.prediction,
            exports=self.exports,
            evaluation=self.evaluation,
            training=self.training,
            partitions_def=self.partitions_def,
            deps=self.deps,
            translator=translator,
            resource_key=resource_key,
            io_manager_key=io_manager_key,
            automation_condition=self.automation_condition,
            deadline=self.deadline,
            fan_out=self.fan_out,
            execute=component.own_execute,
            **options,
        )
        checks: list[dg.AssetChecksDefinition] = []
        for given in self.checks:
            checks += build_kumo_prediction_checks(
                asset=assets.predictions, io_manager_key=io_manager_key, **given
            )
        for given in self.evaluation_checks:
            if assets.evaluation is None:
                raise ValueError(
                    "evaluation_checks are for an evaluation, and there is none. Write evaluation: beside them."
                )
            checks += build_kumo_evaluation_checks(asset=assets.evaluation, **given)
        selection = dg.AssetSelection.assets(assets.predictions, *assets.exports)
        run_tags = HOLD_UNTIL_DONE if self.hold else {}
        sensors: list[dg.SensorDefinition] = []
        if self.sensor is not None:
            of_sensor: dict[str, Any] = {"name": f"{own_name}_kumo_jobs_sensor", **self.sensor}
            sensors.append(build_kumo_sensor(assets, resource_key=resource_key, **of_sensor))
        if self.hold:
            sensors.append(_hold_sensor(resource_key))
        if self.hold and self.automation_condition is not None:
            sensor_name = f"{own_name}_automation_sensor"
            sensors.append(
                dg.AutomationConditionSensorDefinition(
                    sensor_name, target=selection, run_tags=run_tags
                )
            )
        scheduled: list[dg.Definitions] = []
        if self.schedule is not None:
            about = (own_name, selection, self.partitions_def, run_tags)
            scheduled.append(self.schedule.definitions(*about))
        promotion = [] if assets.rollback_job is None else [assets.rollback_job]
        if self.training_schedule is not None:
            if assets.candidate is None:
                raise ValueError(
                    "training_schedule is for a training, and there is none. Write training: beside it."
                )
            trained = [assets.candidate, *([assets.model] if promotion else [])]
            about = (f"{own_name}_training", dg.AssetSelection.assets(*trained), None, run_tags)
            scheduled.append(self.training_schedule.definitions(*about))
        return dg.Definitions.merge(
            dg.Definitions(
                assets=assets,
                asset_checks=checks,
                resources=resources,
                sensors=sensors,
                jobs=promotion,
            ),
            *scheduled,
        )

    def _own_name(self, name: str, translator: DagsterKumoTranslator) -> str:
        """What begins the names of resources and schedule: two models may differ by their prefix alone."""
        model = translator.get_asset_spec(KumoAssetProps(name, "model", self.prediction)).key
        if model.path[-2:] != [name, "model"]:
            return name
        return dg.AssetKey(model.path[:-1]).to_python_identifier()


@cache
def _hold_sensor(resource_key: str) -> dg.SensorDefinition:
    """The sensor of a connection, one for all models that use it."""
    return build_kumo_hold_sensor(name=f"{resource_key}_hold_sensor", resource_key=resource_key)


class _Translator(DagsterKumoTranslator):
    """The specs of the component, changed by `translation` in the YAML."""

    def __init__(self, translation: KumoTranslationFn | None, component: Overridable) -> None:
        self._component = component
        self._translation = translation
        self._kinds: dict[dg.AssetKey, str] = {}

    def get_asset_spec(self, props: KumoAssetProps) -> dg.AssetSpec:
        spec = self._component.get_asset_spec(props)
        if self._translation is None:
            return spec
        spec = self._translation(spec, props)
        if spec.partitions_def is not None:
            raise ValueError(
                f"translation gives {spec.key.to_user_string()} partitions. "
                "Write partitions_def beside it instead, for all assets of the model."
            )
        # Two exports may have the same key here, since KumoExport.key comes later.
        if props.kind != "export" and self._kinds.setdefault(spec.key, props.kind) != props.kind:
            raise ValueError(
                f"translation gives the {self._kinds[spec.key]} and the {props.kind} of {props.name} the "
                f"same key {spec.key.to_user_string()}. Write {{{{ props.kind }}}} into the key, or "
                "key_prefix instead."
            )
        return spec
