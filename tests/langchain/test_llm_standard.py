"""Standard tests for LLMs: LangChain has none for them, so these ask what its tests for chat models ask.

One suite, on all four kinds of place that turn a prompt into a text, all answered by the local workspace's real model.
"""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.language_models.llms import BaseLLM
from langchain_core.load import dumps
from langchain_core.messages import HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import LLMResult
from langchain_core.prompts import PromptTemplate
from langchain_core.rate_limiters import BaseRateLimiter

from dbllm import BadRequestError, DbllmError, NotFoundError
from dbllm.langchain import Databricks


class Tokens(BaseCallbackHandler):
    """Writes down what LangChain tells."""

    def __init__(self) -> None:
        self.begun: list[list[str]] = []
        self.tokens: list[str] = []
        self.results: list[LLMResult] = []
        self.errors: list[BaseException] = []

    def on_llm_start(self, serialized: Any, prompts: list[str], **_: Any) -> None:
        self.begun.append(prompts)

    def on_llm_new_token(self, token: str, **_: Any) -> None:  # type: ignore[override]
        self.tokens.append(token)

    def on_llm_end(self, response: LLMResult, **_: Any) -> None:
        self.results.append(response)

    def on_llm_error(self, error: BaseException, **_: Any) -> None:
        self.errors.append(error)


class AsyncTokens(AsyncCallbackHandler):
    def __init__(self) -> None:
        self.tokens: list[str] = []

    async def on_llm_new_token(self, token: str, **_: Any) -> None:  # type: ignore[override]
        self.tokens.append(token)


class Counter(BaseRateLimiter):
    """Lets everything pass, and counts."""

    def __init__(self) -> None:
        self.count = 0

    def acquire(self, *, blocking: bool = True) -> bool:
        self.count += 1
        return True

    async def aacquire(self, *, blocking: bool = True) -> bool:
        return self.acquire()


