"""The functions that a model may call, in the current and the older form, and which of them it may or must call."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import PlainValidator

from localllm.contract.chat_format import ToolChoice
from localllm.contract.errors import InvalidRequestError
from localllm.openai.structured import to_json
from localllm.openai.wire_model import FieldError, UnsupportedValueError, WireModel, check_text, describe

MAX_TOOLS: Final = 512
_NAME: Final = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")
_NO_PARAMETERS: Final[Mapping[str, Any]] = {"type": "object", "properties": {}}

PlainTool = dict[str, Any]
"""``{"type": "function", "function": {"name", "description"?, "parameters", "strict"?}}``"""

CallForm = Literal["none", "tools", "functions"]
"""How an answer words its calls: it can't have any, as ``tool_calls``, or as the older ``function_call``."""


def read_tools(value: object) -> tuple[PlainTool, ...]:
    """Return OpenAI's ``tools``. A tool that is listed twice counts once."""
    return _unlike([_read_tool(tool, f"[{index}]") for index, tool in enumerate(_entries(value))], ".function.name")


def read_functions(value: object) -> tuple[PlainTool, ...]:
    """Return the older ``functions``, as tools."""
    found = [_read_function(function, f"[{index}]") for index, function in enumerate(_entries(value))]
    return _unlike([_tool(function) for function in found], ".name")


