"""Kumo's jobs and their results, in plain Python."""
