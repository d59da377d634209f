"""The keys of ``[plugin.responses]``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from localllm import setting


@dataclass(frozen=True, slots=True)
class ResponsesSettings:
    """``[plugin.responses]``: which body the endpoint takes, and what is kept of responses."""

    shape: Literal["openai", "simple"] = setting(
        "openai",
        "What /v1/responses takes and gives: 'openai', or 'simple', which is one text in (input, model, instructions, "
        "temperature) and {model, output: {role, content}} out, nothing kept. A request does not tell the two apart.",
    )
    simple_temperature: float = setting(
        0.7, "The temperature of requests in the simple shape that name none.", minimum=0, maximum=2
    )
    store_by_default: bool = setting(
        True,
        "Whether responses are kept when a request doesn't say (store), as OpenAI does it. It takes a plugin that "
        "brings a store, such as 'sessions'; without one nothing is kept.",
    )
    max_background: int = setting(
        16, "How many responses may be on their way in the background (background) at once.", minimum=0, maximum=1024
    )
