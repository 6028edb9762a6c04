"""The HTTP side of the stand-in."""
