"""Settings: one table, its sources, and what they resolve to."""
