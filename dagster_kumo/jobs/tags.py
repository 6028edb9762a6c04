"""The tags that Dagster's runs set on the Kumo jobs they launch."""

from __future__ import annotations

LAUNCH_KEY_TAG = "dagster.launch_key"
RUN_ID_TAG = "dagster.run_id"
ASSET_TAG = "dagster.asset"
PARTITION_TAG = "dagster.partition"
CODE_LOCATION_TAG = "dagster.code_location"
