"""Logging for machines or people: one line per event, never a file name, a header or a voxel in it."""

import json
import logging
import sys
import time
import traceback
from typing import Literal


def configure_logging(style: Literal["plain", "json"]) -> None:
    """Send everything from INFO on to stderr, in place of what was set up before."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else logging.Formatter(_PLAIN))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)


def safe_traceback(error: BaseException) -> str:
    """Where an error came from and its type, without its message: a library's message may quote the scan's header."""
    return "".join(traceback.format_tb(error.__traceback__)) + type(error).__qualname__


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time (UTC), level, logger, message, and the traceback where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


_PLAIN = "%(asctime)s %(levelname)s %(name)s: %(message)s"
