"""Logs: one JSON object per line on standard error.

Owns the form of every line, ours (structlog) and that of the libraries (logging): `timestamp` (RFC 3339, UTC), `level`,
`event`, `logger`, `role`, and `trace_id` and `span_id` of the current span, so that a line leads to its trace.
Handlers that Taskiq's, ARQ's or uvicorn's command line installed are removed, because a line must not appear twice.
Never log a secret, a job's arguments or an event's content.
"""

from __future__ import annotations

import logging
import sys
from typing import Final

import msgspec
import structlog
from opentelemetry.trace import get_current_span
from structlog.typing import EventDict, Processor, WrappedLogger

from headrace.errors import ConfigurationError
from headrace.settings import Settings

OPERATOR: Final = "operator"
"""The role of a command that an operator waits for."""

_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_CHATTY: Final = ("alembic", "asyncio", "httpcore", "httpx", "mail.log", "uvicorn", "uvicorn.error", "uvicorn.access")


def configure_logging(settings: Settings, role: str) -> None:
    """Route every log line of this process to standard error as JSON, from `settings.log_level` on.

    Raises:
        ConfigurationError: the level is not one of debug, info, warning and error.

    """
    level = _level(settings.log_level)
    shared = _shared(role)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=role != OPERATOR,  # whose command ends soon, and may be one of many in a process
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(serializer=_json),
        ],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    _take_over(handler, level)


def _level(name: str) -> int:
    level = _LEVELS.get(name.strip().lower())
    if level is None:
        message = f"HEADRACE_LOG_LEVEL is {name!r}: choose one of {', '.join(_LEVELS)}"
        raise ConfigurationError(message)
    return level


def _shared(role: str) -> list[Processor]:
    def add_role(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["role"] = role
        return event

    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
        structlog.processors.format_exc_info,
        add_role,
        add_trace,
    ]


def add_trace(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Add the ids of the current span to a line; nothing outside a span."""
    context = get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = f"{context.trace_id:032x}"
        event["span_id"] = f"{context.span_id:016x}"
    return event


def _json(event: object, **_options: object) -> str:
    return msgspec.json.encode(event, enc_hook=repr).decode()


def _take_over(handler: logging.Handler, level: int) -> None:
    """Make `handler` the only one of the process."""
    logging.root.handlers = [handler]
    logging.root.setLevel(level)
    for logger in logging.root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            logger.handlers = []
            logger.propagate = True
    logging.getLogger("opentelemetry.exporter.otlp").setLevel(logging.ERROR)  # not a line for each try
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
