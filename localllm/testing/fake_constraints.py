"""A compiler of constraints for decoders that heed none: tests of what lies above need no grammar."""

from __future__ import annotations

from localllm.contract.errors import InvalidRequestError
from localllm.contract.generation import Constraint

IMPOSSIBLE = "uniqueItems"
"""A constraint whose source holds this word is more than a fake can honour, as it is to many engines."""


class FakeConstraints:
    """Takes all constraints but those with :data:`IMPOSSIBLE` in them: refuses strict ones, warns of others."""

    def compile(self, constraint: Constraint) -> tuple[str, ...]:
        """Return warnings, or raise ``InvalidRequestError``; nothing is kept."""
        if IMPOSSIBLE not in constraint.source:
            return ()
        if constraint.strict:
            message = f"The {constraint.kind} can't be honoured: {IMPOSSIBLE} is not supported."
            raise InvalidRequestError(message, param=constraint.param or "response_format")
        return (f"A part of the {constraint.kind} is not enforced: {IMPOSSIBLE}.",)
