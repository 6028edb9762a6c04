"""Asset checks of stored outputs."""
