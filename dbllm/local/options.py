"""What can be chosen about a workspace."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
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
        allowed_upstreams: servers, as name or name:port, that the settings of external models may name although they
            are this machine or not public. Those of `upstreams` may be named in any case.
        allowed_hosts: names of this machine, beside those of loopback, under which it is called (header `Host`).
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
    allowed_upstreams: Sequence[str] = ()
    allowed_hosts: Sequence[str] = ()
    upstream_key: str | None = field(default=None, repr=False)
    customs: Mapping[str, str | Answerer] = field(default_factory=dict)
    faults: Mapping[str, Fault] = field(default_factory=dict)
    on_answer: Callable[[Entry], object] | None = None
    ai_gateway: bool = True
    now: Callable[[], float] = time.time
