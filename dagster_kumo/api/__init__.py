"""Kumo's job API in plain Python: its calls, its answers and its errors."""
