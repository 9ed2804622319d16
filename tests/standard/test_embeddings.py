"""LangChain's standard tests for embeddings."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.embeddings import Embeddings
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests

from lc_service.models.embeddings import ReliableOpenAIEmbeddings


class _Embeddings:
    @property
    def embeddings_class(self) -> type[Embeddings]:
        return ReliableOpenAIEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": "text-embedding-3-small", "api_key": "sk-test"}


class TestUnit(_Embeddings, EmbeddingsUnitTests):
    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        environment = {"OPENAI_API_KEY": "sk-test", "OPENAI_API_BASE": "http://127.0.0.1:9/v1"}
        expected = {"openai_api_key": "sk-test", "openai_api_base": environment["OPENAI_API_BASE"]}
        return environment, {"model": "text-embedding-3-small"}, expected


@pytest.mark.usefixtures("simulator")
class TestIntegration(_Embeddings, EmbeddingsIntegrationTests):
    base_url: str

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {**super().embedding_model_params, "base_url": self.base_url}
