"""One local workspace for all tests of this folder, whose external OpenAI models are answered by its own upstream."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dbllm.local import Options, Workspace

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def workspace() -> Iterator[Workspace]:
    with Workspace(options=Options(upstreams={"openai": "local"}, deploy_seconds=0.2)) as running:
        yield running


@pytest.fixture
def here(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The environment names the workspace."""
    for name, value in workspace.env.items():
        monkeypatch.setenv(name, value)
    return workspace


@pytest.fixture
def fresh() -> Callable[[str], str]:
    """A name that no other test has."""
    return lambda stem: f"{stem}-{next(_numbers)}"


def external(scope: str, key: str = "key", model: str = "gpt-4") -> dict[str, Any]:
    """The config of an endpoint in front of an OpenAI chat model."""
    reference = "{{" + f"secrets/{scope}/{key}" + "}}"
    config = {"openai_api_key": reference}
    served = {"name": model, "provider": "openai", "task": "llm/v1/chat", "openai_config": config}
    return {"served_entities": [{"name": model, "external_model": served}]}


@pytest.fixture
def config() -> Callable[..., dict[str, Any]]:
    return external
