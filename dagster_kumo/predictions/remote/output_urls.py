"""The addresses of a live output's files. Presigned urls expire, and are requested again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from dagster_kumo.api.address import is_http_url
from dagster_kumo.api.errors import KumoDataError


class OutputUrls:
    """The addresses of an output's files. They are requested on first use, and again when one has expired.

    Safe to share between threads: if many readers find an expired url at once, one call is made.
    """

    def __init__(self, fetch: Callable[[], Sequence[str]], *, what: str) -> None:
        self._fetch = fetch
        self.what = what
        self._lock = threading.Lock()
        self._urls: list[str] | None = None

    def all(self) -> list[str]:
        """Every url, in the server's order."""
        with self._lock:
            if self._urls is None:
                self._urls = list(self._fetch())
                if not self._urls:
                    raise KumoDataError(f"{self.what} has no files, though its job is done.")
            return list(self._urls)

    def get(self, index: int) -> str:
        """The url of one file."""
        return self.all()[index]

    def renewed(self, index: int, expired: str) -> str:
        """A fresh url for the file whose url `expired`.

        Raises:
            KumoDataError: The server now lists other files than before.
        """
        with self._lock:
            if self._urls is not None and self._urls[index] == expired:
                fresh = list(self._fetch())
                if len(fresh) != len(self._urls):
                    raise KumoDataError(
                        f"{self.what} had {len(self._urls)} files and has {len(fresh)} now. "
                        "Was the job's output replaced while it was read? Materialize again."
                    )
                if not all(map(is_http_url, fresh)):
                    raise KumoDataError(f"{self.what} has moved. Materialize again.")
                self._urls = _in_order_of(self._urls, fresh)
            assert self._urls is not None
            return self._urls[index]


def file_name(url: str) -> str:
    """The last part of a url's path, for messages, without the query, which may contain a signature."""
    return urlsplit(url).path.rstrip("/").rpartition("/")[2] or "the file"


def _in_order_of(known: list[str], fresh: list[str]) -> list[str]:
    """`fresh` in the order of `known`, matched by their paths. A server may list them in any order."""
    by_path = {urlsplit(url).path: url for url in fresh}
    if len(by_path) == len(known) and all(urlsplit(url).path in by_path for url in known):
        return [by_path[urlsplit(url).path] for url in known]
    return fresh
