"""What every chain does to its input before the prompt: check it, and fence text off from orders.

Text reaches the prompt as the value of a variable, character for character, between tags it cannot
close. Nothing here shortens, cleans or judges the text, or knows any task.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import count
from typing import Annotated, Any, TypeVar

from langchain_core.runnables import Runnable, RunnableConfig
from pydantic import AfterValidator, BaseModel, RootModel, TypeAdapter, create_model
from typing_extensions import override

InputT = TypeVar("InputT")


def is_blank(text: str | None) -> bool:
    """Tell whether there is nothing to read: no text, or only spaces and invisible characters."""
    # str.strip() leaves a lone byte order mark or zero-width space standing
    return not text or not any(char.isprintable() and not char.isspace() for char in text)


def _refuse_blank(text: str) -> str:
    if is_blank(text):
        raise ValueError("is empty: give it text or leave the item out; the call would be paid for")
    return text


Text = Annotated[str, AfterValidator(_refuse_blank)]
"""A string that has something to read in it."""


def choose_tag(name: str, *texts: str) -> str:
    """Return `name`, or `name-2`, `name-3`, ..., whichever none of the `texts` closes.

    The choice depends on the texts alone, so equal inputs give equal prompts and caches hold.
    """
    closing = re.compile(rf"<\s*/\s*{re.escape(name)}(?:-([0-9]+))?", re.IGNORECASE)
    taken = {number or "1" for text in texts for number in closing.findall(text)}
    free = next(number for number in count(1) if str(number) not in taken)
    return name if free == 1 else f"{name}-{free}"


class CheckedInput(Runnable[InputT, dict[str, Any]]):
    """The first step of a chain: validate the input, then derive the prompt's variables.

    It raises `pydantic.ValidationError`, a `ValueError`, for whatever is not an `input_type`.
    Further keys are ignored, so rows of a data set can be passed with all their columns.

    Args:
        input_type: The typed dictionary to hold the input against.
        variables: Turns a valid input into the values of the prompt's variables.
    """

    # a RunnableLambda would do the same, but costs a traced run of its own with every call
    name = "check_input"

    def __init__(self, input_type: type[InputT], variables: Callable[[InputT], dict[str, Any]]) -> None:
        self._input_type = input_type
        self._adapter = TypeAdapter(input_type)
        self._variables = variables

    @override
    def __repr__(self) -> str:
        # no address: serialized chains are compared by it
        return f"{type(self).__name__}({self._input_type.__name__})"

    @property
    @override
    def InputType(self) -> type[InputT]:
        return self._input_type

    @property
    @override
    def OutputType(self) -> type[dict[str, Any]]:
        return dict[str, Any]

    @override
    def get_input_schema(self, config: RunnableConfig | None = None) -> type[BaseModel]:
        return create_model(self._input_type.__name__, __base__=RootModel[self._input_type])  # type: ignore[name-defined]  # a type that is known at run time

    @override
    def invoke(self, input: InputT, config: RunnableConfig | None = None, **kwargs: Any) -> dict[str, Any]:
        return self._variables(self._adapter.validate_python(input))

    @override
    async def ainvoke(
        self, input: InputT, config: RunnableConfig | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        return self.invoke(input)  # the inherited one hops to a thread
