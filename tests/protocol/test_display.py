"""How replies show themselves: short reprs, and in a notebook text and tables in which nothing runs."""

from __future__ import annotations

import copy
import json
import pickle
from html.parser import HTMLParser
from typing import Any

from dbllm import (
    ChatCompletion,
    ChatCompletionChunk,
    Completion,
    Embeddings,
    Message,
    ModelService,
    OutputItem,
    Predictions,
    Response,
    ResponseEvent,
    ServingEndpoint,
    Usage,
)
from dbllm._protocol.display import Listing
from dbllm._protocol.reply import CallInfo
from dbllm.errors import Raw

NASTY = "<script>alert(1)</script>\"><img src=x onerror='alert(2)'></pre></td><svg/onload=alert(3)>&lt;b&gt;"
CALL = {"id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": '{"city": "Paris"}'}}


def chat(text: Any, **message: Any) -> ChatCompletion:
    said = {"role": "assistant", "content": text, **message}
    choice = {"index": 0, "message": said, "finish_reason": "stop"}
    usage = {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21}
    return ChatCompletion.model_validate({"choices": [choice], "usage": usage, "model": "small"})


def response(*items: Any) -> Response:
    return Response.model_validate({"output": list(items), "status": "completed"})


def answer(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}


def embeddings(texts: int, length: int) -> Embeddings:
    return Embeddings.model_validate(
        {"data": [{"index": place, "embedding": [place + 0.123456789] * length} for place in range(texts)]}
    )


def endpoint(name: str, **more: Any) -> ServingEndpoint:
    state = {"ready": "READY", "config_update": "NOT_UPDATING"}
    return ServingEndpoint.model_validate({"name": name, "task": "llm/v1/chat", "state": state, **more})


def with_call(reply: Any, request_id: str = "req-1") -> Any:
    vars(reply)["_call"] = CallInfo(Raw(200, {"x-request-id": request_id, "x-key": "dapi-canary"}, b"dapi-canary"))
    return reply


LONG = "many words " * 2000


def test_a_reply_says_in_a_line_what_it_is() -> None:
    wrong = []
    for reply, parts in (
        (with_call(chat("Hello!")), ["text='Hello!'", "finish_reason='stop'", "completion_tokens=12", "'req-1'"]),
        (chat(None, tool_calls=[CALL]), ["look_up", "Paris"]),
        (chat(LONG), ["many words"]),
        (Completion.model_validate({"choices": [{"text": "Good"}]}), ["text='Good'"]),
        (ChatCompletionChunk.model_validate({"choices": [{"delta": {"content": LONG}}]}), ["many words"]),
        (with_call(embeddings(2, 384)), ["<2 of 384 numbers>", "'req-1'"]),
        (embeddings(0, 0), ["<0 of 0 numbers>"]),
        (embeddings(20_000, 3).data[0], ["index=0", "0.123456789"]),
        (Predictions(predictions=[{"score": number, "why": LONG} for number in range(9999)]), ["'score': 0", "..."]),
        (response(answer("Hi"), {"type": "function_call", "name": "f", "arguments": "{}"}), ["text='Hi'", "f({})"]),
        (ResponseEvent.model_validate({"type": "response.output_text.delta", "delta": LONG}), ["output_text.delta"]),
        (OutputItem.model_validate(answer(LONG)), ["type='message'"]),
        (Message(role="user", content=LONG), ["role='user'"]),
        (Usage(prompt_tokens=1), ["Usage(prompt_tokens=1)"]),
        (endpoint("one", config={"served_entities": [{"external_model": {"name": "gpt"}, "x": LONG}]}), ["'gpt'"]),
        (ModelService(name="model-services/system.ai.one", config={"x": LONG}), ["full_name='system.ai.one'"]),
    ):
        shown = repr(reply)
        name = type(reply).__name__
        if not shown.startswith(f"{name}(") or len(shown) > 500 or not all(part in shown for part in parts):
            wrong.append((name, shown))
        if "\n" in shown or "canary" in shown or len(str(reply)) > 500:
            wrong.append((name, shown))
    assert not wrong


def test_what_is_not_whole_has_a_repr_all_the_same() -> None:
    for kind in (ChatCompletion, Completion, Embeddings, Predictions, Response, ServingEndpoint, ModelService):
        assert repr(kind.model_construct()).startswith(f"{kind.__name__}(")
    broken = Embeddings.model_validate({"data": [{"index": 0, "embedding": "no base64"}]})
    assert repr(broken) == "Embeddings()"


