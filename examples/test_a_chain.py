"""A test of a LangChain chain in ten lines: no model, some milliseconds. The last test asks a real, small one.

pip install -e '.[langchain,testing,local]' # in the clone
pytest examples/test_a_chain.py
"""

from __future__ import annotations

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable

from dbllm.langchain import ChatDatabricks
from dbllm.testing import Scripted, Workspace


def make_chain() -> Runnable[dict[str, str], str]:
    """The chain that is tested: your own code."""
    prompt = ChatPromptTemplate.from_template("Tell me about {thing} in one sentence.")
    return prompt | ChatDatabricks(model="smollm2-chat", temperature=0) | StrOutputParser()


def test_the_chain_asks_the_model_and_returns_its_text(scripted: Scripted) -> None:
    scripted.reply("Rivers flow to the sea.")
    assert make_chain().invoke({"thing": "rivers"}) == "Rivers flow to the sea."
    scripted.assert_called_once(endpoint="smollm2-chat", prompt="Tell me about rivers in one sentence.", temperature=0)


def test_the_chain_streams_after_the_model_was_busy(scripted: Scripted) -> None:
    scripted.error(429, retry_after=0.01)
    scripted.reply("Lakes are still.")
    assert list(make_chain().stream({"thing": "lakes"}))[:3] == ["Lakes ", "are ", "still."]
    assert [call.status for call in scripted.calls] == [429, 200]


def test_a_small_model_talks_about_the_thing(workspace: Workspace) -> None:
    assert "river" in make_chain().invoke({"thing": "rivers"}).lower()
