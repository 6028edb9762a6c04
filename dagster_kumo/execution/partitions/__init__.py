"""The partitions of a run: their anchor times, their jobs, what becomes of each."""
