"""How outputs are stored and loaded."""
