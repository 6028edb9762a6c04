"""Days and backfills under faults and killed processes, and whether each launch was paid for once.

`make chaos`. Dagster's services run them on a stand-in for Kumo, behind a proxy that breaks calls and
kills the processes that make them, while people launch, stop and re-execute.
"""
