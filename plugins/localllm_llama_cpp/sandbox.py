"""A Jinja environment for templates that came with a model, that is from strangers: sandboxed, and bounded."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import jinja2
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox
from jinja2.ext import Extension, loopcontrols

from .memory_limit import at_most

MAX_SOURCE_CHARS = 1_000_000
MAX_OUTPUT_CHARS = 16_000_000
MAX_SECONDS = 10.0
MAX_BYTES = 1024 * 1024 * 1024  # of memory, for compiling and for each rendering; far more than the longest text takes
MAX_RANGE = 100_000  # items, as Jinja's own sandbox has it
MAX_SIZE = 1_000_000  # items or characters that one multiplication, or one padding, may make
MAX_EXPONENT = 64
MAX_INTEGER_BITS = 4096

_TICK = "localllm_tick"  # an attribute of the environment: a name that a template could set would be no guard
_WIDTH_IN_DATE = re.compile(r"%[^A-Za-z%]*\d")


class TemplateLimitError(Exception):
    """The template asked for more size or time than it may have."""


class TemplateRaisedError(jinja2.TemplateError):
    """The template itself refused the conversation, by ``raise_exception(message)``."""


class SandboxedTemplate:
    """One template, compiled once. Rendered by one thread at a time."""

    def __init__(self, source: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Compile ``source``. Raises ``jinja2.TemplateSyntaxError`` and :class:`TemplateLimitError`."""
        if len(source) > MAX_SOURCE_CHARS:
            message = f"The template has {len(source)} characters; at most {MAX_SOURCE_CHARS} are compiled."
            raise TemplateLimitError(message)
        self._clock = clock
        self._deadline = float("inf")
        environment = _environment()
        setattr(environment, _TICK, self._tick)
        with _bounded_memory():  # constant expressions are evaluated already now
            self._template = environment.from_string(source)

    def render(self, variables: Mapping[str, Any]) -> str:
        """Return the text. ``variables`` are plain JSON values; the template gets a copy and may change it as it likes.

        Raises :class:`TemplateRaisedError` for the template's own refusals, :class:`TemplateLimitError`, and whatever
        a mistake in the template raises.
        """
        self._deadline = self._clock() + MAX_SECONDS
        with _bounded_memory():
            return self._render(variables)

    def _render(self, variables: Mapping[str, Any]) -> str:
        pieces: list[str] = []
        n_chars = 0
        for piece in self._template.generate(plain_copy(variables)):
            n_chars += len(piece)
            if n_chars > MAX_OUTPUT_CHARS:
                message = f"The template wrote more than {MAX_OUTPUT_CHARS} characters."
                raise TemplateLimitError(message)
            self._tick()
            pieces.append(piece)
        return "".join(pieces)

    def _tick(self) -> str:
        if self._clock() > self._deadline:
            message = f"The template ran for more than {MAX_SECONDS:g} seconds."
            raise TemplateLimitError(message)
        return ""


@contextmanager
def _bounded_memory() -> Iterator[None]:
    try:
        with at_most(MAX_BYTES):
            yield
    except MemoryError:
        message = f"The template took more than {MAX_BYTES} bytes of memory."
        raise TemplateLimitError(message) from None


