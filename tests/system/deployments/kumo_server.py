"""A Kumo server as it is in a customer's own cloud: outputs lie in that cloud, and not behind urls."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from tests.system.other_server import API_KEY, OtherServer, _Handler


class DeployedKumo(OtherServer):
    """Writes the files of a launch with `put`, and names `addresses` for them.

    Args:
        put: takes the path of a file, `<job>/<output type>/part-<n>.parquet`, and its content.
        addresses: the addresses of an output, from `<job>/<output type>`.
        accepts: whether the header `Authorization` opens the service; None asks for the API key.
    """

    def __init__(
        self,
        put: Callable[[str, bytes], Any],
        addresses: Callable[[str], list[str]],
        accepts: Callable[[str], bool] | None = None,
    ) -> None:
        super().__init__()
        self._http.RequestHandlerClass = type("Handler", (_DeployedHandler,), {"kumo": self})
        self.put = put
        self.addresses = addresses
        self.accepts = accepts
        self.exports: list[dict[str, Any]] = []
        self.refused = 0

    def launch(self, body: dict[str, Any]) -> list[Any]:
        answer = super().launch(body)
        for kind in ("predictions", "embeddings"):
            for index in range(2):
                path = f"{answer[0]}/{kind}/part-{index}.parquet"
                self.put(path, self.file(answer[0], kind, index))
        return answer


class _DeployedHandler(_Handler):
    kumo: DeployedKumo

    def do_GET(self) -> None:  # noqa: N802 - http.server's name
        path = urlsplit(self.path).path
        if not self._opened():
            return self._json(401, {"detail": f"refused: {self.headers.get('Authorization')}"})
        if match := re.fullmatch(r"/api/v1/prediction_jobs/(.+)/get_(.+)_df_urls", path):
            addresses = self.kumo.addresses(f"{match[1]}/{match[2]}s")
            return self._json(200, {f"{match[2]}_partitions": addresses})
        if path == "/api/v1/connectors":
            return self._json(200, [])
        if path.startswith("/api/v1/artifact/"):
            return self._json(200, "DONE")
        return super().do_GET()

    def do_POST(self) -> None:  # noqa: N802
        path = urlsplit(self.path).path
        if not self._opened():
            self.rfile.read(int(self.headers["Content-Length"]))
            return self._json(401, {"detail": f"refused: {self.headers.get('Authorization')}"})
        if path == "/api/v1/artifact":
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.kumo.exports.append(body)
            return self._json(200, {"job_id": f"export-{len(self.kumo.exports)}"})
        return super().do_POST()

    def _opened(self) -> bool:
        if self.kumo.accepts is None:
            return self.headers.get("X-API-Key") == API_KEY
        if "X-API-Key" in self.headers or not self.kumo.accepts(
            self.headers.get("Authorization", "")
        ):
            self.kumo.refused += 1
            return False
        self.headers["X-API-Key"] = API_KEY  # as the server of SaaS would ask for
        return True
