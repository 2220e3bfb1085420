"""Structured logs on standard error: constant event names, ``key=value``, nothing per I/O."""

from __future__ import annotations

import logging
import sys

import structlog
from structlog.typing import Processor

from vpool.settings import LogSettings

# Libraries that tell their story at these levels; ours is told by our own events.
_LIBRARIES = {"botocore": "ERROR", "boto3": "ERROR", "urllib3": "ERROR", "swiftclient": "CRITICAL", "keystoneclient": "ERROR"}


def set_up_logs(settings: LogSettings) -> None:
    """Configure structlog, and bring what libraries log through ``logging`` into the same form."""
    as_text = sys.stderr.isatty() if settings.format == "auto" else settings.format == "text"
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    render: list[Processor] = (
        [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
        if as_text
        else [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer(default=str)]
    )
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    structlog.configure(
        processors=[*shared, *render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, _as_library],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(level, logging.WARNING))
    for name, least in _LIBRARIES.items():
        logging.getLogger(name).setLevel(least)
    logging.getLogger("pyfuse3").addFilter(_is_wanted)


def _is_wanted(record: logging.LogRecord) -> bool:
    """Not that a reply found nobody: the kernel gives requests up at an unmount, or when their caller is killed."""
    return not ("fuse_reply" in record.getMessage() and "No such file or directory" in record.getMessage())


def _as_library(logger: object, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """What a library says is its text, under one constant event name."""
    record: logging.LogRecord = event["_record"]
    return {**event, "event": "library_message", "library": record.name, "text": event.get("event")}
