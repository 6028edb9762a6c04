"""The example project's days under faults and killed processes, and whether each was paid for once.

`make chaos`. A real Dagster daemon runs the days on a stand-in for Kumo, behind a proxy that breaks
calls and kills the processes that make them.
"""
