"""Structured logs: constant event names, ``key=value``, nothing per I/O. To standard error, the journal, or a rotated file."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from typing import TextIO, cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from vpool.log_file import RotatedFile, StandardError
from vpool.settings import LogSettings

# Libraries that tell their story at these levels; ours is told by our own events.
_LIBRARIES = {"botocore": "ERROR", "boto3": "ERROR", "urllib3": "ERROR", "swiftclient": "CRITICAL", "keystoneclient": "ERROR"}

# The journal takes a line that begins with one of these at that priority: sd-daemon(3).
_PRIORITIES = {"debug": "<7>", "info": "<6>", "warning": "<4>", "error": "<3>", "critical": "<2>"}


def set_up_logs(settings: LogSettings, tap: Processor | None = None) -> None:
    """Configure structlog, and bring what libraries log through ``logging`` into the same form.

    ``tap`` is shown every line of ours from level info on, written or not.

    Raises:
        Denied, NoSpace: ``log.file`` cannot be written.
    """
    to_file = settings.file is not None
    journal = not to_file and is_journal(sys.stderr.fileno(), os.environ)
    terminal = not to_file and sys.stderr.isatty()
    sink = RotatedFile(settings.file, settings.file_bytes, settings.files) if settings.file is not None else StandardError()
    stream = cast(TextIO, sink)
    shared: list[Processor] = [structlog.contextvars.merge_contextvars, structlog.stdlib.add_log_level]
    if not journal:  # it knows the time of each line
        shared.append(structlog.processors.TimeStamper(fmt="iso", utc=True))
    as_text = (terminal or journal) if settings.format == "auto" else settings.format == "text"
    *render, last = _renderers(as_text=as_text, journal=journal, terminal=terminal)
    render.append(_WithPriority(last) if journal else last)
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    structlog.configure(
        processors=[*([tap] if tap is not None else []), _FromLevel(level), *shared, *render],
        wrapper_class=structlog.make_filtering_bound_logger(min(level, logging.INFO)),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
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


def is_journal(descriptor: int, environment: Mapping[str, str]) -> bool:
    """Whether systemd has connected a descriptor with the journal: it says which device and inode that is (systemd.exec(5))."""
    status = os.fstat(descriptor)
    return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _renderers(*, as_text: bool, journal: bool, terminal: bool) -> list[Processor]:
    if not as_text:
        return [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer(default=str)]
    if journal:  # one entry per line, so tracebacks are folded into theirs
        return [
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(key_order=["event"], bool_as_flag=False),
        ]
    return [structlog.dev.ConsoleRenderer(colors=terminal)]


class _FromLevel:
    """Drops lines below a level."""

    def __init__(self, level: int) -> None:
        self._level = level

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        if logging.getLevelNamesMapping()[method.upper()] < self._level:
            raise structlog.DropEvent
        return event


class _WithPriority:
    """The rendered line, with the priority that the journal files it under."""

    def __init__(self, render: Processor) -> None:
        self._render = render

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> str:
        priority = _PRIORITIES.get(event.get("level", ""), _PRIORITIES["info"])
        text = self._render(logger, method, event)
        assert isinstance(text, str)
        return priority + text


def _is_wanted(record: logging.LogRecord) -> bool:
    """Not that a reply found nobody: the kernel gives requests up at an unmount, or when their caller is killed."""
    return not ("fuse_reply" in record.getMessage() and "No such file or directory" in record.getMessage())


def _as_library(logger: object, method: str, event: EventDict) -> EventDict:
    """What a library says is its text, under one constant event name."""
    record: logging.LogRecord = event["_record"]
    return {**event, "event": "library_message", "library": record.name, "text": event.get("event")}
