"""Serving endpoints and secrets of a local workspace: made, changed, watched, deleted."""
