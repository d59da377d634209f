"""What a caller is told of something that isn't kept: there is none, it was deleted, or it is somebody else's."""

from __future__ import annotations

from localllm.contract.errors import LocalLLMError


class ResponseNotFoundError(LocalLLMError):
    """The caller has no response with this id."""

    code = "response_not_found"

    def __init__(self, response_id: str) -> None:
        super().__init__(f"Response with id {response_id[:80]!r} not found.", param="response_id")


class PreviousResponseNotFoundError(LocalLLMError):
    """The response that a request goes on from, or one before it, is not there."""

    code = "previous_response_not_found"

    def __init__(self, response_id: str, *, asked: str | None = None) -> None:
        message = f"Previous response with id {response_id[:80]!r} not found."
        if asked is not None and asked != response_id:
            message += f" {asked!r} goes on from it, so it can't be gone on from either: send its input again."
        super().__init__(message, param="previous_response_id")


class ConversationNotFoundError(LocalLLMError):
    """The caller has no conversation with this id."""

    code = "conversation_not_found"

    def __init__(self, conversation_id: str, *, param: str = "conversation_id") -> None:
        super().__init__(f"Conversation with id {conversation_id[:80]!r} not found.", param=param)


class ItemNotFoundError(LocalLLMError):
    """No response and no conversation of the caller's has an item with this id."""

    code = "item_not_found"

    def __init__(self, item_id: str, *, param: str = "item_id") -> None:
        super().__init__(f"Item with id {item_id[:80]!r} not found.", param=param)
