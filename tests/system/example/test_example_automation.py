"""What the example makes by itself, once its sensor is on: evaluated as the daemon does, tick by tick."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest
from example_project.definitions import defs
from example_project.partitions import daily, weekly

PREDICTIONS = dg.AssetKey(["purchase", "predictions"])
SPEND = dg.AssetKey(["spend", "predictions"])
EXPORT = dg.AssetKey(["purchase", "predictions_in_snowflake"])
CALL_LIST = dg.AssetKey("call_list")
DRIFT = dg.AssetKey("purchase_drift")
DAYS = daily.get_partition_keys()
NEWEST = DAYS[-1]


class Sensor:
    """The sensor that is on, from its first tick."""

    def __init__(self, definitions: dg.Definitions, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self._definitions = definitions
        self._cursor: Any = None
        assert self.tick() == {}

    def made(self, key: dg.AssetKey, day: str | None = None) -> None:
        self.instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=day))

    def checked(self, *, passed: bool) -> None:
        """All checks of the purchase predictions, of which the drift may fail."""
        for key in self._definitions.resolve_asset_graph().asset_check_keys:
            if key.asset_key == PREDICTIONS:
                self.instance.report_runless_asset_event(
                    dg.AssetCheckEvaluation(
                        asset_key=PREDICTIONS,
                        check_name=key.name,
                        passed=passed or key.name != "drift",
                    )
                )

    def tick(self) -> dict[dg.AssetKey, set[str]]:
        """The partitions that are asked for."""
        result = dg.evaluate_automation_conditions(
            self._definitions, self.instance, cursor=self._cursor
        )
        self._cursor = result.cursor
        keys = (EXPORT, CALL_LIST, DRIFT)
        asked = {key: set(result.get_requested_partitions(key)) for key in keys}
        assert result.total_requested == sum(map(len, asked.values()))
        return {key: partitions for key, partitions in asked.items() if partitions}


@pytest.fixture(scope="module")
def definitions() -> dg.Definitions:
    return defs()


@pytest.fixture
def sensor(definitions: dg.Definitions) -> Iterator[Sensor]:
    with dg.DagsterInstance.ephemeral() as instance:
        for table in ("purchases", "customers"):
            instance.report_runless_asset_event(dg.AssetMaterialization(table))
        yield Sensor(definitions, instance)


def _week_of(day: str) -> str:
    return max(key for key in weekly.get_partition_keys() if key <= day)


def test_the_newest_day_is_exported_and_called_once_its_checks_have_passed(sensor: Sensor) -> None:
    sensor.made(PREDICTIONS, NEWEST)
    sensor.made(SPEND, NEWEST)
    assert sensor.tick() == {DRIFT: {_week_of(NEWEST)}}
    sensor.checked(passed=True)
    assert sensor.tick() == {EXPORT: {NEWEST}, CALL_LIST: {NEWEST}}
    for key in (EXPORT, CALL_LIST):
        sensor.made(key, NEWEST)
    assert sensor.tick() == {}


def test_a_call_list_waits_for_both_models(sensor: Sensor) -> None:
    sensor.made(PREDICTIONS, NEWEST)
    sensor.checked(passed=True)
    assert CALL_LIST not in sensor.tick()
    sensor.made(SPEND, NEWEST)
    assert sensor.tick() == {CALL_LIST: {NEWEST}}


def test_a_day_that_is_made_again_replaces_what_was_made_of_it(sensor: Sensor) -> None:
    for _ in range(2):
        sensor.made(PREDICTIONS, NEWEST)
        sensor.made(SPEND, NEWEST)
        sensor.checked(passed=True)
        assert sensor.tick() == {
            EXPORT: {NEWEST},
            CALL_LIST: {NEWEST},
            DRIFT: {_week_of(NEWEST)},
        }
        sensor.made(EXPORT, NEWEST)
        sensor.made(CALL_LIST, NEWEST)
        sensor.made(DRIFT, _week_of(NEWEST))
        assert sensor.tick() == {}


def test_what_fails_a_check_goes_nowhere(sensor: Sensor) -> None:
    sensor.made(PREDICTIONS, NEWEST)
    sensor.made(SPEND, NEWEST)
    sensor.checked(passed=False)
    assert not {EXPORT, CALL_LIST} & set(sensor.tick())
    assert not {EXPORT, CALL_LIST} & set(sensor.tick())


def test_a_late_day_comes_into_its_week_and_overwrites_no_newer_one(sensor: Sensor) -> None:
    late, long_ago = DAYS[-10], DAYS[-60]
    for day in (late, long_ago):
        sensor.made(PREDICTIONS, day)
        sensor.made(SPEND, day)
    sensor.checked(passed=True)
    assert sensor.tick() == {DRIFT: {_week_of(late)}}
