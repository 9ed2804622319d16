"""LangChain's standard tests for chat models, over Chat Completions and over the Responses API.

Pictures, sounds and PDFs that the suite would download are stubs. Skipped is only what does not apply: the
benchmark over a recorded cassette, and formats that Chat Completions does not have.
"""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from lc_service.models.chat import ReliableChatOpenAI

# Upstream's own, of stock ChatOpenAI too: of parsed answers, pydantic 1 schemas and files without a name.
UPSTREAM_WARNS = [
    pytest.mark.filterwarnings("ignore:Pydantic serializer warnings"),
    pytest.mark.filterwarnings("ignore:Received a Pydantic BaseModel V1 schema"),
    pytest.mark.filterwarnings("ignore:OpenAI may require a filename"),
]


class _Chat:
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ReliableChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "gpt-4.1-mini"}

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return "gpt-4.1-nano"


class TestUnit(_Chat, ChatModelUnitTests):
    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {**super().chat_model_params, "api_key": "sk-test"}

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        environment = {"OPENAI_API_KEY": "sk-test", "OPENAI_API_BASE": "http://127.0.0.1:9/v1"}
        expected = {"openai_api_key": "sk-test", "openai_api_base": environment["OPENAI_API_BASE"]}
        return environment, super().chat_model_params, expected


class TestUnitResponses(TestUnit):
    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {**super().chat_model_params, "use_responses_api": True}


class TestIntegration(_Chat, ChatModelIntegrationTests):
    pytestmark = [*UPSTREAM_WARNS, pytest.mark.usefixtures("simulator")]  # noqa: RUF012
    base_url: str

    @pytest.fixture(autouse=True)
    def _no_downloads(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(httpx, "get", lambda *_, **__: httpx.Response(200, content=b"a file"))
        monkeypatch.setenv("LANGCHAIN_TESTS_USER_AGENT", "the suite asks for one; nothing is sent")

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {**super().chat_model_params, "api_key": "sk-test", "base_url": self.base_url}

    @property
    def supports_image_inputs(self) -> bool:
        return True

    @property
    def supports_image_urls(self) -> bool:
        return True

    @property
    def supports_pdf_inputs(self) -> bool:
        return True

    @property
    def supports_audio_inputs(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True


class TestIntegrationResponses(TestIntegration):
    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {**super().chat_model_params, "use_responses_api": True}

    @property
    def supports_audio_inputs(self) -> bool:
        return False

    @property
    def supports_image_tool_message(self) -> bool:
        return True

    @property
    def supports_pdf_tool_message(self) -> bool:
        return True
