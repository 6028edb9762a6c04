"""The gate of a candidate: whether it may be promoted. The check says so, and promotion asks again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

from dagster_kumo.api.client import KumoClient
from dagster_kumo.api.records import TrainingJobResource
from dagster_kumo.checks.asset_check import ALLOWED, AssetCheck, Finding, NothingToCheck
from dagster_kumo.checks.check_op import checks_of
from dagster_kumo.checks.evaluation.metric_names import KUMO_NAMES, is_metric
from dagster_kumo.execution.launch.deliveries import materialized_job_ids, read_events
from dagster_kumo.execution.metadata import NAMESPACE, TRAINING_JOB_ID_METADATA, values_of
from dagster_kumo.jobs.promotion_gate import PromotionGate
from dagster_kumo.jobs.trained_model import find_champion
from dagster_kumo.resource import KumoResource

GATE = "promotion_gate"
_EVALUATIONS_READ = 200


@dataclass(frozen=True)
class Promotion:
    """How a model is promoted.

    Attributes:
        champion_of: The name whose champion it becomes.
        candidate: The asset of the candidates.
        gate: What a candidate must fulfil.
        evaluation: The asset of the evaluations that the gate may read.
    """

    champion_of: str
    candidate: dg.AssetKey
    gate: PromotionGate | None
    evaluation: dg.AssetKey | None


class GateReader:
    """What the gate reads: metrics in Kumo, and the evaluations that Dagster has recorded.

    Args:
        client: The connection.
        instance: Where materializations are recorded.
        promotion: The champion's name, and the asset of its evaluations.
    """

    def __init__(
        self, client: KumoClient, instance: dg.DagsterInstance, promotion: Promotion
    ) -> None:
        self.client = client
        self.instance = instance
        self.champion_of = promotion.champion_of
        self._evaluation = promotion.evaluation

    def realized(self, training_job_id: str, count: int) -> tuple[dict[str, float], int]:
        """The mean metrics of the newest evaluations of a model's predictions, and how many there are."""
        if self._evaluation is None:
            return {}, 0
        wanted = dg.AssetRecordsFilter(asset_key=self._evaluation)
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


def judge(gate: PromotionGate, reader: GateReader, candidate: TrainingJobResource) -> Finding:
    """What the gate says about a candidate."""
    champion = find_champion(reader.client, reader.champion_of)
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
            else f"there is no champion of {reader.champion_of} to compare with"
        )
        ends = [none] if gate.compared else []
    else:
        known, measured = holdout_metrics(champion), ""
        if isinstance(gate.reference, int):
            realized, count = reader.realized(champion.job_id, gate.reference)
            known, measured = (
                _realized(gate, realized, count) if count else (known, " on its holdout")
            )
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
            f"dagster-kumo models promote {candidate.job_id} --name {reader.champion_of}",
            metadata,
        )
    said = "; ".join([*(judgement.said for judgement in judgements), *ends])
    return Finding(True, f"{said}.", metadata)


def _realized(
    gate: PromotionGate, realized: Mapping[str, float], count: int
) -> tuple[dict[str, float], str]:
    """The realized metrics by the names of the gate, and how they were measured."""
    known = dict(realized)
    for name in gate.compared:
        here = KUMO_NAMES.get(name, name).replace("@", "_at_")
        if here in realized:
            known[name] = realized[here]
    return known, f" in its newest {'evaluation' if count == 1 else f'{count} evaluations'}"


@dataclass(frozen=True)
class _Candidate:
    reader: GateReader
    asset_key: dg.AssetKey
    partition_keys: Sequence[None] = (None,)

    def job(self) -> TrainingJobResource:
        """The newest candidate.

        Raises:
            NothingToCheck: There is none.
        """
        newest = candidate_ids(self.reader.instance, self.asset_key)[:1]
        if not newest:
            raise NothingToCheck(
                "There is no candidate.\nMaterialize the asset.", dg.AssetCheckSeverity.ERROR
            )
        return self.reader.client.get_training_job(newest[0])


@dataclass(frozen=True)
class _Gate(AssetCheck[_Candidate]):
    name = GATE
    description = "The candidate is good enough to be promoted."

    gate: PromotionGate

    def run(self, data: _Candidate, partition_key: str | None, /) -> Finding:
        del partition_key
        return judge(self.gate, data.reader, data.job())


def candidate_ids(instance: dg.DagsterInstance, candidate: dg.AssetKey) -> list[str]:
    """The training jobs that are candidates, newest first."""
    return list(
        dict.fromkeys(
            materialized_job_ids(instance, candidate, None, entry=TRAINING_JOB_ID_METADATA)
        )
    )


def gate_check(promotion: Promotion, *, resource_key: str) -> dg.AssetChecksDefinition:
    """The blocking check `promotion_gate` of a candidate."""
    assert promotion.gate is not None

    def read(context: dg.AssetCheckExecutionContext, key: dg.AssetKey) -> _Candidate:
        kumo: KumoResource = getattr(context.resources, resource_key)
        return _Candidate(GateReader(kumo.get_client(), context.instance, promotion), key)

    (check,) = checks_of(
        promotion.candidate,
        [_Gate(promotion.gate)],
        read,
        name=f"{promotion.candidate.to_python_identifier()}__{GATE}",
        partitions_def=None,
        blocking=True,
        resource_keys={resource_key},
        automation_condition=None,
        op_tags=None,
        retry_policy=None,
        pool=None,
    )
    return check
