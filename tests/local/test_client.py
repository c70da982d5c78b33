from __future__ import annotations

from dbllm.local.http.client import is_loopback


def test_only_loopback_is_this_machine() -> None:
    table = {
        "http://127.0.0.1:8765": True,
        "http://localhost:1": True,
        "http://LOCALHOST": True,
        "http://app.localhost:1": True,
        "http://[::1]:1/x": True,
        "127.0.0.1:1": True,
        "http://127.3.2.1": True,
        "https://x.cloud.databricks.com": False,
        "http://127.0.0.1.example.com": False,
        "http://localhost.example.com": False,
        "http://notlocalhost": False,
        "http://127.0.0.1@example.com": False,
        "http://10.0.0.1": False,
        "http://0.0.0.0": False,
        "": False,
        "http://[": False,
    }
    assert {url: is_loopback(url) for url in table} == table