def _entries(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise FieldError(f"must be a list, not {describe(value)}")
    if len(value) > MAX_TOOLS:
        raise FieldError(f"must have at most {MAX_TOOLS} entries, not {len(value)}")
    return value


def _read_tool(tool: object, at: str) -> PlainTool:
    if not isinstance(tool, dict):
        raise FieldError(f"must be an object with type and function, not {describe(tool)}", at=at)
    kind = tool.get("type")
    if kind != "function":
        if isinstance(kind, str) and kind:
            message = f"A tool of type {describe(kind)} can't be used here: this server's models call functions only."
            raise UnsupportedValueError(message, at=f"{at}.type")
        raise FieldError(f'must be "function", not {describe(kind)}', at=f"{at}.type")
    return _tool(_read_function(tool.get("function"), f"{at}.function"))


def _tool(function: dict[str, Any]) -> PlainTool:
    return {"type": "function", "function": function}


def _read_function(function: object, at: str) -> dict[str, Any]:
    if not isinstance(function, dict):
        raise FieldError(f"must be an object with name and parameters, not {describe(function)}", at=at)
    read: dict[str, Any] = {"name": _read_name(function.get("name"), f"{at}.name")}
    description, strict = function.get("description"), function.get("strict")
    if description is not None:
        if not isinstance(description, str):
            raise FieldError(f"must be a string, not {describe(description)}", at=f"{at}.description")
        read["description"] = check_text(description, f"{at}.description")
    read["parameters"] = _read_parameters(function.get("parameters"), f"{at}.parameters")
    if strict is not None and not isinstance(strict, bool):
        raise FieldError(f"must be true or false, not {describe(strict)}", at=f"{at}.strict")
    return read | {"strict": True} if strict else read


def _read_name(name: object, at: str) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise FieldError(f"must be 1 to 128 letters, digits or any of _ . : / -, not {describe(name)}", at=at)
    return name


def _read_parameters(parameters: object, at: str) -> dict[str, Any]:
    """Return the schema of the arguments, which are an object. Null is absent inside of it too: Go writes it so."""
    if parameters is None:
        return dict(_NO_PARAMETERS)
    if not isinstance(parameters, dict):
        raise FieldError(f"must be an object, not {describe(parameters)}", at=at)
    schema = {key: value for key, value in parameters.items() if value is not None}
    kind = schema.get("type", "object")
    if kind != "object" and not (isinstance(kind, list) and "object" in kind):
        raise FieldError(f'must be "object", for arguments are one, not {describe(kind)}', at=f"{at}.type")
    to_json(schema, at)
    return schema or dict(_NO_PARAMETERS)


def _unlike(tools: Sequence[PlainTool], at: str) -> tuple[PlainTool, ...]:
    by_name: dict[str, PlainTool] = {}
    for index, tool in enumerate(tools):
        name = tool["function"]["name"]
        if by_name.setdefault(name, tool) != tool:
            raise FieldError(
                f"must not be the name of another function too, as {describe(name)} is", at=f"[{index}]{at}"
            )
    return tuple(by_name.values())


class Choice(NamedTuple):
    """Which functions may be called: ``allowed`` is None for all that are offered. ``name`` is the one that must be."""

    mode: ToolChoice
    name: str | None = None
    allowed: tuple[str, ...] | None = None


def read_tool_choice(value: object) -> Choice:
    """Return OpenAI's ``tool_choice``, whose objects may also be flat, as those of its newer endpoint.

    Raises ``FieldError``.
    """
    if value in ("none", "auto", "required"):
        return Choice(value)
    if not isinstance(value, dict):
        raise FieldError(f'must be "none", "auto", "required" or an object with a type, not {describe(value)}')
    match value.get("type"):
        case "function":
            return Choice("required", _name_of(*_inner(value, "function")))
        case "allowed_tools":
            return _read_allowed(*_inner(value, "allowed_tools"))
        case other:
            raise FieldError(f'must be "function" or "allowed_tools", not {describe(other)}', at=".type")


def read_function_choice(value: object) -> Choice:
    """Return the older ``function_call``. Raises ``FieldError``."""
    if value in ("none", "auto"):
        return Choice(value)
    if not isinstance(value, dict):
        raise FieldError(f'must be "none", "auto" or an object with a name, not {describe(value)}')
    return Choice("required", _name_of(value, ""))


def _read_allowed(value: dict[str, Any], at: str) -> Choice:
    mode, tools = value.get("mode"), value.get("tools")
    if mode not in ("auto", "required"):
        raise FieldError(f'must be "auto" or "required", not {describe(mode)}', at=f"{at}.mode")
    if not isinstance(tools, list) or not 1 <= len(tools) <= MAX_TOOLS:
        raise FieldError(f"must be a list of 1 to {MAX_TOOLS} functions, not {describe(tools)}", at=f"{at}.tools")
    names = [_allowed_name(tool, f"{at}.tools[{index}]") for index, tool in enumerate(tools)]
    return Choice(mode, allowed=tuple(names))


def _allowed_name(tool: object, at: str) -> str:
    if not isinstance(tool, dict) or tool.get("type") != "function":
        raise FieldError(f"must be an object of type function, not {describe(tool)}", at=at)
    return _name_of(*_inner(tool, "function", at))


def _inner(value: dict[str, Any], key: str, at: str = "") -> tuple[dict[str, Any], str]:
    inner = value.get(key)
    if inner is None:
        return value, at
    if not isinstance(inner, dict):
        raise FieldError(f"must be an object, not {describe(inner)}", at=f"{at}.{key}")
    return inner, f"{at}.{key}"


def _name_of(value: dict[str, Any], at: str) -> str:
    name = value.get("name")
    if not isinstance(name, str):
        raise FieldError(f"must be the name of a function, not {describe(name)}", at=f"{at}.name")
    return name


class Offer(NamedTuple):
    """What of tools a prompt carries, and how the answer words calls."""

    tools: tuple[PlainTool, ...] = ()
    choice: Choice = Choice("auto")
    parallel: bool = True
    form: CallForm = "none"


class ToolFields(WireModel):
    """The fields that offer functions to the model: ``tools``, or the older ``functions``, which allow one call.

    ``tool_choice`` goes with the former, ``function_call`` with the latter; "none" and "auto" may stand alone.
    """

    tools: Annotated[tuple[PlainTool, ...], PlainValidator(read_tools, list[dict[str, Any]])] = ()
    tool_choice: Annotated[Choice | None, PlainValidator(read_tool_choice, str | dict[str, Any])] = None
    parallel_tool_calls: bool = True
    functions: Annotated[tuple[PlainTool, ...], PlainValidator(read_functions, list[dict[str, Any]])] = ()
    function_call: Annotated[Choice | None, PlainValidator(read_function_choice, str | dict[str, Any])] = None

    def offer(self) -> Offer:
        """Return what is offered. Raises ``InvalidRequestError`` for fields that don't go together."""
        if self.tools and self.functions:
            message = "functions is the older form of tools: send one of them."
            raise InvalidRequestError(message, param="functions")
        _check_choice("tool_choice", self.tool_choice, "tools", self.tools, other=self.functions)
        _check_choice("function_call", self.function_call, "functions", self.functions, other=self.tools)
        choice = (self.function_call if self.functions else self.tool_choice) or Choice("auto")
        if choice.allowed is None:
            tools = self.tools or self.functions
        else:
            tools = tuple(tool for tool in self.tools if tool["function"]["name"] in choice.allowed)
        if not tools:
            return Offer()
        form: CallForm = "functions" if self.functions else "tools"
        parallel = self.parallel_tool_calls and not self.functions
        return Offer(tools, choice, parallel, "none" if choice.mode == "none" else form)


def _check_choice(
    name: str, choice: Choice | None, goes_with: str, tools: Sequence[PlainTool], *, other: Sequence[PlainTool]
) -> None:
    """Refuse a choice among functions that are not offered, or are offered in the other form."""
    if choice is None or choice == Choice("auto"):
        return
    if not tools and (other or choice.mode == "required" or choice.allowed is not None):
        raise InvalidRequestError(f"{name} needs {goes_with} to choose from: send {goes_with} too.", param=name)
    offered = {tool["function"]["name"] for tool in tools}
    wanted = [*(choice.allowed or ()), *([] if choice.name is None else [choice.name])]
    missing = next((one for one in wanted if one not in offered), None)
    if missing is not None:
        message = f"{name} names {describe(missing)}, which is not among {goes_with}: name a function that is offered."
        raise InvalidRequestError(message, param=name)
