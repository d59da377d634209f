"""The error of everything that reads a request's grammar or schema."""

from __future__ import annotations


class ConstraintError(ValueError):
    """A grammar or a schema is wrong or beyond a limit; the message is a sentence for its author."""
