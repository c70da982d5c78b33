"""What can be chosen about a workspace."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from dbllm.local.invocation.callables import Answerer
from dbllm.local.invocation.dispatch import AT_ONCE
from dbllm.local.invocation.faults import Fault
from dbllm.local.management.endpoints import DEPLOY_SECONDS
from dbllm.local.page.request_log import Entry


@dataclass(frozen=True, slots=True)
class Options:
    """What can be chosen about a workspace.

    Attributes:
        deploy_seconds: how long a deployment takes.
        seed: makes the split of the traffic repeatable.
        at_once: how many invocations are worked on at the same time; further ones wait.
        upstreams: base URLs by provider of external models, in place of the providers' own; "local" is the
            workspace's own upstream.
        upstream_key: opens the workspace's own upstream; made up when left out.
        customs: custom models by name: a callable, its "module:function", or the URL of an MLflow scoring server. Each
            gets an endpoint of that name, if the name can be one's.
        faults: what is wrong with which endpoint from the start; "*" is every other.
        on_answer: is told of each request once it was answered, from the server's thread.
        ai_gateway: whether the workspace has the AI gateway and its model services.
        now: seconds since 1970.
    """

    deploy_seconds: float = DEPLOY_SECONDS
    seed: int | None = None
    at_once: int = AT_ONCE
    upstreams: Mapping[str, str] = field(default_factory=dict)
    upstream_key: str | None = field(default=None, repr=False)
    customs: Mapping[str, str | Answerer] = field(default_factory=dict)
    faults: Mapping[str, Fault] = field(default_factory=dict)
    on_answer: Callable[[Entry], object] | None = None
    ai_gateway: bool = True
    now: Callable[[], float] = time.time
