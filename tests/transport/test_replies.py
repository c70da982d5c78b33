"""A success that is no answer: a sign-in page, a text, nothing. The error has the server's words in every call."""

from __future__ import annotations

import httpx
import pytest

import dbllm

ONCE = dbllm.Retry(attempts=1)


async def _stream(stream):
    async with stream as chunks:
        async for _ in chunks:
            pass
        return await chunks.final()


CALLS = {
    "chat": lambda client: client.endpoint("m", task="chat").chat("hi"),
    "complete": lambda client: client.endpoint("m", task="completions").complete("hi"),
    "complete, its task looked up": lambda client: client.endpoint("m").complete("hi"),
    "complete of a custom model": lambda client: client.endpoint("m", task="custom").complete("hi"),
    "complete of an app": lambda client: client.driver_app(7777, "c").complete("hi"),
    "predict": lambda client: client.endpoint("m").predict(inputs=[1]),
    "embed": lambda client: client.endpoint("m").embed(["a"]),
    "respond": lambda client: client.endpoint("m").respond("a"),
    "stream_chat": lambda client: _stream(client.endpoint("m", task="chat").stream_chat("hi")),
    "stream_complete": lambda client: _stream(client.endpoint("m", task="chat").stream_complete("hi")),
    "stream_respond": lambda client: _stream(client.endpoint("m").stream_respond("hi")),
    "endpoints.list": lambda client: client.endpoints.list(),
    "endpoints.get": lambda client: client.endpoints.get("m"),
    "secrets.get": lambda client: client.secrets.get("s", "k"),
    "secrets.list": lambda client: client.secrets.list("s"),
}
DEEDS = {  # their answers are empty, or an empty object
    "endpoints.delete": lambda client: client.endpoints.delete("m"),
    "secrets.create_scope": lambda client: client.secrets.create_scope("s"),
    "secrets.put": lambda client: client.secrets.put("s", "k", "v"),
    "secrets.delete": lambda client: client.secrets.delete("s", "k"),
}
PAGE = b"<!DOCTYPE html><html><head><title>Sign in to Databricks</title></head><body>...</body></html>"
HTML, TEXT = {"content-type": "text/html; charset=utf-8"}, {"content-type": "text/plain"}
PAGES = {  # status, headers, body, what the message says
    "a page": (200, HTML, PAGE, "the answer is an HTML page: Sign in to Databricks"),
    "a page that calls itself JSON": (
        200,
        {"content-type": "application/json"},
        PAGE,
        "HTML page: Sign in to Databricks",
    ),
    "a page with a BOM": (200, HTML, b"\xef\xbb\xbf<html><body>Log in</body></html>", "an HTML page: Log in"),
    "a text": (200, TEXT, b"upstream OK", "the answer is not JSON, but: upstream OK"),
}
NOTHING = {
    "204": (204, {}, b"", "HTTP 204: the answer is empty"),
    "an empty 200": (200, {}, b"", "HTTP 200: the answer is empty"),
    "blanks": (200, TEXT, b" \r\n", "HTTP 200: the answer is empty"),
}


async def _failures(make, calls, answers):
    wrong = {}
    for what, (status, headers, body, said) in answers.items():
        transport = httpx.MockTransport(
            lambda _, status=status, headers=headers, body=body: httpx.Response(status, headers=headers, content=body)
        )
        async with make(transport=transport, retry=ONCE) as client:
            for name, call in calls.items():
                try:
                    wrong[name, what] = await call(client)
                except dbllm.APIResponseError as error:
                    if said not in str(error) or "_Parts" in str(error) or "line 1 column" in str(error):
                        wrong[name, what] = error
                    elif error.raw is None or (
                        error.raw.body != body and name != "secrets.put"
                    ):  # may repeat the secret
                        wrong[name, what] = "the answer is not kept"
    return wrong


async def test_a_page_a_text_or_nothing_instead_of_an_answer_is_told_in_the_servers_words(make):
    assert await _failures(make, CALLS, {**PAGES, **NOTHING}) == {}


async def test_a_page_or_a_text_never_passes_for_a_deed_that_is_done_and_nothing_does(make):
    assert await _failures(make, DEEDS, PAGES) == {}
    done = await _failures(make, DEEDS, NOTHING)
    assert done == dict.fromkeys(done)
    assert len(done) == len(DEEDS) * len(NOTHING)


async def test_metrics_are_a_text_and_never_a_page(make):
    answers = [httpx.Response(200, text="cpu_usage 1\n"), httpx.Response(200, headers=HTML, content=PAGE)]
    async with make(transport=httpx.MockTransport(lambda _: answers.pop(0)), retry=ONCE) as client:
        assert await client.endpoints.metrics("m") == "cpu_usage 1\n"
        with pytest.raises(dbllm.APIResponseError, match="Sign in to Databricks"):
            await client.endpoints.metrics("m")


async def test_json_of_another_form_is_told_by_its_flaw_and_without_an_internal_name(make):
    answer = httpx.MockTransport(lambda _: httpx.Response(200, json={"endpoints": "none"}))
    async with make(transport=answer, retry=ONCE) as client:
        with pytest.raises(dbllm.APIResponseError, match=r"the answer has another form than expected \(endpoints: "):
            await client.endpoints.list()
