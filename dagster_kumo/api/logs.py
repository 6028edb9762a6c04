"""Keep signatures of urls out of the logs of other libraries."""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator
from contextlib import contextmanager

from dagster_kumo.api.errors import without_query

_HTTP_LOGGERS = ("urllib3.connection", "urllib3.connectionpool")


class _QueriesHidden(logging.Filter):
    """Removes the query of urls from log records, only in the threads that ask for it."""

    def __init__(self) -> None:
        super().__init__()
        self.of_this_thread = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        if getattr(self.of_this_thread, "hidden", False):
            record.msg = without_query(str(record.msg))
            if isinstance(record.args, tuple):
                record.args = tuple(
                    arg.partition("?")[0] if isinstance(arg, str) else arg for arg in record.args
                )
        return True


_queries_hidden = _QueriesHidden()


@contextmanager
def queries_hidden(*loggers: str) -> Generator[None, None, None]:
    """Keep queries of urls out of the logs within this block: those of urllib3 and of the loggers named.

    A filter of a logger does not apply to the loggers below it, so each one has to be named.
    """
    for name in (*_HTTP_LOGGERS, *loggers):
        logging.getLogger(name).addFilter(_queries_hidden)
    before = getattr(_queries_hidden.of_this_thread, "hidden", False)
    _queries_hidden.of_this_thread.hidden = True
    try:
        yield
    finally:
        _queries_hidden.of_this_thread.hidden = before
