"""Where outputs are kept, and how they get there."""
