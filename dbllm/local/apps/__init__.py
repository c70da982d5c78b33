"""Databricks Apps of the local workspace: an agent at an origin of its own, and its long work."""
