"""The HTTP routes: which part of the service answers which path. Also checks the API key."""

from __future__ import annotations

import hmac
import os
from functools import partial
from typing import Any

from anyio import to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from dagster_kumo.local.folder import API_KEY
from dagster_kumo.local.http import pages
from dagster_kumo.local.service.catalog import Catalog, check_group
from dagster_kumo.local.service.exports import Exports
from dagster_kumo.local.service.generation3 import Answer, Generation3, Table
from dagster_kumo.local.service.jobs import Kind
from dagster_kumo.local.service.prediction_jobs import PredictionJobs
from dagster_kumo.local.service.prediction_tables import PredictionTables
from dagster_kumo.local.service.service import ApiError, Call, Service
from dagster_kumo.local.service.source_tables import SourceTables
from dagster_kumo.local.service.training_jobs import TrainingJobs


class Application:
    """The parts of the service, and the ASGI application that calls them."""

    def __init__(self, service: Service, *, api: str, rbac: bool, needs_key: bool) -> None:
        self.service = service
        self.training = TrainingJobs(service)
        self.tables = PredictionTables(service)
        self.exports = Exports(service)
        self.predictions = PredictionJobs(service, self.training, self.tables, self.exports)
        self.catalog = Catalog(service)
        self.sources = SourceTables(service)
        self._api = api
        self._rbac = rbac
        self._needs_key = needs_key
        self.app = Starlette(
            routes=[*self._api_routes(), *self._other_routes()],
            exception_handlers={HTTPException: _http_error, Exception: _crash},
        )

    def resume(self) -> None:
        """Run the jobs again that an earlier server left unfinished."""
        resume = {
            "prediction_jobs": self.predictions.resume,
            "genpredtable_jobs": self.tables.resume,
            "training_jobs": self.training.resume,
            "artifact": self.exports.resume,
        }
        for job in self.service.store.all():
            if not job.has_ended:
                resume[job.kind](job)

    def _api_routes(self) -> list[Route]:
        s, p, t, g = self.service, self.predictions, self.training, self.tables
        e, c = self.exports, self.catalog
        jobs = "/prediction_jobs"
        tables = "/genpredtable_jobs"
        training = "/training_jobs"

        def shown(kind: Kind) -> Answer:
            return lambda call: [job.resource() for job in s.list(kind, call)]

        table: Table = [
            ("POST", jobs, p.create),
            ("GET", jobs, shown("prediction_jobs")),
            ("GET", jobs + "/{id}", p.get),
            ("GET", jobs + "/{id}/progress", p.progress),
            (
                "GET",
                jobs + "/{id}/get_prediction_df_urls",
                lambda call: {"prediction_partitions": p.urls(call, "PREDICTIONS")},
            ),
            (
                "GET",
                jobs + "/{id}/get_embedding_df_urls",
                lambda call: {"embedding_partitions": p.urls(call, "EMBEDDINGS")},
            ),
            ("POST", "/artifact", e.create),
            ("GET", "/artifact/{id}", e.status),
            ("POST", "/artifact/{id}/cancel", e.cancel),
            ("POST", tables, g.create),
            ("GET", tables, shown("genpredtable_jobs")),
            ("GET", tables + "/{id}", lambda call: s.find("genpredtable_jobs", call).resource()),
            ("GET", tables + "/{id}/get_anchor_time", g.anchor_time),
            ("GET", tables + "/{id}/table_data", g.data_urls),
            ("GET", tables + "/{id}/get_errors", g.errors),
            ("POST", training, t.create),
            ("GET", training, t.list),
            ("GET", training + "/{id}", t.read),
            ("GET", training + "/{id}/progress", t.progress),
            ("GET", training + "/{id}/holdout", lambda call: PlainTextResponse(t.holdout(call))),
            ("GET", training + "/{id}/encoders", lambda _: None),
            ("GET", "/groups", c.groups),
            ("GET", "/projects", c.projects),
            ("GET", "/connectors/group_connectors", c.group_connectors),
            ("GET", "/connectors", c.connectors),
            ("POST", "/connectors", c.create_connector),
            ("GET", "/connectors/{id}", c.connector),
            ("DELETE", "/connectors/{id}", c.delete_connector),
            ("POST", "/source_tables/validate_table", self.sources.validate),
            ("POST", "/source_tables/list_tables", self.sources.names),
            ("POST", "/source_tables/get_table_config", self.sources.config),
            ("POST", "/source_tables/get_table_data", self.sources.data),
            ("POST", "/tables", partial(c.define, "table")),
            ("POST", "/tables/validate", c.accept),
            ("GET", "/tables/{id}", partial(c.definition, "table")),
            ("POST", "/tablesnapshots", c.create_table_snapshot),
            ("GET", "/tablesnapshots/{id}", c.table_snapshot),
            ("POST", "/graphs", partial(c.define, "graph")),
            ("POST", "/graphs/validate", c.accept),
            ("GET", "/graphs/{id}", partial(c.definition, "graph")),
            ("POST", "/graphsnapshots", c.create_graph_snapshot),
            ("GET", "/graphsnapshots/edge_health/{id}", c.edge_health),
            ("GET", "/graphsnapshots/{id}", c.graph_snapshot),
            ("POST", "/predictive_queries", c.create_query),
            ("GET", "/predictive_queries", c.queries),
            ("POST", "/predictive_queries/validate", c.accept),
            ("POST", "/predictive_queries/infer_task_type", c.task_type),
            ("POST", "/predictive_queries/model_plan", t.suggest_plan),
            ("GET", "/predictive_queries/{id}", c.query),
        ]
        kinds: tuple[Kind, ...] = ("prediction_jobs", "genpredtable_jobs", "training_jobs")
        for kind in kinds:
            table.append(("POST", f"/{kind}/{{id}}/cancel", partial(s.cancel, kind)))
            table.append(("PATCH", f"/{kind}/{{id}}/tags", partial(s.update_tags, kind)))
        if self._api == "3":
            table = Generation3(s, p, g, t, e, c).calls(table)
        routes = [self._route(method, "/v1" + path, answer) for method, path, answer in table]
        if self._api == "2":

            def config(_: Request) -> Response:
                return JSONResponse({"rbac": True} if self._rbac else {})

            routes.append(Route("/api/config", config))
        return routes

    def _route(self, method: str, path: str, answer: Answer) -> Route:
        async def endpoint(request: Request) -> Response:
            try:
                call = await _read(request)
                self._check(call, request)
                value = await to_thread.run_sync(answer, call)
            except ApiError as error:
                return JSONResponse({"detail": error.detail}, error.status)
            return value if isinstance(value, Response) else JSONResponse(value)

        return Route("/api" + path, endpoint, methods=[method])

    def _check(self, call: Call, request: Request) -> None:
        key = request.headers.get("x-api-key", "")
        if self._needs_key and not hmac.compare_digest(key.encode(), API_KEY.encode()):
            raise ApiError(401, "Invalid API key. The stand-in prints its key when it starts.")
        if self._rbac:
            check_group(call, call.path.removeprefix("/api"))

    def _other_routes(self) -> list[Route]:
        store = self.service.store

        def home(request: Request) -> Response:
            return HTMLResponse(pages.home_page(self.service, _base(request)))

        def job(request: Request) -> Response:
            id = request.path_params["id"]
            for job in store.all():
                if job.id == id:
                    return HTMLResponse(pages.job_page(job))
            return HTMLResponse(pages.missing_page(id), 404)

        def ping(_: Request) -> Response:
            # `LocalKumo.shared` recognises the server of its folder by this.
            return JSONResponse({"data": str(self.service.folder.path), "pid": os.getpid()})

        files = Route("/files/{path:path}", self.service.files.answer, methods=["GET", "HEAD"])
        return [Route("/", home), Route("/ping", ping), Route("/jobs/{id}", job), files]


async def _read(request: Request) -> Call:
    json: Any = None
    if body := await request.body():
        try:
            json = await request.json()
        except ValueError:
            detail = f"The body ({len(body)} bytes) is not valid JSON."
            raise ApiError(422, detail) from None
    return Call(
        method=request.method,
        path=request.url.path,
        ids={name: str(value) for name, value in request.path_params.items()},
        query=dict(request.query_params),
        json=json,
        base=_base(request),
    )


def _base(request: Request) -> str:
    return f"{request.url.scheme}://{request.url.netloc}"


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"detail": error.detail}, error.status_code, error.headers)


async def _crash(_: Request, error: Exception) -> Response:
    return JSONResponse({"detail": f"The stand-in has a bug: {error!r}"}, 500)
