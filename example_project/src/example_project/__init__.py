"""An example project for dagster-kumo: who will buy in the next 30 days, day by day."""
