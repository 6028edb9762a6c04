"""The gate of a candidate: whether it may be promoted. The check says so, and promotion asks again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import dagster as dg

from dagster_kumo.api.client import KumoClient
from dagster_kumo.api.records import TrainingJobResource
from dagster_kumo.checks.asset_check import ALLOWED, AssetCheck, Finding
from dagster_kumo.checks.check_op import checks_of
from dagster_kumo.checks.evaluation.metric_names import is_metric, name_here
from dagster_kumo.execution.launch.deliveries import materialized_job_ids, read_events
from dagster_kumo.execution.metadata import NAMESPACE, TRAINING_JOB_ID_METADATA, values_of
from dagster_kumo.jobs.promotion_gate import PromotionGate
from dagster_kumo.jobs.trained_model import find_champion
from dagster_kumo.resource import KumoResource

GATE = "promotion_gate"
_EVALUATIONS_READ = 200


@dataclass(frozen=True)
class Promotion:
    """How a model is promoted."""

    champion_of: str
    """The name whose champion it becomes."""
    candidate: dg.AssetKey
    gate: PromotionGate | None
    """What a candidate must fulfil."""
    evaluation: dg.AssetKey | None
    """The asset of the evaluations that the gate may read."""

    def of(self, candidate: dg.AssetKey) -> Promotion:
        """The promotion with the keys that its assets have once they are loaded.

        Loading a module under a prefix changes the keys. The candidate's present key tells the prefix.
        """
        prefix = candidate.path[: len(candidate.path) - len(self.candidate.path)]
        evaluation = self.evaluation and self.evaluation.with_prefix(prefix)
        return replace(self, candidate=candidate, evaluation=evaluation)


@dataclass(frozen=True)
class GateReader:
    """What the gate reads: metrics in Kumo, and what Dagster has recorded of candidates and evaluations."""

    client: KumoClient
    instance: dg.DagsterInstance
    promotion: Promotion
    partition_keys: Sequence[None] = (None,)

    def candidate_ids(self) -> list[str]:
        """The training jobs that are candidates, newest first."""
        ids = materialized_job_ids(
            self.instance, self.promotion.candidate, None, entry=TRAINING_JOB_ID_METADATA
        )
        return list(dict.fromkeys(ids))

    def realized(self, training_job_id: str, count: int) -> tuple[dict[str, float], int]:
        """The mean metrics of the newest evaluations of a model's predictions, and how many there are."""
        if self.promotion.evaluation is None:
            return {}, 0
        wanted = dg.AssetRecordsFilter(asset_key=self.promotion.evaluation)
        records = read_events(
            lambda: self.instance.fetch_materializations(wanted, limit=_EVALUATIONS_READ)
        )
        found: dict[str | None, Mapping[str, dg.MetadataValue[Any]]] = {}
        for record in records:
            made = record.asset_materialization
            if made is None or made.partition in found or len(found) == count:
                continue
            model = made.metadata.get(TRAINING_JOB_ID_METADATA)
            if model is not None and model.value == training_job_id:
                found[made.partition] = made.metadata
        values: dict[str, list[float]] = {}
        for metadata in found.values():
            for entry, value in metadata.items():
                name = entry.removeprefix(NAMESPACE)
                if is_metric(name) and isinstance(value.value, int | float):
                    values.setdefault(name, []).append(value.value)
        return {name: sum(known) / len(known) for name, known in values.items()}, len(found)


def holdout_metrics(job: TrainingJobResource) -> dict[str, float]:
    """The metrics of a training job on its holdout data, by Kumo's names."""
    return values_of(job.result.eval_metrics.test_metrics) if job.result else {}


def judge(reader: GateReader, candidate: TrainingJobResource) -> Finding:
    """What the gate says about a candidate. Without a gate, it passes."""
    gate, champion_of = reader.promotion.gate, reader.promotion.champion_of
    if gate is None:
        return Finding(True, "There is no gate.")
    champion = find_champion(reader.client, champion_of)
    metrics = holdout_metrics(candidate)
    metadata: dict[str, object] = {
        "candidate": candidate.job_id,
        ALLOWED: dg.MetadataValue.json(gate.to_json()),
    }
    metadata |= {f"candidate/{name}": value for name, value in metrics.items()}
    if champion is None or champion.job_id == candidate.job_id:
        judgements = gate.judge(metrics, None)
        none = (
            f"{candidate.job_id} is the champion already"
            if champion
            else f"there is no champion of {champion_of} to compare with"
        )
        ends = [none] if gate.compared else []
    else:
        known, measured = holdout_metrics(champion), ""
        if isinstance(gate.reference, int):
            realized, count = reader.realized(champion.job_id, gate.reference)
            measured = " on its holdout"
            if count:
                for name in gate.compared:
                    if (here := name_here(name)) in realized:
                        realized[name] = realized[here]
                known = realized
                evaluations = "evaluation" if count == 1 else f"{count} evaluations"
                measured = f" in its newest {evaluations}"
        judgements = gate.judge(metrics, known, measured=measured)
        ends = []
        metadata["champion"] = champion.job_id
        metadata |= {f"champion/{name}": known[name] for name in metrics if name in known}
    refused = [judgement.said for judgement in judgements if not judgement.passed]
    if refused:
        said = "; ".join(refused)
        return Finding(
            False,
            f"{said}.\n{'The champion stays' if champion else 'Nothing is promoted'}. Train another candidate, or promote this one all the same: "
            f"dagster-kumo models promote {candidate.job_id} --name {champion_of}",
            metadata,
        )
    said = "; ".join([*(judgement.said for judgement in judgements), *ends])
    return Finding(True, f"{said}.", metadata)


class _Gate(AssetCheck[GateReader]):
    name = GATE
    description = "The candidate is good enough to be promoted."

    def run(self, reader: GateReader, _: str | None) -> Finding:
        newest = reader.candidate_ids()[:1]
        if not newest:
            return Finding(False, "There is no candidate.\nMaterialize the asset.")
        return judge(reader, reader.client.get_training_job(newest[0]))


def gate_check(promotion: Promotion, *, resource_key: str) -> dg.AssetChecksDefinition:
    """The blocking check `promotion_gate` of a candidate."""

    def read(context: dg.AssetCheckExecutionContext, key: dg.AssetKey) -> GateReader:
        kumo: KumoResource = getattr(context.resources, resource_key)
        return GateReader(kumo.get_client(), context.instance, promotion.of(key))

    (check,) = checks_of(
        promotion.candidate,
        [_Gate()],
        read,
        name=f"{promotion.candidate.to_python_identifier()}__{GATE}",
        blocking=True,
        resource_keys={resource_key},
    )
    return check
