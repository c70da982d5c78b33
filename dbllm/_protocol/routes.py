"""Which path takes which wire format: by the name of an endpoint or model service, and by its description. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

from .._urls import origin
from ..errors import ConfigError
from .paths import ENDPOINTS, MODEL_SERVICES, SERVICE, endpoint_name, invocations_path, is_service_name, quoted
from .tasks import VERBS, Kind, Verb, kind_of_task

Gateway = Literal["mlflow", "openai"]

KIND_OF: dict[Verb, Kind] = {"chat": "chat", "respond": "responses", "embed": "embeddings", "predict": "custom"}
"""What a verb speaks; `complete` speaks what the endpoint does."""

_API_TYPES: dict[str, Kind] = {"chat/completions": "chat", "responses": "responses", "embeddings": "embeddings"}
_OPENAI = ("openai", "gpt", "codex")  # in a model's or its provider's name: OpenAI's own wire takes all of its fields
_MODELS = frozenset({"FOUNDATION_MODEL_API", "EXTERNAL_MODEL"})


class Route(NamedTuple):
    """Where a call goes.

    Attributes:
        path: the path.
        model: what the body says in `model`, if the path does not name the model.
        origin: the host; None means the workspace.
        details: what the token for that host is asked for (`authorization_details`).
    """

    path: str
    model: str | None = None
    origin: str | None = None
    details: str = ""


Routes = Mapping[Kind, tuple[Route, ...]]


@dataclass(slots=True, eq=False, repr=False)
class Learned:
    """What is known of an endpoint: by its description, or by what it has accepted.

    Attributes:
        kind: what `complete` speaks there; None if only routes are known.
        kinds: all that is spoken there; empty if that is not known.
        own: the route of all kinds that have none of their own; None: the handle's.
        routes: those of certain kinds, in the order in which to try them.
        advice: why it cannot be called at its own URL with these credentials.
    """

    kind: Kind | None
    kinds: tuple[Kind, ...]
    own: Route | None = None
    routes: Routes = field(default_factory=dict)
    advice: str = ""

    @property
    def verbs(self) -> tuple[Verb, ...]:
        """What can be done there."""
        return tuple(dict.fromkeys(verb for kind in self.kinds for verb in VERBS[kind]))


@dataclass(slots=True, eq=False, repr=False)
class EndpointRef:
    """What a handle calls.

    Attributes:
        name: as messages say it.
        kind: what is spoken there, if the user has said so.
        own: the route of all kinds that have none of their own; None where each has one.
        described_at: the path of its description; "" if there is none.
        routes: those of certain kinds, in the order in which to try them.
        guesses: what `complete` tries in turn where the description cannot be had.
        served_model: the one served entity that may answer, which a route-optimised endpoint's own URL does not name.
    """

    name: str
    kind: Kind | None
    own: Route | None = None
    described_at: str = ""
    routes: Routes = field(default_factory=dict)
    guesses: tuple[Kind, ...] = ("chat", "completions", "custom")
    served_model: str | None = None

    @property
    def is_service(self) -> bool:
        """Whether it is a model service, which has a description of another form than an endpoint."""
        return self.described_at.startswith(MODEL_SERVICES)

    def routes_for(self, kind: Kind, learned: Learned | None) -> tuple[Route, ...]:
        """Where calls of this kind go, in the order in which to try.

        Raises:
            ConfigError: nothing there speaks it.
        """
        if learned is None and not self.routes and self.own:
            return (self.own,)  # as of most endpoints
        own = (learned.own if learned and not self.served_model else None) or self.own
        if learned and (routes := learned.routes.get(kind)):
            return routes
        if (routes := self.routes.get(kind)) and not (own and learned and learned.kind == kind):
            return routes
        if own:
            return (own,)
        verbs = " or ".join(
            f"{verb}()" for known_kind in self.routes for verb in VERBS[known_kind] if verb != "complete"
        )
        raise ConfigError(
            f"model service {self.name!r} takes no {kind} requests: use complete(), {verbs}. A model of your own with "
            "other inputs is called by the name of its serving endpoint."
        )

    def learn(self, description: Any) -> Learned | None:
        """What a description says; None if it says nothing."""
        if not isinstance(description, dict):
            return None
        return _of_service(description) if self.is_service else _of_endpoint(self.name, description)


def endpoint_ref(name: str, kind: Kind | None, served_model: str | None, gateway: Gateway | None) -> EndpointRef:
    """What `client.endpoint(name)` calls: a serving endpoint or, with two dots or more in its name, a model service.

    Raises:
        ConfigError: the name is neither's, or `served_model` or `gateway` does not go with it.
    """
    if gateway not in (None, "mlflow", "openai"):
        raise ConfigError(f"gateway must be 'mlflow' or 'openai', got {gateway!r}.")
    if isinstance(name, str) and served_model is None:  # some make a handle for each call, as LangChain's models do
        return _known_ref(name, kind, None, gateway)
    return _ref(name, kind, served_model, gateway)


def _ref(name: str, kind: Kind | None, served_model: str | None, gateway: Gateway | None) -> EndpointRef:
    name, service = endpoint_name(name), is_service_name(name)
    if served_model is not None and (service or gateway):
        what = f"{name!r} is a model service" if service else f"gateway={gateway!r}"
        raise ConfigError(f"{what}, and the AI Gateway chooses the model there: leave out served_model=.")
    described_at = f"{MODEL_SERVICES}/{quoted(name)}" if service else f"{ENDPOINTS}/{quoted(name)}"
    if service or gateway:
        api = gateway or "mlflow"
        routes: dict[Kind, tuple[Route, ...]] = {
            each: (_gateway_route(api, wire, name),) for wire, each in _API_TYPES.items()
        }
        if not gateway:
            routes["responses"] += (_gateway_route("openai", "responses", name),)
        return EndpointRef(name, kind, None, described_at, routes, ("chat", "responses"))
    own = Route(invocations_path(name, served_model))
    if served_model is None and name.startswith("databricks-"):  # a prefix that only foundation models may have
        return EndpointRef(name, kind, own, described_at, {"responses": (*_responses_routes(name, (name,)), own)})
    return EndpointRef(name, kind, own, described_at, served_model=served_model)


_known_ref = lru_cache(_ref)


def fallback_refs(ref: EndpointRef, fallback: object, gateway: Gateway | None) -> list[EndpointRef]:
    """What is called in turn where `ref` does not answer; nothing for None.

    Raises:
        ConfigError: a name is none, or an endpoint is named twice.
        TypeError: `fallback` is no list of names.
    """
    if fallback is None:
        return []
    names = [fallback] if isinstance(fallback, str) else fallback
    if not isinstance(names, Iterable):
        raise TypeError(f"fallback is a list of names of endpoints, not {type(fallback).__name__}.")
    refs, named = [endpoint_ref(name, None, None, gateway) for name in names], [ref.name]
    for each in refs:
        if each.name in named:
            what = "itself" if each.name == ref.name else f"{each.name!r} twice"
            raise ConfigError(f"the fallback of endpoint {ref.name!r} names {what}: name other endpoints, each once.")
        named.append(each.name)
    return refs


def _gateway_route(api: str, wire: str, name: str) -> Route:
    return Route(f"/ai-gateway/{api}/v1/{wire}", name)


def _of_service(description: Mapping[str, Any]) -> Learned | None:
    name = str(description.get("name")).removeprefix(SERVICE)
    routes: dict[Kind, tuple[Route, ...]] = {}
    for api in ("mlflow", "openai"):
        for wire, kind in _API_TYPES.items():
            if f"{api}/v1/{wire}" in (description.get("supported_api_types") or ()):
                routes[kind] = (*routes.get(kind, ()), _gateway_route(api, wire, name))
    return Learned(next(iter(routes)), tuple(routes), None, routes) if routes else None


def _of_endpoint(name: str, description: Mapping[str, Any]) -> Learned:
    kind = kind_of_task(description.get("task"))
    info = (description.get("data_plane_info") or {}).get("query_info") or {}
    if url := info.get("endpoint_url"):  # route-optimised: it is called there, and perhaps nowhere else
        own = Route(urlsplit(url).path, None, origin(url), str(info.get("authorization_details") or ""))
        return Learned(kind, (kind,), own)
    if kind != "chat" or not (models := [*_models(description)]):
        return Learned(kind, (kind,))
    return Learned(kind, (kind, "responses"), None, {"responses": _responses_routes(name, (name, *models))})


def _responses_routes(name: str, models: Iterable[str]) -> tuple[Route, ...]:
    """Where models take responses: OpenAI's at OpenAI's own interface, the others at the one for all providers."""
    openai = any(word in model.lower() for model in models for word in _OPENAI)
    paths = ("responses", "open-responses") if openai else ("open-responses", "responses")
    return tuple(Route(f"/serving-endpoints/{path}", name) for path in paths)


def _models(description: Mapping[str, Any]) -> Iterator[str]:
    """The foundation and external models behind an endpoint, each by its provider and name."""
    config = description.get("config") or {}
    for entity in config.get("served_entities") or config.get("served_models") or ():
        model = entity.get("external_model") or entity.get("foundation_model")
        if isinstance(model, dict):
            yield f"{model.get('provider')} {model.get('name')}"
        elif {entity.get("type"), description.get("endpoint_type")} & _MODELS:
            yield str(entity.get("entity_name"))
