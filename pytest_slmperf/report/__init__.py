"""Renders a run's outcome for people and for other tools, and reads its own report back."""
