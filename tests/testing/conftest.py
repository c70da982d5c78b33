"""The plugin's fixtures and hook, wherever these tests run: also from a checkout that is not installed."""

from __future__ import annotations

from dbllm.testing.plugin import pytest_runtest_call, scripted

__all__ = ["pytest_runtest_call", "scripted"]