def plain_copy(value: Any) -> Any:  # noqa: ANN401  # any JSON value
    """Rebuild ``value`` from plain JSON types. Methods of other objects would be holes in the sandbox."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain_copy(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return [plain_copy(item) for item in value]
    message = f"templates take plain JSON values, not {type(value).__name__}"
    raise TypeError(message)


class _GenerationTag(Extension):
    """``{% generation %}...{% endgeneration %}`` marks what is trained on; for rendering it means nothing."""

    tags = {"generation"}  # noqa: RUF012  # Jinja's own way to declare tags

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))


class _TemplateEnvironment(jinja2.sandbox.SandboxedEnvironment):
    """Jinja's sandbox, which leaves arithmetic and time unbounded, with bounds on both.

    The immutable variant would refuse ``list.append``, which templates in the field use; they work on a copy instead.
    """

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:  # noqa: ANN401
        (_check_product if operator == "*" else _check_power)(left, right)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401, N805  # as in Jinja
        _check_sizes(args, kwargs)  # 'x'.ljust(10 ** 9) and its like
        return super().call(__context, __obj, *args, **kwargs)

    def _generate(
        self,
        source: jinja2.nodes.Template,
        name: str | None,
        filename: str | None,
        defer_init: bool = False,
    ) -> str:
        """Let every round of a loop and every macro call look at the clock: those that write nothing never yield."""
        for node in source.find_all((jinja2.nodes.For, jinja2.nodes.Macro, jinja2.nodes.CallBlock)):
            tick = jinja2.nodes.Call(jinja2.nodes.EnvironmentAttribute(_TICK), [], [], None, None)
            node.body[:0] = [jinja2.nodes.Output([tick], lineno=node.lineno)]  # type: ignore[attr-defined]  # all three have a body
        return super()._generate(source, name, filename, defer_init)


def _environment() -> jinja2.Environment:
    environment = _TemplateEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationTag], autoescape=False
    )
    environment.filters["tojson"] = _tojson
    environment.filters["from_json"] = json.loads
    for padding in ("center", "indent", "round"):
        environment.filters[padding] = _size_checked(environment.filters[padding])
    environment.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now, range=_range)
    environment.globals.pop("lipsum")  # writes text of any length
    return environment


def _raise_exception(message: object) -> str:
    raise TemplateRaisedError(str(message))


def _strftime_now(pattern: str) -> str:
    if _WIDTH_IN_DATE.search(pattern):
        message = f"The template pads a date by {pattern!r}; widths are not allowed."
        raise TemplateLimitError(message)
    return datetime.now().astimezone().strftime(pattern)


def _range(*bounds: int) -> range:
    numbers = range(*bounds)
    if len(numbers) > MAX_RANGE:
        message = f"The template counts over {len(numbers)} numbers; at most {MAX_RANGE} are allowed."
        raise TemplateLimitError(message)
    return numbers


def _tojson(
    value: Any,  # noqa: ANN401  # any JSON value, or a generator of some
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,  # the signature that templates know
    ensure_ascii: bool = False,
) -> str:
    """Write JSON as templates expect it: without HTML escapes, letters as they are, generators as lists."""
    _check_sizes((indent,), {})
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys, default=list
    )


def _size_checked(function: Callable[..., Any]) -> Callable[..., Any]:
    def checked(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        _check_sizes(args[1:], kwargs)
        return function(*args, **kwargs)

    return checked


def _check_sizes(args: Sequence[object], kwargs: Mapping[str, object]) -> None:
    for value in (*args, *kwargs.values()):
        if isinstance(value, int) and value > MAX_SIZE:
            message = f"The template passes the number {value} to a function; at most {MAX_SIZE} is allowed."
            raise TemplateLimitError(message)


def _check_product(left: Any, right: Any) -> None:  # noqa: ANN401  # whatever the template multiplies
    sized, times = (left, right) if hasattr(left, "__len__") else (right, left)
    if hasattr(sized, "__len__") and isinstance(times, int):
        if len(sized) * times > MAX_SIZE:
            message = f"The template repeats {len(sized)} items {times} times; at most {MAX_SIZE} are allowed."
            raise TemplateLimitError(message)
    elif isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > MAX_INTEGER_BITS:
        message = f"The template multiplies integers to more than {MAX_INTEGER_BITS} bits."
        raise TemplateLimitError(message)


def _check_power(base: Any, exponent: Any) -> None:  # noqa: ANN401
    if isinstance(exponent, (int, float)) and abs(exponent) > MAX_EXPONENT:
        message = f"The template raises a number to the power {exponent}; at most {MAX_EXPONENT} is allowed."
        raise TemplateLimitError(message)
    if isinstance(base, int) and base.bit_length() > MAX_EXPONENT:
        message = f"The template raises an integer of more than {MAX_EXPONENT} bits to a power."
        raise TemplateLimitError(message)
