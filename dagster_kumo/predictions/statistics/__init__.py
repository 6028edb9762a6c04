"""Values computed from an output: statistics, drift, distinct rows, anchor times."""
