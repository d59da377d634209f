"""Writes the one grammar that holds a whole reply: its thought, its content, its calls."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Literal

from localllm import CallFormat, ChatFormat, Constraint, InvalidRequestError, ThoughtFormat, Tool, ToolChoice

from .argument_schemas import ArgumentSchemas
from .call_grammar import CallWriter, openers, trigger, up_to_end
from .grammar_text import is_too_large, param_of
from .lark_text import ANY_TEXT, Marks, Rules, SpecialToken, no_special_token, one_of, optional, sequence

Opening = Literal["none", "open", "closed"]
"""Of thoughts: the prompt opened none and one may begin; the prompt has opened one; none can come."""

_LINE_ENDS = r"/\n{1,2}/?"
_ANY_ARGUMENTS = {"type": "object"}
_UNTRIGGERED = (
    "The arguments of strict tools are held to their schemas only where a call is required: calls of this model begin "
    "like any other text."
)
_UNHELD = "The arguments of tools that are not strict are not held to their schemas: there are too many."
_TOO_MANY = "The tools are too many, or have too many parameters, for a call of one of them to be enforced."


def reply_constraint(
    chat: ChatFormat,
    *,
    opening: Opening,
    calls: CallFormat | None,
    tools: Sequence[Tool],
    choice: ToolChoice,
    parallel: bool,
    content: Constraint | None,
    special_token: SpecialToken = no_special_token,
    ends: Collection[int] = (),
) -> tuple[Constraint | None, tuple[str, ...]]:
    """Return what holds a whole reply (None: it may be anything), and sentences for the caller.

    ``calls`` is the format in which ``tools`` are called, None where none can be; a named choice is "required" with the
    one tool in ``tools``. ``content`` is what the caller's text must match. ``special_token`` gives the id of the
    special token (control or visible) that a text is spelled as (``Grammars.special_token``); ``ends`` are the tokens
    that end a reply (``LlamaTokenizer.end_tokens``). Nothing is compiled yet: ``Grammars.compile`` does that, and has
    sentences of its own. Raises ``InvalidRequestError`` for strict tools that can't be honoured.
    """
    marks = Marks(special_token)
    frame = _Frame(chat, opening, special_token, ends)
    if calls is None or not tools or choice == "none":
        return (None if content is None else frame.around(content)), ()
    if choice == "auto" and content is None:
        if not any(tool.strict for tool in tools):
            return None, ()
        if not openers(calls):
            return None, (_UNTRIGGERED,)
    calls = up_to_end(calls, marks, ends)
    parallel = parallel and calls.parallel
    reply = _Reply(frame, calls, choice, content, parallel=parallel)
    constraint, warnings = reply.written(tools)
    if is_too_large(constraint.source):
        opened = [tool if tool.strict else replace(tool, parameters=_ANY_ARGUMENTS) for tool in tools]
        constraint, _ = reply.written(opened)
        warnings = (_UNHELD,)
        if is_too_large(constraint.source):
            raise InvalidRequestError(_TOO_MANY, param="tools")
    return constraint, warnings


class _Frame:
    """What a chat format puts around content and calls."""

    def __init__(self, chat: ChatFormat, opening: Opening, special_token: SpecialToken, ends: Collection[int]) -> None:
        self.exact = Marks(special_token)
        self.loose = Marks(special_token, is_exact=False)
        self.is_open = opening == "open"
        self._chat = chat
        self._ends = ends
        # A thought whose close ends the reply can't be followed by anything.
        _, is_last = self.exact.before_end(chat.thought.close if chat.thought else "", ends)
        self.thought: ThoughtFormat | None = None if opening == "closed" or is_last else chat.thought

    def around(self, content: Constraint) -> Constraint:
        """Return what holds a reply without calls."""
        if self.thought is None and not self._chat.content_open:
            return content
        rules = Rules()
        start = self.behind_thought(self.content(content, rules), rules, ())
        return Constraint("lark", rules.text(start), param=param_of(content), parts=rules.parts)

    def content(self, content: Constraint, rules: Rules) -> str:
        """Return what matches the caller's content and, if it is written, what marks it."""
        opens = [self.loose.literal(text) for text in self._chat.content_open]
        closes = [self.exact.before_end(text, self._ends) for text in self._chat.content_close]
        if any(is_end for _, is_end in closes):
            closes = []  # the end closes it
        return sequence(
            optional(sequence(one_of(opens), _LINE_ENDS)) if opens else "",
            rules.add_part(content),
            optional(sequence("WS?", one_of([self.loose.literal(text) for text, _ in closes]))) if closes else "",
        )

    def behind_thought(self, body: str, rules: Rules, calls_in_text: Sequence[str]) -> str:
        """Return what matches ``body`` behind a thought, if one can come.

        A call ends a thought that is still open, as whoever reads the reply has it: ``calls_in_text`` match text up to
        a call, and that.
        """
        if self.thought is None:
            return body
        body = rules.add("body", body)
        closed = sequence(self.loose.up_to(self.thought.close, rules), _LINE_ENDS, body)
        thought = rules.add("thought", one_of([closed, *calls_in_text]))
        opened = self.loose.opening(self.thought.open, rules)
        if self.is_open:
            return sequence(optional(opened), thought)  # some open it once more
        return one_of([sequence(opened, thought), body])

    def text_tokens(self) -> list[int]:
        """Return the special tokens that frame thoughts and content, in order."""
        thought = (self._chat.thought.open, self._chat.thought.close) if self._chat.thought else ()
        marks = (*thought, *self._chat.content_open, *self._chat.content_close)
        return sorted({token for text in marks for token in self.exact.special_tokens(text)} - set(self._ends))


