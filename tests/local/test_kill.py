"""A workspace that is killed in the midst of a burst of writes: what it acknowledged is there when it starts again."""

from __future__ import annotations

import os
import random
import subprocess
import threading
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from .test_up import COMMAND, clean_environment, exports

ROUNDS = 20 if os.environ.get("DBLLM_SOAK") else 3
SECRETS, ENDPOINTS, WRITERS = 1000, 200, 4


class Ledger:
    """What was acknowledged, and what was on its way: by key, the value before and after."""

    def __init__(self) -> None:
        self.acknowledged: dict[str, str] = {}
        self.underway: dict[str, str] = {}
        self.count = 0
        self.enough = threading.Event()
        self.stop_at = 0
        self._lock = threading.Lock()

    def acknowledge(self, key: str, value: str) -> None:
        with self._lock:
            self.acknowledged[key] = value
            self.underway.pop(key, None)
            self.count += 1
            if self.count >= self.stop_at:
                self.enough.set()

    def admits(self, key: str, value: str | None) -> bool:
        """Whether a restarted workspace may have this value: the acknowledged one, or the one that was on its way."""
        return value == self.acknowledged.get(key) or (key in self.underway and value == self.underway[key])


def start(folder: Path, model: Path) -> tuple[subprocess.Popen[str], httpx.Client]:
    arguments = ["up", "--port", "0", "--model", str(model), "--state", str(folder), "--deploy-seconds", "0"]
    process = subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=clean_environment()
    )
    lines: list[str] = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if line.startswith("# ready"):
            break
    assert lines, "it did not start"
    assert lines[-1].startswith("# ready"), lines
    env = exports(lines)
    headers = {"authorization": f"Bearer {env['DATABRICKS_TOKEN']}"}
    return process, httpx.Client(base_url=env["DATABRICKS_HOST"], headers=headers, timeout=30, trust_env=False)


def write(http: httpx.Client, key: str, value: str) -> None:
    kind, number = key.split("-")
    if kind == "secret":
        body = {"scope": "s", "key": number, "string_value": value}
        http.post("/api/2.0/secrets/put", json=body).raise_for_status()
        return
    entity = {"entity_name": "local.default.dolly", "entity_version": "1"}
    body = {"name": number, "config": {"served_entities": [entity]}, "description": value}
    answer = http.post("/api/2.0/serving-endpoints", json=body)
    if answer.status_code == 409:  # there already: a tag is what changes
        tag = {"add_tags": [{"key": "value", "value": value}]}
        answer = http.patch(f"/api/2.0/serving-endpoints/{number}/tags", json=tag)
    answer.raise_for_status()


def burst(http: httpx.Client, keys: list[str], value: str, ledger: Ledger) -> None:
    """Write every key until the workspace is gone."""
    for key in keys:
        ledger.underway[key] = value
        try:
            write(http, key, value)
        except httpx.TransportError:
            return
        ledger.acknowledge(key, value)


def kept(http: httpx.Client) -> dict[str, str]:
    """All values of the workspace."""
    found: dict[str, str] = {}
    for one in http.get("/api/2.0/serving-endpoints").json()["endpoints"]:
        tags = {tag["key"]: tag["value"] for tag in one["tags"]}
        if one["name"].isdigit():
            found[f"endpoint-{one['name']}"] = tags.get("value", one["description"])
    for one in http.get("/api/2.0/secrets/list", params={"scope": "s"}).json()["secrets"]:
        answer = http.get("/api/2.0/secrets/get", params={"scope": "s", "key": one["key"]})
        found[f"secret-{one['key']}"] = b64decode(answer.json()["value"]).decode()
    return found


@pytest.mark.timeout(1800)
def test_nothing_that_was_acknowledged_is_lost(tmp_path: Path, model: Path) -> None:
    draw = random.Random(1)
    keys = [f"secret-{number}" for number in range(SECRETS)] + [f"endpoint-{number}" for number in range(ENDPOINTS)]
    draw.shuffle(keys)
    ledger = Ledger()
    process, http = start(tmp_path, model)
    try:
        http.post("/api/2.0/secrets/scopes/create", json={"scope": "s"}).raise_for_status()
        with ThreadPoolExecutor(WRITERS) as writers:  # all are there before the first kill: every round risks them all
            for number in range(WRITERS):
                writers.submit(burst, http, keys[number::WRITERS], "first", ledger)
        assert len(ledger.acknowledged) == SECRETS + ENDPOINTS
        for number in range(ROUNDS):
            ledger.enough.clear()
            ledger.stop_at = ledger.count + draw.randrange(20, 300)
            with ThreadPoolExecutor(WRITERS) as writers:
                for one in range(WRITERS):
                    mine = keys[one::WRITERS]
                    draw.shuffle(mine)
                    writers.submit(burst, http, mine, f"round {number}", ledger)
                assert ledger.enough.wait(60)
                process.kill()
                process.communicate()
            assert ledger.count < (number + 2) * (SECRETS + ENDPOINTS), "it was killed after the burst, not in it"
            http.close()
            process, http = start(tmp_path, model)
            found = kept(http)
            lost = {key: found.get(key) for key in keys if not ledger.admits(key, found.get(key))}
            assert lost == {}, f"round {number}"
            ledger.acknowledged.update(found)
            ledger.underway.clear()
    finally:
        http.close()
        process.kill()
        process.communicate()
