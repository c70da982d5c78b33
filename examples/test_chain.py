"""A test of a chain, on a real small model that pytest starts and the chain finds: pytest test_chain.py"""

from chain import make_chain

from dbllm.langchain import ChatDatabricks


def test_the_chain_tells_about_the_thing_and_keeps_the_limit(workspace):  # the fixture comes with dbllm
    text = make_chain(ChatDatabricks(model="smollm2-chat", temperature=0, max_tokens=40)).invoke({"thing": "rivers"})
    assert "river" in text.lower()
    assert len(text.split()) <= 40