class _Reply:
    """A reply that may, or must, have calls in it."""

    def __init__(
        self, frame: _Frame, calls: CallFormat, choice: ToolChoice, content: Constraint | None, *, parallel: bool
    ) -> None:
        self._frame = frame
        self._calls = calls
        self._choice = choice
        self._content = content
        self._parallel = parallel

    def written(self, tools: Sequence[Tool]) -> tuple[Constraint, tuple[str, ...]]:
        """Return the grammar with calls of ``tools``, and warnings."""
        rules = Rules()
        schemas = [ArgumentSchemas(tool) for tool in tools]
        behind = self._behind_triggers(schemas, rules)
        in_text = [sequence(self._frame.loose.up_to(word, rules), rest) for word, rest in behind]
        section = CallWriter(self._calls, schemas, self._frame.exact, rules).section(parallel=self._parallel)
        if self._choice == "required":
            start = self._frame.behind_thought(section, rules, in_text)
        elif self._content is None:
            start = self._triggered(in_text, rules)
        else:
            at_once = [sequence(self._frame.loose.opening(word, rules), rest) for word, rest in behind]
            body = one_of([*at_once, section, self._frame.content(self._content, rules)])
            start = self._frame.behind_thought(body, rules, in_text)
        warnings = tuple(text for tool in schemas for text in tool.warnings)
        return Constraint("lark", rules.text(start), param="tools", parts=rules.parts), warnings

    def _behind_triggers(self, schemas: Sequence[ArgumentSchemas], rules: Rules) -> list[tuple[str, str]]:
        """Return the words that begin calls amid text, and what follows each: markers with any white space.

        Some of it may be part of the token that the word ends with.
        """
        writer = CallWriter(self._calls, schemas, self._frame.loose, rules)
        found = openers(self._calls)
        return [(trigger(opener), writer.behind(opener, parallel=self._parallel)) for opener in found]

    def _triggered(self, in_text: Sequence[str], rules: Rules) -> str:
        """Return what matches any text, thoughts too, that goes on as a call wherever one begins."""
        tokens = self._frame.text_tokens()
        mark = f"<[{','.join(map(str, tokens))}]>" if tokens else ""
        before = f"({ANY_TEXT} {mark})*" if mark else ""
        call = rules.add("calls", one_of([sequence(before, text) for text in in_text]))
        text = f"{before} {ANY_TEXT}".strip()
        return f"{call}* {text}" if self._parallel else f"({call} | {text})"
