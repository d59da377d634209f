"""What any request may say about the model itself: whether it may be loaded for it, and how long it stays."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from localllm.contract.errors import InvalidRequestError

_BODY_KEY = "localllm.model_options"
_FIELDS = ("autoload", "ttl", "keep_alive")
_UNIT_SECONDS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(-?)((?:\d{1,12}(?:\.\d{1,9})?(?:ms|s|m|h))+)", re.ASCII)
_PART = re.compile(r"([\d.]+)(ms|s|m|h)", re.ASCII)
_NUMBER = re.compile(r"-?\d{1,12}(\.\d{1,9})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """``ttl_seconds`` counts from the end of the request: 0 lets the model go at once, infinity never."""

    autoload: bool = True
    ttl_seconds: float | None = None


def note_body(request: Request, body: Mapping[str, Any]) -> None:
    """Remember what a body says, for :func:`model_options`: endpoints need not know these fields."""
    request.scope.pop(_BODY_KEY, None)
    given = {name: body[name] for name in _FIELDS if body.get(name) is not None}
    if given:
        request.scope[_BODY_KEY] = given


def model_options(request: Request) -> ModelOptions:
    """Return what the query says, and else the body: ``autoload``, and ``ttl`` or Ollama's ``keep_alive``.

    Raises ``InvalidRequestError``.
    """
    if not request.scope.get("query_string") and _BODY_KEY not in request.scope:
        return ModelOptions()
    given: dict[str, Any] = dict(request.scope.get(_BODY_KEY, {}))
    given.update((name, request.query_params[name]) for name in _FIELDS if name in request.query_params)
    autoload = _read_flag("autoload", given.get("autoload", True))
    name = "ttl" if "ttl" in given else "keep_alive"
    return ModelOptions(autoload, read_duration(name, given[name]) if name in given else None)


def read_duration(param: str, value: object) -> float:
    """Return seconds; below 0 is for ever, as infinity. A number, or text such as "300", "5m", "1h30m", "-1".

    Raises ``InvalidRequestError``.
    """
    seconds: float | None = None
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = math.inf if value < 0 else min(float(value), 1e12)
    elif isinstance(value, str) and _NUMBER.fullmatch(value):
        seconds = float(value)
    elif isinstance(value, str) and (match := _DURATION.fullmatch(value)):
        seconds = sum(float(number) * _UNIT_SECONDS[unit] for number, unit in _PART.findall(match[2]))
        seconds = -seconds if match[1] else seconds
    if seconds is None or math.isnan(seconds):
        message = (
            f"{param} must be a number of seconds or a duration such as '5m', below 0 for ever; not {_show(value)}."
        )
        raise InvalidRequestError(message, param=param)
    return math.inf if seconds < 0 else seconds


def _read_flag(param: str, value: object) -> bool:
    flags = {"true": True, "1": True, "false": False, "0": False}
    flag = flags.get(value.lower()) if isinstance(value, str) else value
    if not isinstance(flag, bool):
        message = f"{param} must be true or false, not {_show(value)}."
        raise InvalidRequestError(message, param=param)
    return flag


def _show(value: object) -> str:
    return repr(value)[:40] if isinstance(value, str | int | float) else f"of type {type(value).__name__}"
