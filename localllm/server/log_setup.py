"""What the server writes to stderr: one line for each thing that happened, as text or as JSON."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

import orjson

from localllm.config.schema import LogSection

_TEXT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"

_ESCAPED_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n"}


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
        try:
            return orjson.dumps(line, default=str).decode()
        except TypeError:  # half a surrogate pair, as in the name of a file that is not UTF-8: it is written escaped
            return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """Lines for people. What workers and model files say is in them, and must not drive the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, or the lines of a traceback, with control characters escaped."""
        return super().format(record).translate(_ESCAPED_CONTROLS)


def formatter(section: LogSection) -> logging.Formatter:
    """Return what turns records into lines as ``[log]`` wants them."""
    return JsonFormatter() if section.format == "json" else TextFormatter(_TEXT)


def set_up_logging(section: LogSection, stream: TextIO | None = None) -> None:
    """Send all logging to ``stream`` (default: stderr). Called once, by the process that serves."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(formatter(section))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("localllm").setLevel(section.level.upper())
    logging.getLogger("asyncio").addFilter(_is_no_dead_socket)


def _is_no_dead_socket(record: logging.LogRecord) -> bool:
    """Drop what asyncio says of each write to a client that has gone; the access log tells of it once."""
    return not str(record.msg).startswith("socket.send() raised exception")