@pytest.mark.usefixtures("ambient")
class LLMTests:
    """The suite; a subclass says where the model is."""

    refusal: type[DbllmError] = BadRequestError

    @pytest.fixture
    def params(self) -> dict[str, Any]:
        """Where the model is; each subclass says it. This class is not collected: its name has no "Test" in front."""
        raise NotImplementedError

    @pytest.fixture
    def llm(self, params: dict[str, Any]) -> Databricks:
        return Databricks(max_tokens=12, **params)

    def test_it_is_an_llm_of_langchain(self, llm: Databricks) -> None:
        assert isinstance(llm, BaseLLM)
        assert llm._llm_type == "databricks"

    def test_invoke(self, llm: Databricks) -> None:
        assert isinstance(llm.invoke("Hello"), str)
        assert llm.invoke("Hello")

    async def test_ainvoke(self, llm: Databricks) -> None:
        text = await llm.ainvoke("Hello")
        assert isinstance(text, str)
        assert text

    def test_call(self, llm: Databricks) -> None:
        assert llm("Hello")

    def test_invoke_takes_messages_too(self, llm: Databricks) -> None:
        assert llm.invoke([HumanMessage("Hello")])

    def test_stream(self, llm: Databricks) -> None:
        pieces = list(llm.stream("Tell me about rivers."))
        assert len(pieces) > 1
        assert "".join(pieces).strip()

    async def test_astream(self, llm: Databricks) -> None:
        pieces = [piece async for piece in llm.astream("Tell me about rivers.")]
        assert len(pieces) > 1
        assert "".join(pieces).strip()

    def test_a_stream_that_is_left_can_be_followed_by_other_calls(self, llm: Databricks) -> None:
        stream = llm.stream("Tell me about rivers.")
        assert next(stream)
        stream.close()
        assert llm.invoke("Hello")

    def test_batch(self, llm: Databricks) -> None:
        texts = llm.batch(["Hello", "Hey"])
        assert len(texts) == 2
        assert all(isinstance(text, str) and text for text in texts)

    async def test_abatch(self, llm: Databricks) -> None:
        texts = await llm.abatch(["Hello", "Hey"])
        assert len(texts) == 2
        assert all(isinstance(text, str) and text for text in texts)

    async def test_one_failure_in_a_batch_leaves_the_others(self, llm: Databricks) -> None:
        hello, failure = await llm.abatch(["Hello", "x" * 17_000_000], return_exceptions=True)
        assert isinstance(hello, str)
        assert isinstance(failure, DbllmError)
        with pytest.raises(DbllmError):
            await llm.abatch(["Hello", "x" * 17_000_000])

    def test_generate(self, llm: Databricks) -> None:
        result = llm.generate(["Hello", "Hey"])
        assert [len(group) for group in result.generations] == [1, 1]
        assert all(group[0].text for group in result.generations)
        assert result.llm_output
        assert result.llm_output["model_name"]

    async def test_agenerate_with_several_answers(self, llm: Databricks) -> None:
        llm.n = 2
        result = await llm.agenerate(["Hello"])
        assert [len(group) for group in result.generations] == [2]

    def test_stop_sequence(self, llm: Databricks, params: dict[str, Any]) -> None:
        whole = llm.invoke("How are you?", temperature=0)
        letter = next(letter for letter in whole[1:] if letter.isalpha())
        assert letter not in llm.invoke("How are you?", stop=[letter], temperature=0)
        made_with_it = Databricks(max_tokens=12, stop=[letter], **params)
        assert letter not in made_with_it.invoke("How are you?", temperature=0)

    async def test_astream_with_stop(self, llm: Databricks) -> None:
        pieces = [piece async for piece in llm.astream("How are you?", stop=["a", "e"])]
        assert not {"a", "e"} & set("".join(pieces))

    def test_callbacks(self, llm: Databricks) -> None:
        handler = Tokens()
        text = llm.invoke("Hello", {"callbacks": [handler]})
        assert handler.begun == [["Hello"]]
        assert [result.generations[0][0].text for result in handler.results] == [text]

    def test_callbacks_hear_every_token_of_a_stream(self, llm: Databricks) -> None:
        handler = Tokens()
        pieces = list(llm.stream("Hello", {"callbacks": [handler]}))
        assert handler.tokens == pieces
        assert handler.results[0].generations[0][0].text == "".join(pieces)

    async def test_async_callbacks_hear_every_token_of_a_stream(self, llm: Databricks) -> None:
        handler = AsyncTokens()
        pieces = [piece async for piece in llm.astream("Hello", {"callbacks": [handler]})]
        assert handler.tokens == pieces

    def test_callbacks_hear_of_an_error(self, llm: Databricks) -> None:
        handler = Tokens()
        with pytest.raises(DbllmError):
            llm.invoke("x" * 17_000_000, {"callbacks": [handler]})
        assert len(handler.errors) == 1

    async def test_the_rate_limiter_is_asked_before_every_call(self, params: dict[str, Any]) -> None:
        limiter = Counter()
        llm = Databricks(max_tokens=4, rate_limiter=limiter, **params)
        llm.invoke("Hello")
        await llm.ainvoke("Hello")
        await llm.abatch(["Hello", "Hey"])
        list(llm.stream("Hello"))
        assert limiter.count == 5

    def test_in_a_chain(self, llm: Databricks) -> None:
        chain = PromptTemplate.from_template("Name a {thing}.") | llm | StrOutputParser()
        assert chain.invoke({"thing": "mode"})
        assert "".join(chain.stream({"thing": "mode"}))

    def test_bound_parameters_reach_the_model(self, llm: Databricks) -> None:
        short = llm.bind(max_tokens=1)
        assert len(short.invoke("Tell me about rivers.").split()) <= 1

    def test_a_parameter_that_the_model_refuses_is_an_error_of_its_own_type(self, llm: Databricks) -> None:
        with pytest.raises(self.refusal):
            llm.invoke("Hello", temperature="hot")

    @pytest.mark.parametrize("used", [False, True], ids=["before use", "after use"])
    def test_pickled_and_copied(self, llm: Databricks, used: bool) -> None:
        if used:
            llm.invoke("Hello")
        for other in (pickle.loads(pickle.dumps(llm)), copy.deepcopy(llm), copy.copy(llm), llm.model_copy()):
            assert other == llm
            assert other.invoke("Hello")

    def test_standard_params(self, llm: Databricks) -> None:
        params = llm._get_ls_params(stop=["."])
        assert params["ls_model_type"] == "llm"
        assert params["ls_provider"] == "databricks"
        assert params["ls_model_name"]
        assert params["ls_stop"] == ["."]

    def test_dumps(self, llm: Databricks) -> None:
        assert '"Databricks"' in dumps(llm)


class TestOnACustomModel(LLMTests):
    @pytest.fixture
    def params(self) -> dict[str, Any]:
        return {"endpoint_name": "dolly"}


class TestOnACompletionsEndpoint(LLMTests):
    @pytest.fixture
    def params(self) -> dict[str, Any]:
        return {"endpoint_name": "smollm2-completions"}


class TestOnAChatEndpoint(LLMTests):
    @pytest.fixture
    def params(self) -> dict[str, Any]:
        return {"endpoint_name": "smollm2-chat"}


class TestOnADriverApp(LLMTests):
    refusal = DbllmError  # the app's own callable fails, so it is a 500

    @pytest.fixture
    def params(self, app_port: int) -> dict[str, Any]:
        return {"cluster_driver_port": app_port}


@pytest.mark.usefixtures("ambient")
def test_an_endpoint_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(NotFoundError, match="dolly"):
        Databricks(endpoint_name="dollly").invoke("Hello")
