"""Items as the conversation that a model is asked to go on with, and how its beginning is dropped where it must be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from localllm.openai.calls import CallLinks, PlainCall
from localllm.openai.responses.items import Item
from localllm.openai.responses.parts import text_of

PlainMessage = Mapping[str, Any]

INSTRUCTION_ROLES: Final = ("system", "developer")
_CHARS_PER_MESSAGE: Final = 16  # what a template writes around each message, roughly
_MARGIN: Final = 0.95


def to_messages(items: Sequence[Item]) -> tuple[PlainMessage, ...]:
    """Return the messages that the items amount to, as ``ChatPrompt.messages`` has them.

    Calls, and the thoughts before them, join the assistant's message that they follow. Thoughts that nothing follows
    are dropped. All items are as ``read_items`` returns them; none is a reference.
    """
    builder = _Builder()
    for item in items:
        builder.add(item)
    return tuple(builder.messages())


class _Builder:
    def __init__(self) -> None:
        self._messages: list[dict[str, Any]] = []
        self._links = CallLinks()
        self._thoughts: list[str] = []
        self._calls: list[PlainCall] = []  # of the last message, while more may follow

    def add(self, item: Item) -> None:
        kind = item["type"]
        if kind == "reasoning":
            self._end_calls()
            self._thoughts.append(text_of(item.get("content") or []) or text_of(item["summary"]))
        elif kind == "function_call":
            self._call(item)
        elif kind == "function_call_output":
            self._end_calls()
            answer = self._links.answer(len(self._messages), item["call_id"], "")
            self._messages.append({"role": "tool", "content": text_of(item["output"]), **answer})
        else:
            self._end_calls()
            text = text_of(item["content"])
            self._messages.append(self._assistant(text) if item["role"] == "assistant" else _said(item["role"], text))

    def messages(self) -> list[dict[str, Any]]:
        self._end_calls()
        return self._messages

    def _call(self, item: Item) -> None:
        last = self._messages[-1] if self._messages else None
        if self._thoughts or last is None or last["role"] != "assistant":
            self._end_calls()
            self._messages.append(self._assistant(""))
        function = {"name": item["name"], "arguments": item["arguments"]}
        self._calls.append({"id": item["call_id"], "type": "function", "function": function})

    def _assistant(self, text: str) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": text}
        thought, self._thoughts = "\n".join(filter(None, self._thoughts)), []
        return message | {"reasoning_content": thought} if thought else message

    def _end_calls(self) -> None:
        if self._calls:
            last = self._messages[-1]
            last["tool_calls"] = self._links.number(len(self._messages) - 1, self._calls)
            self._calls = []


def _said(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": text}


def drop_oldest(messages: Sequence[PlainMessage], *, keep_share: float) -> tuple[PlainMessage, ...] | None:
    """Return the messages without the oldest, so that about ``keep_share`` (0 to 1) of their text is left.

    Instructions at the beginning stay, and what is left then begins with the user where that is possible, so that no
    result is parted from its call. At least one message goes; None where that would leave nothing to answer.
    """
    n_leading = next((i for i, one in enumerate(messages) if one["role"] not in INSTRUCTION_ROLES), len(messages))
    leading, rest = messages[:n_leading], messages[n_leading:]
    sizes = [_size(message) for message in rest]
    allowed = (sum(sizes) + sum(map(_size, leading))) * keep_share * _MARGIN - sum(map(_size, leading))
    left = sum(sizes)
    for index in range(1, len(rest)):
        left -= sizes[index - 1]
        if left <= allowed and rest[index]["role"] == "user":
            return (*leading, *rest[index:])
    last = next((index for index in range(len(rest) - 1, 0, -1) if rest[index]["role"] == "user"), None)
    return None if last is None else (*leading, *rest[last:])


def _size(message: PlainMessage) -> int:
    n_chars = _CHARS_PER_MESSAGE + len(message["content"]) + len(message.get("reasoning_content", ""))
    for call in message.get("tool_calls", ()):
        n_chars += len(call["function"]["name"]) + len(call["function"]["arguments"])
    return n_chars
