"""Databricks' wire formats, read and written without I/O."""
