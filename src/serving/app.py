"""The HTTP service: a bundle in memory, its paths, and what keeps them safe.

A request is read up to a limit, checked, encoded and put into the queue of the batcher; the event loop does nothing
that takes long. Other parts of the service (drift, shadow, alarms) see what was answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pydantic_core
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.openapi.utils import get_openapi
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, StreamingResponse
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException

from src.core.errors import UserError, unknown
from src.core.settings import Serve
from src.serving import request_models
from src.serving.batching import Batcher, QueueFull
from src.serving.docs_page import docs_page
from src.serving.door import Door
from src.serving.errors import Refused
from src.serving.events import Events, TooManyListeners
from src.serving.json_logs import fault_fields, log
from src.serving.metrics import CONTENT_TYPE, Metrics
from src.serving.parts import Part
from src.serving.predictor import Prediction, Predictor, Rows

FILES = Path(__file__).with_name("page")
SMALL = 16 << 10
"""Bytes of a body up to which it is read in the event loop: that takes less than a change of threads."""
WARM = (1, 16, 64)
"""Lengths of the reports that a new bundle predicts before it answers requests."""
WARM_STAY = "Time,Parameter,Value\n00:00,RecordID,1\n00:00,Age,61\n00:07,HR,88\n"
Content = TypeVar("Content")
EXPLAINED = 4
"""Most explanations that wait or are made at a time."""


@dataclass(eq=False)
class _Loaded:
    """A bundle that answers, with the number of requests that it still has to answer."""

    predictor: Predictor
    batcher: Batcher
    requests: int = 0


class Service:
    """A bundle in memory, which another one can replace between two requests.

    load() reads the bundle; start(), reload() and stop() are called in the event loop.
    """

    def __init__(self, file: Path, predictor: Predictor, settings: Serve, key: str | None, parts: Sequence[Part]):
        self.file, self.settings, self.key, self.parts = file, settings, key, parts
        self.events = Events()
        self.metrics = Metrics(self.described, lambda: self._now.batcher.waiting)
        for part in parts:
            part.check(predictor)
            self.metrics.add_part(part.gauges)
        self._now = self._made(predictor)
        self._reloading = asyncio.Lock()
        self._explaining = 0
        self._explainer = ThreadPoolExecutor(1, thread_name_prefix="explain")
        self._watch: asyncio.Task[None] | None = None
        self._stamp = _stamp(file)
        self.is_ready = False
        self.connections: Callable[[], int] = lambda: 0
        """Number of connections that clients hold now."""
        self.settled: Callable[[], None] = lambda: None
        """Called once a bundle has taken over and the one before has gone."""

    @classmethod
    def load(cls, file: Path, settings: Serve, parts: Sequence[Part] = ()) -> Service:
        """Raises UserError for a bundle that cannot be read, is of images, or does not predict, and for a bad key."""
        key = _read_key(settings.key_file) if settings.key_file else None
        stamp = _stamp(file)  # before it is read: a change meanwhile is one
        service = cls(file, _ready_predictor(file, settings), settings, key, parts)
        service._stamp = stamp
        return service

    @property
    def predictor(self) -> Predictor:
        """The bundle that answers now."""
        return self._now.predictor

    @property
    def batcher(self) -> Batcher:
        return self._now.batcher

    @property
    def kind(self) -> str:
        """Key of the rows in a request: reports or stays; the same for every bundle that takes over."""
        return self.predictor.task.input_kind

    async def start(self) -> None:
        self._now.batcher.start()
        for part in self.parts:
            part.started(self.predictor, self.events)
        if self.settings.watch:
            self._watch = asyncio.create_task(self._look_for_changes())
        self.is_ready = True

    def leave(self) -> None:
        """Begins the shutdown: the service is no longer ready, and listeners to events are let go."""
        self.is_ready = False
        self.events.close()

    async def stop(self) -> None:
        """Answers what was accepted, then ends."""
        self.leave()
        if self._watch is not None:
            self._watch.cancel()
        await self._now.batcher.close()
        await asyncio.to_thread(self._explainer.shutdown)
        for part in self.parts:
            await part.close()

    @contextlib.contextmanager
    def _lease(self) -> Iterator[_Loaded]:
        """The bundle that answers a request from its beginning to its end."""
        loaded = self._now
        loaded.requests += 1
        try:
            yield loaded
        finally:
            loaded.requests -= 1

    async def predict(self, contents: Sequence[Any], ids: Sequence[str | None]) -> tuple[Predictor, Prediction]:
        """Predicts token ids of reports, or texts of stays; an id is None where none was sent. Raises QueueFull, and
        UserError for a wrong text and where the models give no number."""
        with self._lease() as loaded:
            rows = await self._encoded(loaded.predictor, contents)
            prediction = await loaded.batcher.submit(rows)
            _check_numbers(self.kind, prediction.values, prediction.spread)
            for part in self.parts:
                if loaded is self._now or not part.is_of_bundle:
                    part.seen(contents, rows, prediction, ids)
            return loaded.predictor, prediction

    async def explain(self, content: Any, label: str) -> tuple[float, list[str], np.ndarray]:
        """Value of a label of one row; the tokens that the models read of a report, or the parameters of a stay; and
        the contribution of each (T,).

        Explanations are made one at a time: of reports beside predictions, with weights of their own, and of stays
        between them. Raises UserError for an unknown label, for a bundle
        that cannot explain and where the models give no number, and QueueFull while EXPLAINED others wait.
        """
        with self._lease() as loaded:
            predictor = loaded.predictor
            if label not in predictor.labels:
                raise unknown("label", label, predictor.labels)
            if self._explaining >= EXPLAINED:
                raise QueueFull(1)
            self._explaining += 1
            try:
                column = predictor.labels.index(label)
                rows = await self._encoded(predictor, [content])
                prediction = await loaded.batcher.submit(rows)
                if self.kind == "stays":
                    weights = await loaded.batcher.between_batches(predictor.explain, rows, column)
                else:
                    loop = asyncio.get_running_loop()
                    weights = await loop.run_in_executor(self._explainer, predictor.explain, rows, column)
            finally:
                self._explaining -= 1
        _check_numbers(self.kind, prediction.values[:, [column]], weights[None])
        if self.kind == "stays":
            return float(prediction.values[0, column]), list(predictor.parameters), weights
        is_tail = predictor.bundle.record["data"]["keep"] == "tail"
        kept = content[-len(weights) :] if is_tail else content[: len(weights)]
        return float(prediction.values[0, column]), [str(token) for token in kept], weights

    async def _encoded(self, predictor: Predictor, contents: Sequence[Any]) -> Rows:
        if self.kind == "stays":
            return await asyncio.to_thread(predictor.encode_stay, contents)
        if sum(map(len, contents)) > SMALL // 4:
            return await asyncio.to_thread(predictor.encode, contents)
        return predictor.encode(contents)

    async def reload(self) -> dict[str, str]:
        """Reads the bundle's file again and lets it take over; returns its name and version.

        Requests that were accepted before are answered by the bundle before. Raises UserError, and goes on with the
        bundle that is there, if the new one cannot be read, does not predict, or is of another task.
        """
        async with self._reloading:
            try:
                self._stamp = _stamp(self.file)
                predictor = await asyncio.to_thread(_ready_predictor, self.file, self.settings)
                if (predictor.task.name, predictor.labels) != (self.predictor.task.name, self.predictor.labels):
                    raise UserError(
                        f"{self.file} predicts {predictor.task.title}, and this service {self.predictor.task.title}: "
                        "start another service for it"
                    )
            except Exception as error:
                known = isinstance(error, UserError)
                self.metrics.reloads.labels("failed").inc()
                self.events.publish("reload", {"error": self.told(error) if known else "a fault of the service"})
                log("reload failed", **({"error": str(error)} if known else fault_fields(error)))
                raise
            before, self._now = self._now, self._made(predictor)
            self._now.batcher.start()
            for part in self.parts:
                part.replaced(predictor)
            while before.requests:
                await asyncio.sleep(0.01)
            await before.batcher.close()
            del before
            self.settled()
            self.metrics.reloads.labels("done").inc()
            self.events.publish("reload", {"bundle": bundle_name(predictor)})
            log("reload", **bundle_name(predictor))
            return bundle_name(predictor)

    def told(self, error: UserError) -> str:
        """The sentence of an error for clients, without the folder in which the bundle lies."""
        return str(error).replace(str(self.file), self.file.name)

    async def _look_for_changes(self) -> None:
        """Loads the file again when it is another one, or has another size or time, and stays so for one look."""
        seen = self._stamp
        while True:
            await asyncio.sleep(self.settings.watch)
            now = _stamp(self.file)
            if now is not None and now == seen and now != self._stamp:
                with contextlib.suppress(Exception):  # logged; the bundle before goes on
                    await self.reload()
            seen = now

    def _made(self, predictor: Predictor) -> _Loaded:
        return _Loaded(predictor, Batcher(predictor, self.settings, self.metrics.batch))

    def described(self) -> dict[str, str]:
        return {**bundle_name(self.predictor), "engine": self.predictor.engine}

    def info(self) -> dict[str, Any]:
        """Content of /info: what is served, its limits, and what the parts found. Takes long: call it in a thread."""
        predictor, settings = self.predictor, self.settings
        task = predictor.task
        return {
            "bundle": bundle_name(predictor),
            "engine": predictor.engine,
            "task": {key: getattr(task, key) for key in ("name", "title", "kind", "unit", "input_kind", "noun")},
            "labels": list(predictor.labels),
            "explains": predictor.explains,
            "limits": {"reports": settings.max_rows, "length": settings.max_tokens, "bytes": settings.max_bytes},
            "drift": None,
            "shadow": None,
            **{part.name: part.figures() for part in self.parts},
        }


def _ready_predictor(file: Path, settings: Serve) -> Predictor:
    """A predictor that has predicted. Raises UserError for images, and where a prediction is no number."""
    predictor = Predictor.load(file, settings.engine, settings.threads)
    kind = predictor.task.input_kind
    if kind not in request_models.ONE:
        raise UserError(
            f"{file} predicts {kind}, and the service takes reports or stays: use ./run.sh predict --bundle"
        )
    for length in WARM:
        rows = predictor.encode([[0] * length]) if kind == "reports" else predictor.encode_stay([WARM_STAY])
        if not np.isfinite(predictor.predict(rows).values).all():
            raise UserError(f"{file} predicts values that are no numbers; make it again with: ./run.sh bundle")
    return predictor


def _read_key(file: Path) -> str:
    try:
        key = file.read_text(encoding="utf-8").partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"serve.key_file: {file} cannot be read: {error}") from None
    if len(key) < 16 or not key.isascii() or not key.isprintable() or " " in key:
        raise UserError(
            f"serve.key_file: the first line of {file} is no key; want at least 16 printable ASCII characters without "
            "blanks, such as those of: openssl rand -hex 32"
        )
    return key


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def bundle_name(predictor: Predictor) -> dict[str, str]:
    return {"name": predictor.bundle.name, "version": predictor.bundle.version}


OPEN = {"/", "/health", "/ready", "/openapi.json", "/docs"}
"""Paths that need no key, beside those of the page's files."""
ERRORS = {
    400: "The body is no JSON.",
    401: "The API key is missing or wrong.",
    403: "A page of another origin asks, or Host names no service of ours, or only the holder of a key may ask.",
    408: "The body did not come in time.",
    409: "The new bundle cannot be served; the one before goes on.",
    413: "The body is too large, or has too many rows.",
    415: "The body is not declared as JSON.",
    422: "The content is wrong; the sentence says where.",
    429: "The queue is full, or there are too many connections; try again after the seconds of Retry-After.",
    503: "The service is shutting down, or too slow.",
}


