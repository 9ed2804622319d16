"""Settings: from arguments, the environment and a `.env` file, checked before anything is sent."""

from __future__ import annotations

import os
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from lc_service.limits.rate_limits import RateLimits
from lc_service.retry.policy import RetryWithExponentialBackoff

_OPENAI_URL = "https://api.openai.com/v1"


class ConfigurationError(ValueError):
    """Raise before anything is sent when a setting is missing or wrong; the message names it."""


class ServiceSettings(BaseSettings):
    """Settings from the environment and from a `.env` file in the working directory.

    `OPENAI_API_KEY` and `OPENAI_BASE_URL` as everywhere; all others begin with `LC_SERVICE_`, for instance
    `LC_SERVICE_MODEL`. An argument to `OpenAIService` comes before the environment, that before the file.
    """

    model_config = SettingsConfigDict(
        env_prefix="LC_SERVICE_",
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        populate_by_name=True,
    )

    api_key: SecretStr | None = Field(
        None, validation_alias=AliasChoices("OPENAI_API_KEY", "LC_SERVICE_API_KEY"), description="API key."
    )
    base_url: str | None = Field(
        None,
        validation_alias=AliasChoices("OPENAI_BASE_URL", "OPENAI_API_BASE", "LC_SERVICE_BASE_URL"),
        description="URL of the API; OpenAI's own where it is not set.",
    )
    model: str = Field("gpt-5.4-mini", min_length=1, description="Chat model.")
    embedding_model: str = Field("text-embedding-3-small", min_length=1, description="Embedding model.")
    temperature: float | None = Field(
        None, ge=0, le=2, allow_inf_nan=False, description="Sampling temperature."
    )
    timeout_seconds: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="The longest silence in an attempt; 600."
    )
    initial_delay: float = Field(
        1.0, ge=0, allow_inf_nan=False, description="Seconds before the first retry."
    )
    max_delay: float = Field(
        60.0, ge=0, allow_inf_nan=False, description="The longest single wait, in seconds."
    )
    max_retries: int = Field(5, ge=0, description="Retries after the first attempt.")
    deadline_seconds: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="No retry begins later in a call."
    )
    budget_usd: Decimal | None = Field(
        None, ge=0, allow_inf_nan=False, description="What all calls together may cost, in USD."
    )
    requests_per_minute: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Cap on the requests a minute; else learned alone."
    )
    tokens_per_minute: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Cap on the tokens a minute; else learned alone."
    )
    max_concurrency: int | None = Field(None, ge=1, description="Attempts under way at once; else found.")
    redis_url: SecretStr | None = Field(None, description="A Redis that processes share the limits through.")
    ledger: str | None = Field(None, description="File or URL of the ledger that keeps every attempt.")

    @field_validator("api_key")
    @classmethod
    def _read_key(cls, key: SecretStr | None) -> SecretStr | None:
        if key is None:
            return None
        word = key.get_secret_value().strip()  # a key read from a file ends in a newline
        if not (word.isascii() and word.isprintable()) or " " in word:
            # The HTTP client would refuse it too, and quote it.
            raise PydanticCustomError("api_key", "A key has no spaces and only printable ASCII characters")
        return SecretStr(word)

    @field_validator("base_url")
    @classmethod
    def _read_base_url(cls, url: str | None) -> str | None:
        parts = urlsplit(url) if url is not None else None
        if parts is not None and not (parts.scheme in ("http", "https") and parts.netloc):
            raise PydanticCustomError("base_url", "A base URL begins with https:// or http://")
        return url

    @classmethod
    def load(cls, **arguments: Any) -> ServiceSettings:
        """Read the settings, with `arguments` (those that are not None) in place of what is found.

        Raises:
            ConfigurationError: A value is wrong; the message names the argument or variable and
                repeats no value.
            TypeError: There is no such setting.
        """
        if unknown := arguments.keys() - cls.model_fields:
            raise TypeError(f"There is no setting {', '.join(sorted(unknown))}.")
        given = {name: value for name, value in arguments.items() if value is not None}
        try:
            return cls(**given)
        except UnicodeDecodeError:
            raise ConfigurationError("The .env file is not UTF-8: save it as UTF-8.") from None
        except ValidationError as error:
            problems = "; ".join(f"{_origin(item['loc'], given)}: {item['msg']}" for item in error.errors())
            raise ConfigurationError(f"Wrong setting: {problems}.") from None

    def require_key(self) -> None:
        """Check that there is a key.

        Raises:
            ConfigurationError: There is none; the message names the variable.
        """
        if self.api_key is None or not self.api_key.get_secret_value():
            raise ConfigurationError(
                "No API key: set the environment variable OPENAI_API_KEY (or put it in a .env file), or pass "
                "api_key=. A server that needs none takes any word."
            )

    @property
    def sdk_base_url(self) -> str | None:
        """What to give the SDK: it reads the variable itself where it gets no URL, even an empty one."""
        is_empty = os.environ.get("OPENAI_BASE_URL") == ""
        return _OPENAI_URL if self.base_url is None and is_empty else self.base_url

    def rate_limits(self) -> RateLimits:
        """Return the rate limits that these settings describe.

        Raises:
            ConfigurationError: The Redis URL is none.
        """
        url = self.redis_url
        try:
            return RateLimits(
                requests_per_minute=self.requests_per_minute,
                tokens_per_minute=self.tokens_per_minute,
                max_concurrency=self.max_concurrency,
                redis_url=None if url is None else url.get_secret_value(),
            )
        except ValueError as error:
            raise ConfigurationError(f"Wrong setting: LC_SERVICE_REDIS_URL: {error}") from None

    def retry_policy(self) -> RetryWithExponentialBackoff:
        """Return the retry policy that these settings describe."""
        return RetryWithExponentialBackoff(
            self.initial_delay, self.max_delay, self.max_retries, deadline_seconds=self.deadline_seconds
        )


def _origin(location: tuple[int | str, ...], arguments: dict[str, Any]) -> str:
    name = str(location[0]) if location else "settings"
    if name in arguments:
        return f"the argument {name}"
    for field in ServiceSettings.model_fields.values():
        if isinstance(field.validation_alias, AliasChoices) and name in field.validation_alias.choices:
            # pydantic names the first one, whichever was set
            return " or ".join(map(str, field.validation_alias.choices))
    return f"LC_SERVICE_{name.upper()}"
