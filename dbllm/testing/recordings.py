"""The file of a recording: requests and answers of one test, as JSON text that reads well in a review. Pure.

    {"format": 1, "cluster_id": "", "interactions": [
      {"request": {"method", "path", "body"}, "response": {"status", "headers", "seconds", "body"}}]}

A body that is no JSON is `text`, or `base64`. A stream has `events` in the place of the body, one a line: the second in
which it came, its `data` (JSON or text), its `event` and its `id`. What all data have in common stands once, in `each`;
`said` is the text of all, for who reads the file. `ends` is "cut" where the connection broke, in any answer.
"""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dbllm.testing.journal import compare
from dbllm.testing.recorded_secrets import HIDDEN

FORMAT = 1
_FRAME_END = re.compile(rb"\r?\n\r?\n")
_KEPT_HEADERS = frozenset({"content-type", "x-request-id", "retry-after", "retry-after-ms", "served-model-name"})
_SURROGATE = re.compile("[\ud800-\udfff]")  # half of a character: JSON can have it, UTF-8 cannot
_SENT = ("recorded", "sent")


@dataclass(slots=True)
class Interaction:
    """One request and its answer.

    Attributes:
        request: method, path, body (or text, or base64); `app` where it went to an app's own host.
        response: status, headers, seconds until it began, and body, text, base64 or events.
        used: it has been replayed.
    """

    request: dict[str, Any]
    response: dict[str, Any]
    used: bool = False


@dataclass(slots=True)
class Recording:
    """What one test sent and received.

    Attributes:
        interactions: in the order in which the requests were sent.
        cluster_id: of the test's driver apps.
    """

    interactions: list[Interaction] = field(default_factory=list)
    cluster_id: str = ""

    def take(self, request: Mapping[str, Any], ignored: frozenset[str]) -> Interaction | None:
        """The first interaction that fits a request and was not used before."""
        for one in self.interactions:
            if not one.used and not request_differences(one.request, request, ignored):
                one.used = True
                return one
        return None

    def misfit(self, request: Mapping[str, Any], ignored: frozenset[str], name: str) -> str:
        """Why no interaction fits a request: the nearest, and in what it differs."""
        hint = "If the request is right, record anew: delete the file, and run the test where the workspace is reached."
        what = f"{request['method']} {request['path']}"
        said = f"The recording {name} has no answer for {what}"
        fits = [one for one in self.interactions if not request_differences(one.request, request, ignored)]
        if fits:
            times = "once" if len(fits) == 1 else f"{len(fits)} times"
            return f"{said}: it was sent {times} when this was recorded, and once more now. {hint}"
        if not self.interactions:
            return f"{said}: it is empty. {hint}"

        def distance(place: int) -> tuple[bool, int]:
            one = self.interactions[place].request
            other = (one["method"], one["path"]) != (request["method"], request["path"])
            return other, len(request_differences(one, request, ignored))

        nearest = min(range(len(self.interactions)), key=distance)
        lines = request_differences(self.interactions[nearest].request, request, ignored)
        shown = [f"  {line}" for line in lines[:20]] + ([f"  and {len(lines) - 20} more"] if len(lines) > 20 else [])
        return "\n".join([f"{said}. The nearest is its request {nearest + 1}, which differs in:", *shown, hint])


def request_differences(
    recorded: Mapping[str, Any], sent: Mapping[str, Any], ignored: frozenset[str] = frozenset()
) -> list[str]:
    """In what a request differs from a recorded one; `ignored` are fields of its body. What is hidden fits all."""
    return compare(_open_where_hidden(_without(recorded, ignored)), _without(sent, ignored), words=_SENT)


