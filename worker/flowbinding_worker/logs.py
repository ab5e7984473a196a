"""Logs: JSON lines for machines, colours for a terminal; the libraries' logs in the same form."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import structlog

from flowbinding_api.worker import LogLevel
from flowbinding_worker import jsons
from flowbinding_worker.redaction import redact
from flowbinding_worker.timestamps import second

REPEAT_SECONDS = 60.0
"""aiokafka says the same with every attempt to connect; once a minute is enough."""

_LEVELS = {
    LogLevel.DEBUG: logging.DEBUG,
    LogLevel.INFO: logging.INFO,
    LogLevel.WARNING: logging.WARNING,
    LogLevel.ERROR: logging.ERROR,
}


class Seldom(logging.Filter):
    """Lets each text pass once in a while only."""

    def __init__(self) -> None:
        super().__init__()
        self._passed: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is to be logged."""
        now = time.monotonic()
        self._passed = {t: at for t, at in self._passed.items() if now - at < REPEAT_SECONDS}
        text = record.getMessage()
        if text in self._passed:
            return False
        self._passed[text] = now
        return True


def configure(level: LogLevel) -> None:
    """Set up structlog and the standard library's logging, once a process."""
    threshold = _LEVELS[level]
    shared: list[Any] = [structlog.processors.add_log_level, _stamp]
    output = _output()
    # Past the standard library: a line for each message costs a third of what it would there.
    structlog.configure(
        processors=[*shared, *output],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *output],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    # Libraries at Debug would show requests, and with them credentials.
    library = logging.INFO if level is LogLevel.DEBUG else max(threshold, logging.WARNING)
    root.setLevel(library)
    logging.getLogger("aiokafka").setLevel(library)
    # At Info it names the user.
    logging.getLogger("aiokafka.conn").setLevel(max(library, logging.WARNING))
    handler.addFilter(_only(("aiokafka",), Seldom()))


def _only(loggers: tuple[str, ...], inner: logging.Filter) -> logging.Filter:
    """A filter that looks at some loggers only; on the handler, so that children are included."""

    class Only(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            return not record.name.startswith(loggers) or bool(inner.filter(record))

    return Only()


def _output() -> list[Any]:
    # Tracebacks without the values of variables: those are payloads and passwords.
    if sys.stderr.isatty():
        console = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        return [console, lambda _logger, _method, text: redact(text)]
    transformer = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    return [structlog.processors.ExceptionRenderer(transformer), _line]


def _stamp(_logger: Any, _method: str, event: Any) -> Any:
    # As structlog's TimeStamper has it, which takes three times as long.
    seconds, microseconds = divmod(time.time_ns() // 1000, 1_000_000)
    event["timestamp"] = f"{second(seconds)}.{microseconds:06}Z"
    return event


def _line(_logger: Any, _method: str, event: Any) -> str:
    return redact(jsons.line(event))
