"""The output items of a response, written piece by piece, with the stream events that tell of each piece."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple

from localllm.contract.generation import CallDelta, ChoiceFinished, Chunk, TokenLogprob
from localllm.openai.answers import new_call_id
from localllm.openai.logprobs import chat_logprobs
from localllm.openai.responses.ids import item_id

Event = dict[str, Any]
ItemStatus = Literal["in_progress", "completed", "incomplete"]


class _Form(NamedTuple):
    """How one kind of text is told: the names of its events, and where in its item its part stands."""

    item: Literal["message", "reasoning"]
    text: str
    part: str
    place: Literal["content", "summary"]
    type: str


_MESSAGE: Final = _Form("message", "response.output_text", "response.content_part", "content", "output_text")
_THOUGHT: Final = _Form("reasoning", "response.reasoning_text", "response.content_part", "content", "reasoning_text")
_SUMMARY: Final = _Form(
    "reasoning", "response.reasoning_summary_text", "response.reasoning_summary_part", "summary", "summary_text"
)


class OutputWriter:
    """Turns the pieces of one answer into items and events. One item is open at a time, and it is the last.

    Thoughts, text and calls each become items of their own, in the order in which they were written. Events lack
    their ``sequence_number``. An id, once told, never changes. With ``as_summary`` thoughts stand where a summary of
    them would, unabridged.
    """

    def __init__(
        self,
        response_id: str,
        *,
        shows_reasoning: bool = True,
        as_summary: bool = False,
        shows_logprobs: bool = False,
    ) -> None:
        self.is_cut = False
        self._response_id = response_id
        self._shows_reasoning = shows_reasoning
        self._thought = _SUMMARY if as_summary else _THOUGHT
        self._shows_logprobs = shows_logprobs
        self._done: list[dict[str, Any]] = []
        self._open: _Text | _Call | None = None

    def add(self, piece: Chunk | CallDelta | ChoiceFinished) -> list[Event]:
        """Go on with one piece; return what there is to tell."""
        match piece:
            case Chunk(region="reasoning"):
                return self._write(self._thought, piece) if self._shows_reasoning and piece.text else []
            case Chunk():
                return self._write(_MESSAGE, piece) if piece.text or piece.logprobs else []
            case CallDelta():
                return self._write_call(piece)
            case ChoiceFinished():
                return self._finish(piece)

    def items(self) -> list[dict[str, Any]]:
        """Return the items as they are now; one that is still open counts as incomplete."""
        return [*self._done, *([] if self._open is None else [self._open.item("incomplete")])]

    def _write(self, form: _Form, piece: Chunk) -> list[Event]:
        events: list[Event] = []
        part = self._open
        if not isinstance(part, _Text) or part.form is not form:
            events += self._close("completed")
            part = self._new_text(form)
            self._open = part
            events += part.opening()
        return [*events, *part.add(piece.text, piece.logprobs)]

    def _write_call(self, piece: CallDelta) -> list[Event]:
        events: list[Event] = []
        if piece.name is not None:
            events += self._close("completed")
            call_id = piece.id or new_call_id()
            self._open = _Call(self._new_id("function_call"), len(self._done), call_id, piece.name)
            events += self._open.opening()
        if isinstance(self._open, _Call) and piece.arguments:
            events += self._open.add(piece.arguments)
        return events

    def _finish(self, end: ChoiceFinished) -> list[Event]:
        """End the answer. One that the model ended has at least a message, if an empty one."""
        self.is_cut = end.reason == "length"
        events = self._close("incomplete" if self.is_cut else "completed")
        if not self.is_cut and all(item["type"] == "reasoning" for item in self._done):
            empty = self._new_text(_MESSAGE)
            self._open = empty
            events += [*empty.opening(), *self._close("completed")]
        return events

    def _close(self, status: ItemStatus) -> list[Event]:
        part, self._open = self._open, None
        if part is None:
            return []
        events = part.closing(status)
        self._done.append(part.item(status))
        return events

    def _new_text(self, form: _Form) -> _Text:
        return _Text(self._new_id(form.item), len(self._done), form, shows_logprobs=self._shows_logprobs)

    def _new_id(self, kind: str) -> str:
        return item_id(kind, self._response_id, "output", len(self._done))


class _Text:
    """A message, or a thought: an item with one part of text."""

    def __init__(self, identity: str, index: int, form: _Form, *, shows_logprobs: bool) -> None:
        self.form = form
        self._item = {"item_id": identity, "output_index": index}
        self._texts: list[str] = []
        self._shows_logprobs = shows_logprobs and form is _MESSAGE
        self._logprobs: list[TokenLogprob] = []

    def opening(self) -> list[Event]:
        head = self._shell("in_progress", [])
        return [
            {"type": "response.output_item.added", "output_index": self._item["output_index"], "item": head},
            {"type": f"{self.form.part}.added", **self._place(), "part": self._part("", ())},
        ]

    def add(self, text: str, logprobs: Sequence[TokenLogprob]) -> list[Event]:
        self._texts.append(text)
        self._logprobs += logprobs
        return [{"type": f"{self.form.text}.delta", **self._place(), "delta": text, **self._told(logprobs)}]

    def closing(self, status: ItemStatus) -> list[Event]:
        text = "".join(self._texts)
        told = self._told(self._logprobs)
        return [
            {"type": f"{self.form.text}.done", **self._place(), "text": text, **told},
            {"type": f"{self.form.part}.done", **self._place(), "part": self._part(text, self._logprobs)},
            {
                "type": "response.output_item.done",
                "output_index": self._item["output_index"],
                "item": self.item(status),
            },
        ]

    def item(self, status: ItemStatus) -> dict[str, Any]:
        return self._shell(status, [self._part("".join(self._texts), self._logprobs)])

    def _shell(self, status: ItemStatus, parts: list[dict[str, Any]]) -> dict[str, Any]:
        head: dict[str, Any] = {"id": self._item["item_id"], "type": self.form.item, "status": status, "content": []}
        own: dict[str, Any] = {"role": "assistant"} if self.form is _MESSAGE else {"summary": []}
        return head | own | {self.form.place: parts}

    def _place(self) -> dict[str, Any]:
        return {**self._item, f"{self.form.place}_index": 0}

    def _part(self, text: str, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
        if self.form is not _MESSAGE:
            return {"type": self.form.type, "text": text}
        shown = chat_logprobs(logprobs)["content"] if self._shows_logprobs else []
        return {"type": self.form.type, "text": text, "annotations": [], "logprobs": shown}

    def _told(self, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
        """Return log-probabilities as events have them, which is without bytes."""
        if self.form is not _MESSAGE:
            return {}
        if not self._shows_logprobs:
            return {"logprobs": []}
        entries = chat_logprobs(logprobs)["content"]
        return {
            "logprobs": [
                {**_bare(entry), "top_logprobs": [_bare(top) for top in entry["top_logprobs"]]} for entry in entries
            ]
        }


class _Call:
    """A call of a function."""

    def __init__(self, identity: str, index: int, call_id: str, name: str) -> None:
        self._item = {"item_id": identity, "output_index": index}
        self._call_id = call_id
        self._name = name
        self._arguments: list[str] = []

    def opening(self) -> list[Event]:
        head = self.item("in_progress")
        return [{"type": "response.output_item.added", "output_index": self._item["output_index"], "item": head}]

    def add(self, arguments: str) -> list[Event]:
        self._arguments.append(arguments)
        return [{"type": "response.function_call_arguments.delta", **self._item, "delta": arguments}]

    def closing(self, status: ItemStatus) -> list[Event]:
        """Clients parse arguments as JSON: a call that ended without any has an empty object of them."""
        events = self.add("{}") if status == "completed" and not self._arguments else []
        text = "".join(self._arguments)
        return [
            *events,
            {
                "type": "response.function_call_arguments.done",
                **self._item,
                "name": self._name,
                "arguments": text,
            },
            {
                "type": "response.output_item.done",
                "output_index": self._item["output_index"],
                "item": self.item(status),
            },
        ]

    def item(self, status: ItemStatus) -> dict[str, Any]:
        return {
            "id": self._item["item_id"],
            "type": "function_call",
            "status": status,
            "call_id": self._call_id,
            "name": self._name,
            "arguments": "".join(self._arguments),
        }


def _bare(entry: dict[str, Any]) -> dict[str, Any]:
    return {"token": entry["token"], "logprob": entry["logprob"]}
