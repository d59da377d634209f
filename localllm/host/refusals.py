"""What a request is told that a model does not take, or can't be let go for: errors and their words."""

from __future__ import annotations

from localllm.contract.errors import (
    LocalLLMError,
    ModelBusyError,
    ModelNotLoadedError,
    OverloadedError,
    UnavailableError,
)


def queue_is_full(model_id: str, in_flight: int, waiting: int, max_queue: int) -> OverloadedError:
    """Return the error of one request too many."""
    message = (
        f"Model {model_id!r} has {in_flight} requests running and {waiting} waiting, and takes no more than "
        f"{max_queue} (models.max_queue). Ask again in a moment."
    )
    return OverloadedError(message)


def not_loaded(model_id: str) -> ModelNotLoadedError:
    """Return the error of a request that asked not to load anything."""
    message = (
        f"Model {model_id!r} is not loaded, and the request asks not to load it (autoload false). "
        f"Load it by POST /v1/models/load, or leave autoload out."
    )
    return ModelNotLoadedError(message, param="model")


def still_in_use(model_id: str, in_flight: int, deadline_seconds: float) -> ModelBusyError:
    """Return the error of an unload that gave up; ``in_flight`` 0: the model was being loaded all the time."""
    what = f"has {in_flight} requests in flight" if in_flight else "is still being loaded"
    message = (
        f"Model {model_id!r} {what} and could not be let go within {deadline_seconds:g} seconds; it stays. "
        f"Ask again later, or send force true to cut it off."
    )
    return ModelBusyError(message, param="model", detail={"in_flight": in_flight})


def cut_off_while_loading(model_id: str) -> LocalLLMError:
    """Return the error of those who waited for a load that somebody ended."""
    return UnavailableError(f"Model {model_id!r} was unloaded while it was being loaded. Ask again in a moment.")


def going_away(model_id: str) -> UnavailableError:
    """Return the error of a request that comes while the server goes."""
    return UnavailableError(f"Model {model_id!r} is shutting down, and the server with it.")