class Page(HTMLParser):
    """The elements of a page, their attributes, and the text that a reader sees."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open, f"{self.open} are not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.open.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


HARMLESS = {"div", "pre", "details", "summary", "small", "p", "table", "thead", "tbody", "tr", "th", "td"}


def test_what_a_model_or_a_server_wrote_is_inert_in_a_notebook() -> None:
    call = {"id": NASTY, "type": "function", "function": {"name": NASTY, "arguments": NASTY}}
    named = {"finish_reason": NASTY, "message": {"content": NASTY, "tool_calls": [call], "reasoning_content": NASTY}}
    wrong = []
    for reply in (
        with_call(ChatCompletion.model_validate({"choices": [named], "model": NASTY}), NASTY),
        Completion.model_validate({"choices": [{"text": NASTY}], "model": NASTY, "usage": {NASTY: NASTY}}),
        with_call(response(answer(NASTY), {"type": "function_call", "name": NASTY, "arguments": NASTY}), NASTY),
        with_call(Embeddings.model_validate({"data": [{"embedding": [0.5]}], "model": NASTY}), NASTY),
        Predictions(predictions=[{NASTY: NASTY, "nested": {NASTY: [NASTY]}}]),
        Predictions(predictions=NASTY),
        Predictions(predictions=[[NASTY]]),
        Predictions(predictions={NASTY: [NASTY]}),
        Listing([endpoint(NASTY, creator=NASTY)]),
        Listing([ModelService(name=f"model-services/a.b.{NASTY}", comment=NASTY, supported_api_types=[NASTY])]),
    ):
        page = Page(reply._repr_html_())
        if not set(page.tags) <= HARMLESS or not page.attributes <= {"style"} or NASTY[:25] not in page.text:
            wrong.append((reply, page.tags, page.attributes))
    assert not wrong


def test_a_chat_reply_is_text_with_its_tokens_below_it() -> None:
    page = Page(with_call(chat("one\n  two", reasoning_content="hm"))._repr_html_())
    assert "one\n  two" in page.text
    assert page.tags[:4] == ["div", "details", "summary", "pre"]  # the reasoning, folded
    for part in ("hm", "finish_reason: stop", "completion_tokens=12", "request_id: req-1"):
        assert part in page.text
    assert "look_up" in Page(chat(None, tool_calls=[CALL])._repr_html_()).text
    assert len(chat("x" * 10**6)._repr_html_()) < 30_000


def test_vectors_and_predictions_are_tables_of_their_first_rows() -> None:
    page = Page(embeddings(20_000, 384)._repr_html_())
    assert page.tags.count("tr") == 51
    assert page.tags.count("th") == 10
    assert "… and 19,950 more rows" in page.text
    page = Page(Predictions(predictions=[{"a": 1.23456789, "b": None}, {"a": 2, "c": "x"}])._repr_html_())
    assert page.tags.count("th") == 3
    assert "1.2346" in page.text
    wide = [{f"column {number}": number for number in range(300)}] * 2
    assert Page(Predictions(predictions=wide)._repr_html_()).tags.count("td") == 40


def test_a_list_of_endpoints_shows_one_a_line_and_is_a_list() -> None:
    listed = Listing(endpoint(f"name-{number}", creator="me") for number in range(25))
    lines = repr(listed).splitlines()
    assert lines[0].startswith("[ServingEndpoint(name='name-0', state_summary='READY/NOT_UPDATING'")
    assert (len(lines), lines[-1]) == (21, " … and 5 more]")
    page = Page(listed._repr_html_())
    assert page.tags.count("tr") == 26
    for part in ("name-24", "READY/NOT_UPDATING", "llm/v1/chat", "me"):
        assert part in page.text
    assert listed == [*listed]
    assert json.loads(json.dumps(Listing([1, 2]))) == [1, 2]
    for twin in (copy.copy(listed), copy.deepcopy(listed), pickle.loads(pickle.dumps(listed))):
        assert (type(twin), twin) == (list, listed)
    assert repr(Listing([])) == "[]"
    assert Page(Listing([])._repr_html_()).tags.count("td") == 0
