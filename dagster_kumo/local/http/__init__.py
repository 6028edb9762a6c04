"""How the stand-in speaks HTTP."""
