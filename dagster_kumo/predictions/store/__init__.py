"""The store of outputs."""