def create_app(service: Service) -> FastAPI:
    """The paths of the service; its lifespan starts and stops the service."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.stop()

    app = FastAPI(
        title="Predictions of a bundle",
        version=service.predictor.bundle.version,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.add_middleware(Door, service=service, is_open=_is_open)
    if service.settings.origins:
        headers = ["authorization", "content-type"]
        app.add_middleware(
            CORSMiddleware, allow_origins=service.settings.origins, allow_headers=headers, allow_methods=["GET", "POST"]
        )
    _add_errors(app)
    _add_prediction(app, service)
    _add_watching(app, service)
    for part in service.parts:
        if (routes := part.routes()) is not None:
            app.include_router(routes)
    _add_page(app)
    app.openapi = lambda: _schema(app, service)  # type: ignore[method-assign]
    return app


def _is_open(path: str) -> bool:
    return path in OPEN or path.startswith("/page/")


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        return _failure(error.status, error.sentence, error.headers)

    @app.exception_handler(UserError)
    async def user_error(request: Request, error: UserError) -> Response:
        return _failure(422, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return _failure(422, "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        return _failure(error.status_code, str(error.detail), dict(error.headers or {}))


def _failure(status: int, sentence: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": sentence}, status, headers)


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Entries of a path's errors in the OpenAPI document."""
    return {status: {"model": request_models.Failure, "description": ERRORS[status]} for status in statuses}


