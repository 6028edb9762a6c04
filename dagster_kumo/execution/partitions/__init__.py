"""The partitions of a run: their anchor times, jobs and outputs."""
