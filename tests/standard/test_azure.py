"""LangChain's standard tests for Azure's classes, over the simulator's deployments.

What stock AzureChatOpenAI claims is claimed here. Pictures, sounds and PDFs that the suite would download are
stubs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import httpx2
import pytest
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests, EmbeddingsIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests, EmbeddingsUnitTests

from lc_service.models.azure import ReliableAzureChatOpenAI, ReliableAzureOpenAIEmbeddings
from lc_service.simulator import Fault, FaultPlan, Simulator

VERSION = "2024-10-21"
ENVIRONMENT = {
    "AZURE_OPENAI_API_KEY": "a-key",
    "AZURE_OPENAI_ENDPOINT": "http://127.0.0.1:9",
    "OPENAI_API_VERSION": VERSION,
}
EXPECTED = {
    "openai_api_key": "a-key",
    "azure_endpoint": "http://127.0.0.1:9",
    "openai_api_version": VERSION,
}


@pytest.fixture(scope="class")
def deployments(request: pytest.FixtureRequest) -> Iterator[None]:
    """Serve a suite's tests; every request is answered by a 429 first."""
    plan = FaultPlan.first(Fault("rate_limit", retry_after_seconds=0.001))
    with Simulator(faults=plan, max_lifetime_seconds=300) as sim:
        request.cls.endpoint = sim.azure_endpoint
        yield
        assert all(each.path.startswith("/openai/deployments/") for each in sim.requests)
        statuses = [each.status for each in sim.requests]
    assert statuses.count(429) == statuses.count(200) == len(statuses) / 2


CLIENT = httpx2.Client(verify=False)
ASYNC_CLIENT = httpx2.AsyncClient(verify=False)

UPSTREAM_WARNS = [
    pytest.mark.filterwarnings("ignore:Pydantic serializer warnings"),
    pytest.mark.filterwarnings("ignore:Received a Pydantic BaseModel V1 schema"),
    pytest.mark.filterwarnings("ignore:OpenAI may require a filename"),
]


class _Chat:
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ReliableAzureChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"azure_deployment": "house", "model": "gpt-4.1-mini", "api_version": VERSION}

    @property
    def supports_json_mode(self) -> bool:
        return True


class TestChatUnit(_Chat, ChatModelUnitTests):
    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {
            **super().chat_model_params,
            "azure_endpoint": "http://127.0.0.1:9",
            "api_key": "a-key",
            # Azure's SDK clients load the certificates again for each model, of which there are many.
            "http_client": CLIENT,
            "http_async_client": ASYNC_CLIENT,
        }

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        return ENVIRONMENT, {"azure_deployment": "house"}, EXPECTED


class TestChatIntegration(_Chat, ChatModelIntegrationTests):
    pytestmark = [*UPSTREAM_WARNS, pytest.mark.usefixtures("deployments")]  # noqa: RUF012
    endpoint: str

    @pytest.fixture(autouse=True)
    def _no_downloads(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(httpx, "get", lambda *_, **__: httpx.Response(200, content=b"a file"))
        monkeypatch.setenv("LANGCHAIN_TESTS_USER_AGENT", "the suite asks for one; nothing is sent")

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {**super().chat_model_params, "azure_endpoint": self.endpoint, "api_key": "a-key"}

    @property
    def supports_image_inputs(self) -> bool:
        return True

    @property
    def supports_image_urls(self) -> bool:
        return True


class _Embeddings:
    @property
    def embeddings_class(self) -> type[Embeddings]:
        return ReliableAzureOpenAIEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"azure_deployment": "text-embedding-3-small", "api_version": VERSION, "api_key": "a-key"}


class TestEmbeddingsUnit(_Embeddings, EmbeddingsUnitTests):
    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {**super().embedding_model_params, "azure_endpoint": "http://127.0.0.1:9"}

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        return ENVIRONMENT, {"azure_deployment": "vectors"}, EXPECTED


@pytest.mark.usefixtures("deployments")
class TestEmbeddingsIntegration(_Embeddings, EmbeddingsIntegrationTests):
    endpoint: str

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {**super().embedding_model_params, "azure_endpoint": self.endpoint}