def _add_prediction(app: FastAPI, service: Service) -> None:
    settings, kind = service.settings, service.kind
    errors = _errors(400, 401, 403, 408, 413, 415, 422, 429, 503)

    def read_rows(body: bytes) -> tuple[list[Any], list[str | None]]:
        rows = request_models.read_rows(parse(body), kind)
        if len(rows) > settings.max_rows:
            raise Refused(413, f"a request of {len(rows):,} {kind}, expected at most {settings.max_rows:,}")
        for place, row in enumerate(rows, 1):
            _check_length(row.content, settings, f"{kind.removesuffix('s')} {place}: " if len(rows) > 1 else "")
        return [row.content for row in rows], [row.id or None for row in rows]

    router = APIRouter(route_class=_Direct)

    @router.post(
        "/predict",
        summary=f"Predict {kind}, one or many",
        response_model=request_models.Answer,
        responses=errors,
        openapi_extra=_documented(request_models.MANY[kind], request_models.ONE[kind]),
    )
    async def predict(request: Request) -> Response:
        contents, ids = await _read(request, settings, read_rows)
        async with _deadline(settings):
            predictor, prediction = await service.predict(contents, ids)
        names = [name or str(place) for place, name in enumerate(ids, 1)]
        rows = [
            {
                "id": name,
                "values": dict(zip(predictor.labels, values, strict=True)),
                "spread": dict(zip(predictor.labels, spread, strict=True)),
            }
            for name, values, spread in zip(names, prediction.values.tolist(), prediction.spread.tolist(), strict=True)
        ]
        if service.events.listeners:
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
            for row in rows:
                service.events.publish("prediction", {**row, "time": now})
        request.scope["n_rows"] = len(rows)
        content = {"bundle": bundle_name(predictor), "predictions": rows}
        return Response(pydantic_core.to_json(content), media_type="application/json")

    def read_explained(body: bytes) -> Any:
        found = request_models.check(request_models.TO_EXPLAIN[kind], parse(body))
        _check_length(found.content, settings, "")
        return found

    @router.post(
        "/explain",
        summary=f"Contribution of each {'token' if kind == 'reports' else 'parameter'} to a label",
        response_model=request_models.Explanation,
        responses=errors,
        openapi_extra=_documented(request_models.TO_EXPLAIN[kind]),
    )
    async def explain(request: Request) -> Response:
        asked = await _read(request, settings, read_explained)
        async with _deadline(settings):
            value, tokens, weights = await service.explain(asked.content, asked.label)
        content = {"label": asked.label, "value": value, "tokens": tokens, "weights": weights.tolist()}
        return Response(pydantic_core.to_json(content), media_type="application/json")

    app.include_router(router)


