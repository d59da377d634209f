"""What the server writes to stderr: one line for each thing that happened, as text or as JSON."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

import orjson

from localllm.config.schema import LogSection

_TEXT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, a traceback if any, and the record's ``fields``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields = getattr(record, "fields", None)
        if isinstance(fields, dict):
            line.update(fields)
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


def set_up_logging(section: LogSection, stream: TextIO | None = None) -> None:
    """Send all logging to ``stream`` (default: stderr). Called once, by the process that serves."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if section.format == "json" else logging.Formatter(_TEXT))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("localllm").setLevel(section.level.upper())
    logging.getLogger("asyncio").addFilter(_is_no_dead_socket)


def _is_no_dead_socket(record: logging.LogRecord) -> bool:
    """Drop what asyncio says of each write to a client that has gone; the access log tells of it once."""
    return not str(record.msg).startswith("socket.send() raised exception")
