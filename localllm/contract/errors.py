"""Every failure that a caller can meet, as a typed exception with a stable code that crosses the process boundary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class LocalLLMError(Exception):
    """Base of all errors that are shown to a caller.

    ``message`` is one sentence that names the thing, the value and the fix. ``param`` is the path of the request
    field at fault, if any. ``detail`` holds extra plain JSON values that the error body shows beside the four
    standard keys (for instance both token counts of a prompt that is too long).
    """

    code: ClassVar[str] = "internal_error"
    _by_code: ClassVar[dict[str, type[LocalLLMError]]] = {}

    def __init__(self, message: str, *, param: str | None = None, detail: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.detail: dict[str, Any] = dict(detail or {})

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.code in LocalLLMError._by_code:
            duplicate = f"error code {cls.code!r} is already used by {LocalLLMError._by_code[cls.code].__name__}"
            raise TypeError(duplicate)
        LocalLLMError._by_code[cls.code] = cls

    def to_wire(self) -> dict[str, Any]:
        """Return the plain-JSON form; :meth:`from_wire` is its inverse for every subclass."""
        return {"code": self.code, "message": self.message, "param": self.param, "detail": self.detail}

    @staticmethod
    def from_wire(data: Mapping[str, Any]) -> LocalLLMError:
        """Rebuild the typed exception from :meth:`to_wire`; an unknown code gives the base class."""
        kind = LocalLLMError._by_code.get(data["code"], LocalLLMError)
        error = kind.__new__(kind)
        LocalLLMError.__init__(error, data["message"], param=data.get("param"), detail=data.get("detail"))
        return error


class InvalidRequestError(LocalLLMError):
    """A field of the request is wrong: type, range, combination, or something that this model can't do."""

    code = "invalid_request"


class UnsupportedFeatureError(LocalLLMError):
    """The request asks for something that this server does not do; ignoring it would change the answer."""

    code = "unsupported_feature"


class ContextLengthExceededError(LocalLLMError):
    """The prompt does not fit the model's context. ``detail`` has ``n_prompt_tokens`` and ``n_ctx``.

    ``message`` replaces the sentence that is written for prompts of generations.
    """

    code = "context_length_exceeded"

    def __init__(
        self, n_prompt_tokens: int, n_ctx: int, *, param: str | None = None, message: str | None = None
    ) -> None:
        message = message or (
            f"This model's context holds {n_ctx} tokens, but the prompt has {n_prompt_tokens}, and at least one "
            f"token must be left for the answer. Shorten the prompt, or raise context_length for this model."
        )
        super().__init__(message, param=param, detail={"n_prompt_tokens": n_prompt_tokens, "n_ctx": n_ctx})


class ModelNotFoundError(LocalLLMError):
    """No model has this id or alias."""

    code = "model_not_found"


class ModelUnsupportedError(LocalLLMError):
    """The model exists but can't do what the endpoint asks for (for instance chat with an embedding model)."""

    code = "model_unsupported"


class ModelFileError(LocalLLMError):
    """The model file is truncated, corrupt, or not a GGUF file that we can read."""

    code = "model_file_invalid"


class ModelLoadError(LocalLLMError):
    """The model's worker did not come up."""

    code = "model_load_failed"


class ModelTooLargeError(LocalLLMError):
    """The model takes more memory than all models together may. ``detail``: ``needed_bytes`` and ``limit_bytes``."""

    code = "model_too_large"


class ModelNotLoadedError(LocalLLMError):
    """The request wants a loaded model only, and this one is not loaded."""

    code = "model_not_loaded"


class ModelBusyError(LocalLLMError):
    """The model can't be let go in time because requests use it. ``detail`` has ``in_flight``, their number."""

    code = "model_busy"


class ModelMisconfiguredError(LocalLLMError):
    """What the model's configuration puts into requests can't be used: nothing that the caller could mend."""

    code = "model_misconfigured"


class WorkerCrashedError(LocalLLMError):
    """The model's worker process ended while it owed an answer. ``detail`` has ``signal`` or ``exit_code``."""

    code = "worker_crashed"


class OverloadedError(LocalLLMError):
    """The queue is full. ``retry_after_seconds`` becomes the ``Retry-After`` header."""

    code = "overloaded"

    def __init__(self, message: str, *, retry_after_seconds: int = 1) -> None:
        super().__init__(message, detail={"retry_after_seconds": retry_after_seconds})


class UnavailableError(LocalLLMError):
    """The server can't take work now: it is shutting down, or a model's breaker is open."""

    code = "service_unavailable"

    def __init__(self, message: str, *, retry_after_seconds: int = 1) -> None:
        super().__init__(message, detail={"retry_after_seconds": retry_after_seconds})


class SlowReaderError(LocalLLMError):
    """The client read its stream so slowly that the bounded buffer overflowed; its request was cancelled."""

    code = "slow_reader"


class ProtocolError(LocalLLMError):
    """The other process sent a frame that is too long, not JSON, or of no known message class."""

    code = "protocol_error"
