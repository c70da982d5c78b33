"""The driver app, at its public place: see `dbllm.local.driver.server`."""

from __future__ import annotations

from dbllm.local.driver.server import DriverServer, create_app

__all__ = ["DriverServer", "create_app"]
