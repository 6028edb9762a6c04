"""Compares predictions with outcomes: the window, the joined rows, the numbers and the pictures."""
