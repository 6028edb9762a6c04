"""Kumo's job API in plain Python: what it returns, how to talk to it, what can go wrong."""