@contextlib.asynccontextmanager
async def _deadline(settings: Serve) -> AsyncIterator[None]:
    """Raises Refused where the block takes longer than serve.timeout."""
    try:
        async with asyncio.timeout(settings.timeout):
            yield
    except TimeoutError:
        raise Refused(503, f"no answer within {settings.timeout:g} s", {"Retry-After": "10"}) from None


def _check_numbers(kind: str, *arrays: np.ndarray) -> None:
    """Raises UserError, with the place of the row, where rows (B, …) hold what is no number."""
    for array in arrays:
        wrong = ~np.isfinite(array).all(axis=1)
        if wrong.any():
            place = int(wrong.argmax()) + 1
            raise UserError(f"{kind.removesuffix('s')} {place}: the models give no number for it")


class _Direct(APIRoute):
    """Path whose function takes the request and gives the answer itself, which FastAPI would spend a fifth of the event
    loop's time on."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        return self.endpoint


def _documented(*models: type) -> dict[str, Any]:
    """Entry of a path in the OpenAPI document whose body the path reads itself."""
    references = [{"$ref": f"#/components/schemas/{model.__name__}"} for model in models]
    schema = references[0] if len(references) == 1 else {"anyOf": references}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def parse(body: bytes) -> Any:
    """Content of a JSON text. Raises Refused with status 400."""
    try:
        return pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise Refused(400, f"the body is no valid JSON: {error}") from None


def _check_length(content: Any, settings: Serve, place: str) -> None:
    if isinstance(content, list) and len(content) > settings.max_tokens:
        raise Refused(422, f"{place}{len(content):,} tokens, expected at most {settings.max_tokens:,}")


async def _read(request: Request, settings: Serve, read: Callable[[bytes], Content]) -> Content:
    """The content of a body, read by `read`, in a thread if it is large. Raises Refused with 408 and 413."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and (len(declared) > 15 or int(declared) > settings.max_bytes):
        raise _too_large(settings)
    body = bytearray()
    try:
        async with asyncio.timeout(settings.timeout):
            async for chunk in request.stream():
                body += chunk
                if len(body) > settings.max_bytes:
                    raise _too_large(settings)
    except TimeoutError:
        raise Refused(408, f"the body did not come within {settings.timeout:g} s", {"Connection": "close"}) from None
    if len(body) > SMALL:
        return await asyncio.to_thread(read, bytes(body))
    return read(bytes(body))


