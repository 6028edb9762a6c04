"""The tags on Kumo jobs: of the run that launched a job, and of the promotion of a trained model."""

from __future__ import annotations

LAUNCH_KEY_TAG = "dagster.launch_key"
RUN_ID_TAG = "dagster.run_id"
ASSET_TAG = "dagster.asset"
PARTITION_TAG = "dagster.partition"
CODE_LOCATION_TAG = "dagster.code_location"

CHAMPION_TAG = "dagster.champion"
"""Of a training job: the name whose champion it is."""
FORMER_CHAMPION_TAG = "dagster.former_champion"
"""Of a training job: the name whose champion it was. A job carries this tag or the one above."""
CHAMPION_BEFORE_TAG = "dagster.champion_before"
"""Of a training job that was promoted: the champion that it replaced."""
PROMOTED_AT_TAG = "dagster.promoted_at"
PROMOTED_BY_TAG = "dagster.promoted_by"
PROMOTED_WHY_TAG = "dagster.promoted_why"
PROMOTION_RUN_TAG = "dagster.promotion_run"
"""The root run of the Dagster run that promoted it."""
