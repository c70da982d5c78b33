"""Calling a model: what `client.endpoint()` and `client.driver_app()` return."""
