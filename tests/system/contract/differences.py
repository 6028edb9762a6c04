"""Where a request of the project may differ from the SDK's. Nowhere else may it.

| field or parameter | sent by | why |
|---|---|---|
| a field that is null, in a launch or an export | the SDK | a body without nulls is read by both generations of the API |
| `data_backend_session_id: null` in a prediction table's | the SDK 2.x | it belongs to the SDK's sessions, which are no part of the job API; null is what a server assumes |
| the value of `request_id` in an export, and on 2.x the field itself | both | the SDK draws a number, the project makes it of the launch; a server of 2.x ignores it |
| `write_mode: OVERWRITE` of Databricks | the SDK 3.0 | it is what a server assumes; 2.x has no such field |
| `enable_baselines: false` of a training | the SDK 2.x | it is what a server assumes; 3.0 has no such field |
| `force_rename` and `skip_validation`, both `False`, of a graph | the SDK | they are what a server assumes |
| the order of `outputs` | both | the SDK takes the output types as a set |
| the fields of `YOUNGER`, with the value that stands for none | the project | an SDK older than 2.22 lacks some of them; a server that does not know a field ignores it |
| a tag whose value is None, in an update | both | the SDK writes `None` there and `none` in `delete_tags`; the API names `none`, which the project sends for both |
| the calls that check the key | both | see `test_the_check_of_the_key` and `tests/api/test_generations.py` |
"""

from __future__ import annotations

from typing import Any

from packaging.version import Version

ASSUMED = {"write_mode": "OVERWRITE", "enable_baselines": False}
ASSUMED_OF_GRAPHS = {"force_rename": "False", "skip_validation": "False"}
YOUNGER = {
    "prediction_time": None,
    "connector_id": None,  # of a file path, where there are groups
    "write_mode": "OVERWRITE",  # of Snowflake
}
COMPLETE_SINCE = Version("2.22")  # the SDK that has all of YOUNGER


def comparable(theirs: Any, ours: Any, sdk_version: Version) -> tuple[Any, Any]:
    """Two bodies without the differences that are allowed."""
    if all(_are_outputs(value) for value in (theirs, ours)):
        in_order = [sorted(v, key=lambda o: o["artifact_type"]) for v in (theirs, ours)]
        if len(theirs) != len(ours):
            return tuple(in_order)
        pairs = [comparable(a, b, sdk_version) for a, b in zip(*in_order, strict=True)]
        return [a for a, _ in pairs], [b for _, b in pairs]
    if not isinstance(theirs, dict) or not isinstance(ours, dict):
        return theirs, ours
    their_rest = {
        k: v
        for k, v in theirs.items()
        if k != "request_id" and (k in ours or (v is not None and (k, v) not in ASSUMED.items()))
    }
    our_rest = {k: v for k, v in ours.items() if k != "request_id"}
    if sdk_version < COMPLETE_SINCE:
        our_rest = {
            k: v for k, v in our_rest.items() if k in theirs or (k, v) not in YOUNGER.items()
        }
    for key in their_rest.keys() & our_rest.keys():
        their_rest[key], our_rest[key] = comparable(their_rest[key], our_rest[key], sdk_version)
    return their_rest, our_rest


def _are_outputs(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, dict) and "artifact_type" in one for one in value
    )
