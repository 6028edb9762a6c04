"""What a run does: launch, wait, deliver."""
