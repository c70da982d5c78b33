"""LangChain's own standard tests, whole and unchanged."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from langchain_tests.integration_tests import ChatModelIntegrationTests, EmbeddingsIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests, EmbeddingsUnitTests
from recorded import Recorded

from dbllm.langchain import ChatDatabricks, DatabricksEmbeddings

ENVIRONMENT = {"DATABRICKS_HOST": "https://workspace.example.com", "DATABRICKS_TOKEN": "dapi-ambient"}
# Without some chance the small model repeats itself until the end of a string is forced.
FREELY = {"temperature": 0.7, "max_tokens": 400}
FOUND = {"host": "https://workspace.example.com", "api_token": "dapi-ambient"}


class TestChatUnit(ChatModelUnitTests):
    @property
    def chat_model_class(self) -> type[ChatDatabricks]:
        return ChatDatabricks

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "my-chat"}

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        return ENVIRONMENT, {"model": "my-chat"}, FOUND


@pytest.mark.usefixtures("ambient")
class TestChatOnARealModel(ChatModelIntegrationTests):
    """On the local workspace, whose small model answers."""

    @property
    def chat_model_class(self) -> type[ChatDatabricks]:
        return ChatDatabricks

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "smollm2-chat", "temperature": 0, "max_tokens": 64}

    @property
    def model_override_value(self) -> str:
        return "smollm2-chat"

    @property
    def structured_output_kwargs(self) -> dict[str, Any]:
        return {"method": "json_schema", **FREELY}


class TestChatOnARealModelByFunctionCalling(TestChatOnARealModel):
    """The same with structured output by function calling."""

    @property
    def structured_output_kwargs(self) -> dict[str, Any]:
        return {"method": "function_calling", **FREELY}


class TestChatOnRecordedAnswers(ChatModelIntegrationTests):
    """With everything that a large model can do turned on."""

    @pytest.fixture(autouse=True)
    def _media(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Pictures and sounds that the tests fetch from the public web."""
        monkeypatch.setenv("LANGCHAIN_TESTS_USER_AGENT", "dbllm-tests")
        monkeypatch.setattr(httpx, "get", lambda url, **_: httpx.Response(200, content=url.encode()))

    @property
    def chat_model_class(self) -> type[ChatDatabricks]:
        return ChatDatabricks

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "gpt-4o", **Recorded().params()}

    @property
    def model_override_value(self) -> str:
        return "gpt-4o-mini"

    @property
    def structured_output_kwargs(self) -> dict[str, Any]:
        return {"method": "json_schema"}

    supports_json_mode = True
    supports_image_inputs = True
    supports_image_urls = True
    supports_pdf_inputs = True
    supports_audio_inputs = True
    supports_image_tool_message = True
    supports_pdf_tool_message = True
    supports_anthropic_inputs = True


class TestChatOnRecordedAnswersByFunctionCalling(TestChatOnRecordedAnswers):
    @property
    def structured_output_kwargs(self) -> dict[str, Any]:
        return {"method": "function_calling"}


class TestEmbeddingsUnit(EmbeddingsUnitTests):
    @property
    def embeddings_class(self) -> type[DatabricksEmbeddings]:
        return DatabricksEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"endpoint": "my-embeddings"}

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        return ENVIRONMENT, {"endpoint": "my-embeddings"}, FOUND


@pytest.mark.usefixtures("ambient")
class TestEmbeddingsOnARealModel(EmbeddingsIntegrationTests):
    @property
    def embeddings_class(self) -> type[DatabricksEmbeddings]:
        return DatabricksEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"endpoint": "databricks-bge-large-en"}
