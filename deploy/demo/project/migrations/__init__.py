"""The schema of the demo's database."""
