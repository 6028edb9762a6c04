"""One launch, one job: how a launch is identified, found again and sent."""
