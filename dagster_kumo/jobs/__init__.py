"""Handles of Kumo's jobs and of what came out of them, in plain Python."""
