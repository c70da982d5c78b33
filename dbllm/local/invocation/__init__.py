"""Calling a serving endpoint of a local workspace."""