def _too_large(settings: Serve) -> Refused:
    # What is still on its way is not read: the connection has to end.
    return Refused(413, f"the body is larger than {settings.max_bytes:,} bytes", {"Connection": "close"})


def _add_watching(app: FastAPI, service: Service) -> None:
    @app.get("/health", summary="Is the process alive?")
    async def health() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/ready", summary="Does it take requests?", responses=_errors(503))
    async def ready() -> dict[str, str]:
        if not service.is_ready:
            raise Refused(503, "the service is shutting down")
        return {"status": "ready"}

    @app.get("/info", summary="What is served, its limits, and what was found of the input", responses=_errors(401))
    async def info() -> dict[str, Any]:
        return await asyncio.to_thread(service.info)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(docs_page(app.openapi()))

    @app.get("/metrics", summary="Metrics in Prometheus' text format", response_class=Response, responses=_errors(401))
    async def metrics() -> Response:
        return Response(await asyncio.to_thread(service.metrics.text), media_type=CONTENT_TYPE)

    @app.get(
        "/events", summary="Server-sent events: prediction, alarm, drift, reload", response_class=StreamingResponse
    )
    async def events() -> Response:
        try:
            messages = service.events.subscribe()
        except TooManyListeners as error:
            raise Refused(503, str(error), {"Retry-After": "10"}) from None
        return StreamingResponse(messages, media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    @app.post(
        "/reload",
        summary="Read the bundle's file again",
        response_model=request_models.BundleName,
        responses=_errors(401, 403, 409),
    )
    async def reload() -> dict[str, str]:
        if service.key is None:
            raise Refused(403, "a service without serve.key_file is not reloaded by requests: send it SIGHUP")
        try:
            return await service.reload()
        except UserError as error:
            raise Refused(409, f"the bundle before goes on: {service.told(error)}") from None


def _add_page(app: FastAPI) -> None:
    app.mount("/page", StaticFiles(directory=FILES), name="page")

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return FileResponse(FILES / "index.html")


def _schema(app: FastAPI, service: Service) -> dict[str, Any]:
    """The OpenAPI document, with the bodies that the paths read themselves."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes)
        families = (request_models.ONE, request_models.MANY, request_models.TO_EXPLAIN)
        bodies = [family[service.kind] for family in families]
        wanted = [(body, "validation") for body in bodies]
        _, found = models_json_schema(wanted, ref_template="#/components/schemas/{model}")
        schemas = document["components"]["schemas"] = {**document["components"]["schemas"], **found["$defs"]}
        explained = request_models.TO_EXPLAIN[service.kind].__name__
        schemas[explained]["properties"]["label"]["enum"] = list(service.predictor.labels)
        if service.key is not None:
            document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            for path, methods in document["paths"].items():
                for method in methods.values():
                    method["security"] = [] if _is_open(path) else [{"key": []}]
        app.openapi_schema = document
    return app.openapi_schema
