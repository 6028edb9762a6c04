"""Predictions held against what happened: the window, the joined rows, the numbers and the pictures."""
