"""Dataclasses to plain JSON values and back, strictly, by their own type annotations."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from localllm.contract.errors import ProtocolError

Encode = Callable[[Any], Any]
Decode = Callable[[Any], Any]

_NOT_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}  # JSON has no such numbers, so they go as text


class Shape(NamedTuple):
    """How values of one type go onto the wire and come back. ``decode`` raises ``ProtocolError``."""

    encode: Encode
    decode: Decode


def encode_float(value: float) -> float | str:
    """Return a JSON value for any float."""
    return value if math.isfinite(value) else str(float(value))


def decode_float(data: Any) -> float:  # noqa: ANN401
    """Undo :func:`encode_float`. Raises ``ProtocolError``."""
    kind = type(data)
    if kind is float:
        return data  # type: ignore[no-any-return]
    if kind is int:
        return float(data)
    if kind is str and data in _NOT_FINITE:
        return _NOT_FINITE[data]
    raise wrong("a number", data)


def encode_bytes(value: bytes) -> str:
    """Return the bytes as base64 text."""
    return base64.b64encode(value).decode("ascii")


def decode_bytes(data: Any) -> bytes:  # noqa: ANN401
    """Undo :func:`encode_bytes`. Raises ``ProtocolError``."""
    if type(data) is not str:
        raise wrong("base64 text", data)
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise wrong("base64 text", data) from None


def take_fields(row: Any, *kinds: type) -> list[Any]:  # noqa: ANN401
    """Return ``row`` when it is a list of exactly these types (``object``: any). Raises ``ProtocolError``."""
    if type(row) is not list or len(row) != len(kinds):
        raise wrong(f"a list of {len(kinds)} values", row)
    for item, kind in zip(row, kinds, strict=True):
        if kind is not object and type(item) is not kind:
            raise wrong(kind.__name__, item)
    return row


def decode_integers(data: Any) -> tuple[int, ...]:  # noqa: ANN401
    """Return integers as a tuple. Raises ``ProtocolError``."""
    # Requests may hold a million token ids: checked all at once.
    if type(data) is not list or not set(map(type, data)) <= {int}:
        raise wrong("a list of integers", data)
    return tuple(data)


def wrong(wanted: str, data: object) -> ProtocolError:
    """Return the error for a value of the wrong type. The value itself may be a prompt and is not shown."""
    return ProtocolError(f"A message holds a value of type {type(data).__name__} where {wanted} is expected.")


def shape_of(kind: Any) -> Shape:  # noqa: ANN401
    """Return the shape of a type: plain values, enums, literals, tuples, mappings, dataclasses and unions of those.

    Raises ``TypeError`` for any other.
    """
    if kind in _PLAIN:
        return _PLAIN[kind]
    if is_dataclass(kind) and isinstance(kind, type):
        return _dataclass_shape(kind)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _enum_shape(kind)
    origin, arguments = get_origin(kind), get_args(kind)
    if kind == tuple[int, ...]:
        return Shape(_same, decode_integers)
    if origin is Literal:
        return _literal_shape(arguments)
    if origin is tuple:
        return _tuple_shape(arguments)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return Shape(dict, _decode_mapping)
    if origin in (Union, UnionType):
        return _union_shape(arguments)
    message = f"no wire shape is known for {kind!r}"
    raise TypeError(message)


def union_of(classes: tuple[type, ...]) -> Shape:
    """Return the shape of "one of these dataclasses": ``[class name, fields]``. Its methods raise ``ProtocolError``."""
    by_name = {kind.__name__: _dataclass_shape(kind) for kind in classes}

    def encode(value: Any) -> Any:  # noqa: ANN401
        name = type(value).__name__
        if type(value) not in classes:
            message = f"{name} is no message class."
            raise ProtocolError(message)
        return [name, by_name[name].encode(value)]

    def decode(data: Any) -> Any:  # noqa: ANN401
        if type(data) is not list or len(data) != 2 or type(data[0]) is not str:
            raise wrong("[class, fields]", data)
        shape = by_name.get(data[0])
        if shape is None:
            message = f"A message is of the unknown class {data[0][:64]!r}; known are {', '.join(by_name)}."
            raise ProtocolError(message)
        return shape.decode(data[1])

    return Shape(encode, decode)


def _same(value: Any) -> Any:  # noqa: ANN401
    return value


def _exactly(kind: type, wanted: str) -> Shape:
    # "is", not isinstance: True must not pass for a token count.
    def decode(data: Any) -> Any:  # noqa: ANN401
        if type(data) is not kind:
            raise wrong(wanted, data)
        return data

    return Shape(_same, decode)


_PLAIN: dict[Any, Shape] = {
    str: _exactly(str, "text"),
    int: _exactly(int, "an integer"),
    bool: _exactly(bool, "true or false"),
    NoneType: _exactly(NoneType, "null"),
    float: Shape(encode_float, decode_float),
    bytes: Shape(encode_bytes, decode_bytes),
    Any: Shape(_same, _same),
}


def _decode_mapping(data: Any) -> dict[str, Any]:  # noqa: ANN401
    if type(data) is not dict:
        raise wrong("an object", data)
    return data


def _enum_shape(kind: type[Enum]) -> Shape:
    def decode(data: Any) -> Enum:  # noqa: ANN401
        try:
            return kind(data)
        except ValueError:
            raise wrong(f"one of {[member.value for member in kind]}", data) from None

    return Shape(lambda value: value.value, decode)


def _literal_shape(values: tuple[Any, ...]) -> Shape:
    def decode(data: Any) -> Any:  # noqa: ANN401
        if type(data) is not str or data not in values:
            raise wrong(f"one of {list(values)}", data)
        return data

    return Shape(_same, decode)


def _tuple_shape(arguments: tuple[Any, ...]) -> Shape:
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        encode_one, decode_one = shape_of(arguments[0])

        def decode_many(data: Any) -> tuple[Any, ...]:  # noqa: ANN401
            if type(data) is not list:
                raise wrong("a list", data)
            return tuple([decode_one(item) for item in data])

        return Shape(lambda value: [encode_one(item) for item in value], decode_many)
    shapes = [shape_of(argument) for argument in arguments]

    def decode_fixed(data: Any) -> tuple[Any, ...]:  # noqa: ANN401
        if type(data) is not list or len(data) != len(shapes):
            raise wrong(f"a list of {len(shapes)} values", data)
        return tuple([shape.decode(item) for shape, item in zip(shapes, data, strict=True)])

    return Shape(
        lambda value: [shape.encode(item) for shape, item in zip(shapes, value, strict=True)],
        decode_fixed,
    )


def _union_shape(arguments: tuple[Any, ...]) -> Shape:
    classes = tuple(argument for argument in arguments if isinstance(argument, type) and is_dataclass(argument))
    others = [argument for argument in arguments if not is_dataclass(argument)]
    if classes and not others:
        return union_of(classes)
    if len(arguments) == 2 and others.count(NoneType) == 1:
        (inner,) = [argument for argument in arguments if argument is not NoneType]
        encode_inner, decode_inner = shape_of(inner)
        return Shape(
            lambda value: None if value is None else encode_inner(value),
            lambda data: None if data is None else decode_inner(data),
        )
    message = f"no wire shape is known for the union of {arguments!r}"
    raise TypeError(message)


def _dataclass_shape(kind: Any) -> Shape:  # noqa: ANN401
    hints = get_type_hints(kind)
    sent = [field for field in fields(kind) if field.metadata.get("sent", True)]
    shapes = {field.name: shape_of(hints[field.name]) for field in sent}
    required = {field.name for field in sent if field.default is MISSING and field.default_factory is MISSING}

    def encode(value: Any) -> dict[str, Any]:  # noqa: ANN401
        return {name: shape.encode(getattr(value, name)) for name, shape in shapes.items()}

    def decode(data: Any) -> Any:  # noqa: ANN401
        if type(data) is not dict:
            raise wrong("an object", data)
        if not required <= data.keys() <= shapes.keys():
            odd = sorted(required - data.keys()) + sorted(data.keys() - shapes.keys())
            message = f"A {kind.__name__} message lacks, or does not have, the fields {odd!r:.200}."
            raise ProtocolError(message)
        return kind(**{name: shapes[name].decode(item) for name, item in data.items()})

    return Shape(encode, decode)