def _open_where_hidden(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _open_where_hidden(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_open_where_hidden(one) for one in value]
    if isinstance(value, str) and HIDDEN in value:
        return HiddenText(value)
    return value


class HiddenText(str):
    """A text in which secrets were hidden: it is equal to every text that has anything in their places."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        parts = ".*".join(re.escape(part) for part in self.split(HIDDEN))
        return isinstance(other, str) and re.fullmatch(parts, other, re.DOTALL) is not None

    def __ne__(self, other: object) -> bool:
        return not self == other


def _without(request: Mapping[str, Any], ignored: frozenset[str]) -> dict[str, Any]:
    body = request.get("body")
    if isinstance(body, dict):
        return {**request, "body": {name: value for name, value in body.items() if name not in ignored}}
    return dict(request)


# --- bodies and events ------------------------------------------------------------------------------------------------


def content_of(body: bytes) -> dict[str, Any]:
    """A body as fields of a recording."""
    if not body:
        return {}
    try:
        return {"body": json.loads(body)}
    except ValueError:
        pass
    try:
        return {"text": body.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(body).decode()}


def body_of(content: Mapping[str, Any]) -> bytes:
    """The body that the fields of a recording stand for."""
    if "text" in content:
        return str(content["text"]).encode()
    if "base64" in content:
        return base64.b64decode(content["base64"])
    return (
        json.dumps(content["body"], ensure_ascii=False).encode("utf-8", "surrogatepass") if "body" in content else b""
    )


def split_frames(received: bytes) -> tuple[list[bytes], bytes]:
    """The whole server-sent events in what has been received, and the rest."""
    frames, place = [], 0
    for end in _FRAME_END.finditer(received):
        frames.append(received[place : end.end()])
        place = end.end()
    return frames, received[place:]


def event_of(frame: bytes) -> dict[str, Any]:
    """A server-sent event as fields; one that has others than event, id and one data line is kept as text."""
    text = frame.decode("utf-8", "replace")
    fields: dict[str, Any] = {}
    for line in text.replace("\r\n", "\n").split("\n"):
        name, _, value = line.partition(":")
        if not line:
            continue
        if name not in ("event", "id", "data") or name in fields:
            return {"text": text}
        fields[name] = value.removeprefix(" ")
    if "data" not in fields:
        return {"text": text}
    try:
        fields["data"] = json.loads(fields["data"])
    except ValueError:
        return fields  # a text, as [DONE]
    return fields if isinstance(fields["data"], dict) else {"text": text}


def frame_of(event: Mapping[str, Any]) -> bytes:
    """The server-sent event that fields stand for."""
    if "text" in event:
        return str(event["text"]).encode()
    lines = [f"{name}: {event[name]}" for name in ("id", "event") if name in event]
    data = event["data"]
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return ("\n".join([*lines, f"data: {text}"]) + "\n\n").encode("utf-8", "surrogatepass")


def kept_headers(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    """The headers of an answer that a recording keeps."""
    pairs = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in headers]
    return {name: value for name, value in pairs if name in _KEPT_HEADERS or name.startswith("x-ratelimit-")}


class RecordedStream:
    """Takes the events of a stream as they come.

    Args:
        response: what it fills.
        began: when the request was sent, on `time.monotonic`.
    """

    def __init__(self, response: dict[str, Any], began: float) -> None:
        self._response, self._began, self._rest = response, began, b""
        self._events: list[dict[str, Any]] = response.setdefault("events", [])
        response["ends"] = "cut"  # until its end has come: the client may leave before

    def feed(self, piece: bytes) -> None:
        """A piece has come."""
        frames, self._rest = split_frames(self._rest + piece)
        self._events += [{"at": self._seconds(), **event_of(frame)} for frame in frames]
        if self._events and self._events[-1].get("data") == "[DONE]":
            self._response.pop("ends", None)

    def end(self) -> None:
        """The body has ended as it should."""
        if self._rest:
            self._events.append({"at": self._seconds(), "text": self._rest.decode("utf-8", "replace")})
        self._rest = b""
        self._response.pop("ends", None)

    def _seconds(self) -> float:
        return round(time.monotonic() - self._began, 3)


# --- the file ---------------------------------------------------------------------------------------------------------


def to_text(recording: Recording) -> str:
    """A recording as the text of its file."""
    content: dict[str, Any] = {"format": FORMAT}
    if recording.cluster_id and any(recording.cluster_id in one.request["path"] for one in recording.interactions):
        content["cluster_id"] = recording.cluster_id
    content["interactions"] = [
        {"request": one.request, "response": _with_common_once(one.response)} for one in recording.interactions
    ]
    return _indented(content, 0) + "\n"


def _with_common_once(response: dict[str, Any]) -> dict[str, Any]:
    """A stream's response with the fields that all data share in one place, and its text."""
    events = response.get("events", [])
    data = [event["data"] for event in events if isinstance(event.get("data"), dict)]
    if len(data) < 2:
        return response
    first = data[0]
    common = {name: first[name] for name in first if all(name in one and one[name] == first[name] for one in data)}
    short = [
        {**event, "data": {name: value for name, value in event["data"].items() if name not in common}}
        if isinstance(event.get("data"), dict)
        else event
        for event in events
    ]
    rest = {name: value for name, value in response.items() if name not in ("events", "ends")}
    more = {name: value for name, value in (("said", "".join(map(_said_in, data))), ("each", common)) if value}
    return {**rest, **more, "events": short, **({"ends": response["ends"]} if "ends" in response else {})}


def _with_common_in_each(response: dict[str, Any]) -> dict[str, Any]:
    common = response.get("each", {})
    events = [
        {**event, "data": {**common, **event["data"]}} if isinstance(event.get("data"), dict) else event
        for event in response.get("events", [])
    ]
    kept = {name: value for name, value in response.items() if name not in ("said", "each")}
    return {**kept, "events": events} if "events" in response else kept


def _said_in(data: dict[str, Any]) -> str:
    """The text in an event's data."""
    match data:
        case {"choices": [{"delta": {"content": str(text)}}, *_]} | {"choices": [{"text": str(text)}, *_]}:
            return text
        case {"type": "response.output_text.delta", "delta": str(text)}:
            return text
    return ""


def _indented(value: Any, depth: int, name: str = "") -> str:
    """JSON with indentation, and each event of a stream in one line."""
    pad = "  " * (depth + 1)
    if isinstance(value, dict) and value:
        items = [f"{pad}{_one_line(key)}: {_indented(one, depth + 1, key)}" for key, one in value.items()]
        return "{\n" + ",\n".join(items) + "\n" + "  " * depth + "}"
    if isinstance(value, list) and value:
        flat = name == "events" or not any(isinstance(one, dict | list) for one in value)
        items = [_one_line(one) if flat else _indented(one, depth + 1) for one in value]
        if flat and name != "events":
            return "[" + ", ".join(items) + "]"
        return "[\n" + ",\n".join(pad + item for item in items) + "\n" + "  " * depth + "]"
    return _one_line(value)


def _one_line(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if _SURROGATE.search(text) is None else json.dumps(value)


def _check_interaction(one: Interaction) -> None:
    """All that a replay reads is there.

    Raises:
        LookupError, TypeError, AttributeError, ValueError: it is not.
    """
    request, response = one.request, one.response
    for name in ("method", "path"):
        if not isinstance(request[name], str):
            raise ValueError(f"{name} of a request must be a text, got {request[name]!r:.40}")
    status = response["status"]
    if isinstance(status, bool) or not isinstance(status, int) or not 100 <= status <= 599:
        raise ValueError(f"status must be an HTTP status, got {status!r:.40}")
    response.setdefault("headers", {})
    for name, value in response["headers"].items():
        if not isinstance(value, str) or "\n" in f"{name}{value}" or "\r" in f"{name}{value}":
            raise ValueError(f"the header {name} must be a text in one line, got {value!r:.40}")
    if not isinstance(response.get("seconds", 0.0), int | float):
        raise ValueError(f"seconds must be a number, got {response['seconds']!r:.40}")
    body_of(response)
    for event in response.get("events", ()):
        frame_of(event)
        if not isinstance(event.get("at", 0.0), int | float):
            raise ValueError(f"at must be a number of seconds, got {event['at']!r:.40}")


def from_text(text: str, name: str) -> Recording:
    """The recording in the text of a file.

    Raises:
        ValueError: it is none, or of a format that this version does not read.
    """
    hint = "delete the file, and record the test anew"
    found: list[Interaction] = []
    try:
        content = json.loads(text)
        if content["format"] == FORMAT:
            pairs = [(dict(one["request"]), dict(one["response"])) for one in content["interactions"]]
            found = [Interaction(request, _with_common_in_each(response)) for request, response in pairs]
        for one in found:
            _check_interaction(one)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{name} is not a recording ({type(error).__name__}: {error}): {hint}.") from error
    if content["format"] != FORMAT:
        raise ValueError(f"{name} has format {content['format']!r}, and this version of dbllm reads {FORMAT}: {hint}.")
    return Recording(found, str(content.get("cluster_id", "")))
