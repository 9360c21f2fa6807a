"""The service: what the engine answers, over HTTP under `/api/v1`.

Owns addresses and statuses. What is asked and answered is `schema`, what is refused before anybody
reads it `gate`, all work `engine`. A page is mounted on the same application.
"""

import importlib.util
import logging
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from tcaf.app import schema
from tcaf.app.engine import Engine
from tcaf.app.gate import PREFIX, Gate
from tcaf.app.hosting import missing_serve
from tcaf.app.mcp_tool import Elsewhere, mcp_server
from tcaf.app.read_clips import ReadClip
from tcaf.app.refusals import Kind, RefusedError, without_places
from tcaf.errors import one_line

if TYPE_CHECKING:
    from fastapi import FastAPI

STATUS: Mapping[Kind, int] = {
    "asked": 422,
    "too_large": 413,
    "unsupported": 415,
    "unusable": 422,
    "too_slow": 504,
    "busy": 429,
    "gone": 404,
    "ended": 503,
}
"""The status of each kind of refusal."""

SAID = {
    400: "The question is not well-formed.",
    401: "A token is needed, and not given or another one.",
    404: "The clip is no longer kept.",
    408: "The question did not come in time.",
    413: "The file is too large or the clip too long.",
    415: "The file is no clip, whatever its name.",
    422: "The question cannot be answered so, or the clip cannot be used; the sentence says why.",
    429: "Too many ask; `Retry-After` says in how many seconds it may be worth to ask again.",
    500: "Something went wrong; the log of the service says what.",
    503: "The service is about to end.",
    504: "Reading the clip takes too long.",
}
"""What statuses mean."""

BLOCK = 2**20
"""Bytes of a file that are handed on at a time."""

FIELDS = ("file", "names", "top_k", "seen_bias", "why", "abstain", "every")
"""Fields of the form with which a file is sent."""

DESCRIPTION = """Names what clips show, by sight and sound, for class names that are given.

`POST /api/v1/classify` takes a file, `/api/v1/classify/features` features; the answer's `key` lets
`/api/v1/classify/again` answer for other names or another bias without the file being sent or read
again. Errors are JSON with one sentence."""

MCP = f"{PREFIX}mcp"
"""Where assistants ask, by the Model Context Protocol."""

_log = logging.getLogger("tcaf.service")


def require_app() -> None:
    """Says at once what would else be said when the service is made.

    Raises:
        MissingExtraError: the extra `serve` is not installed.
    """
    for package, name in {"fastapi": "FastAPI", "python_multipart": "python-multipart"}.items():
        if importlib.util.find_spec(package) is None:
            raise missing_serve(name)


def create_app(engine: Engine, *, token: str = "") -> "FastAPI":
    """Returns the service as an application, on which a page may be mounted.

    Args:
        engine: that answers; whoever opened it closes it.
        token: that questions have to come with, as `Authorization: Bearer TOKEN`; empty for none.

    Raises:
        MissingExtraError: the extra `serve` is not installed.
    """
    require_app()
    from fastapi import FastAPI

    at_once = engine.load["readers"] + engine.limits.max_waiting
    elsewhere = _threads(at_once)
    tool = mcp_server(engine, elsewhere, MCP)
    app = FastAPI(
        title="tcaf",
        version=engine.provenance["tcaf"],
        description=DESCRIPTION,
        openapi_url=f"{PREFIX}openapi.json",
        # Their pages load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        lifespan=None if tool is None else tool.lifespan,
    )
    _answer_problems(app)
    _add_facts(app, engine)
    _add_questions(app, engine, elsewhere)
    if tool is not None:
        app.router.routes += tool.routes
    app.add_middleware(
        Gate,
        limits=engine.limits,
        at_once=at_once,
        worth_s=lambda: engine.retry_after_s,
        token=token,
    )
    return app


def _answer_problems(app: "FastAPI") -> None:
    """Lets every error be JSON with one sentence."""
    from fastapi import Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse
    from starlette.exceptions import HTTPException

    def problem(
        status: int, kind: str, told: str, headers: Mapping[str, str] | None = None
    ) -> JSONResponse:
        return JSONResponse({"error": told, "kind": kind}, status, dict(headers or {}))

    async def refused(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RefusedError)
        after = {"Retry-After": str(error.retry_after_s)} if error.retry_after_s else {}
        return problem(STATUS[error.kind], error.kind, str(error), after)

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        told = schema.in_words(dict(error.errors()[0]))
        return problem(422, "asked", one_line(without_places(told)))

    async def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        kind = "not_found" if error.status_code == 404 else "asked"
        told = f"{request.method} {request.url.path[:100]}: {error.detail}"
        return problem(error.status_code, kind, one_line(told), error.headers)

    async def broken(request: Request, error: Exception) -> JSONResponse:
        return problem(500, "internal", SAID[500])

    app.add_exception_handler(RefusedError, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, broken)


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Returns what a schema says of the errors of an address."""
    found: dict[int | str, dict[str, Any]] = {
        status: {"model": schema.Problem, "description": SAID[status]} for status in statuses
    }
    if 429 in found:
        after = {"schema": {"type": "integer"}, "description": "Seconds."}
        found[429]["headers"] = {"Retry-After": after}
    return found


def _add_facts(app: "FastAPI", engine: Engine) -> None:
    """Adds the addresses that say what there is."""
    from tcaf.answers.ready import READY

    @app.get(f"{PREFIX}health", response_model=schema.Health, responses=_problems(500))
    async def health() -> dict[str, Any]:
        """Says that the service is alive, and how much there is to do. Needs no token."""
        return {"status": "ok", "model": engine.model, "load": engine.load}

    @app.get(f"{PREFIX}version", response_model=schema.Version, responses=_problems(401, 500))
    async def version() -> dict[str, Any]:
        """Says which version answers."""
        told = {key: engine.provenance[key] for key in ("tcaf", "commit", "torch")}
        return {**told, "python": platform.python_version(), "api": "v1"}

    @app.get(f"{PREFIX}models", response_model=schema.Models, responses=_problems(401, 500))
    async def models() -> dict[str, Any]:
        """Says which model answers, what it reads and knows, and which ready models there are."""
        ready = {name: info.to_json() for name, info in READY.items()}
        return {"open": engine.description, "ready": ready}


def _threads(at_once: int) -> Elsewhere:
    """Returns what works in threads of our own, where who waits keeps nobody else waiting."""
    import anyio
    from anyio import to_thread

    limiter: list[anyio.CapacityLimiter] = []

    async def elsewhere(work: Callable[[], Any]) -> Any:
        if not limiter:  # made where a loop runs
            limiter.append(anyio.CapacityLimiter(at_once))
        return await to_thread.run_sync(work, abandon_on_cancel=True, limiter=limiter[0])

    return elsewhere


def _add_questions(app: "FastAPI", engine: Engine, elsewhere: Elsewhere) -> None:
    """Adds the addresses that answer for clips."""
    from fastapi import Body, File, Form, Request, UploadFile

    asking: dict[str, Any] = {
        "response_model_exclude_unset": True,
        "response_model": schema.Answers,
    }

    @app.post(
        f"{PREFIX}classify",
        responses=_problems(400, 401, 408, 413, 415, 422, 429, 500, 503, 504),
        **asking,
    )
    async def classify(
        request: Request,
        file: Annotated[
            UploadFile, File(description="A clip: video or sound. Its content decides what it is.")
        ],
        names: Annotated[
            str,
            Form(
                description="Class names to choose from: one a line, or on a single line with "
                "commas between them; empty for the model's own."
            ),
        ] = "",
        top_k: Annotated[schema.TopK, Form()] = 5,
        seen_bias: Annotated[schema.SeenBias, Form()] = 0.0,
        why: Annotated[schema.Why, Form()] = False,
        abstain: Annotated[schema.FormAbstain, Form()] = None,
        every: Annotated[schema.FormEvery, Form()] = None,
    ) -> Any:
        """Answers for a file."""
        _check_known(request.query_params, ())
        _check_known(await request.form(), FIELDS)
        asked = {"top_k": top_k, "seen_bias": seen_bias, "why": why, "abstain": abstain}
        chosen = engine.split_names(names)

        def work() -> dict[str, Any]:
            engine.choose(chosen)  # what is wrong with names is said before a file is read
            clip = engine.receive(_blocks(file.file), file.filename or "clip")
            return _answered(engine, [clip], chosen, every, asked)

        return await elsewhere(work)

    @app.post(
        f"{PREFIX}classify/features",
        responses=_problems(400, 401, 408, 413, 422, 429, 500, 503),
        **asking,
    )
    async def classify_features(
        request: Request, question: Annotated[schema.AskedFeatures, Body()]
    ) -> Any:
        """Answers for features that the model's backbones made elsewhere."""
        _check_known(request.query_params, ())

        def work() -> dict[str, Any]:
            clips = [
                engine.take(
                    each.audio,
                    each.visual,
                    each.id,
                    audio_backbone=each.audio_backbone,
                    visual_backbone=each.visual_backbone,
                )
                for each in question.clips
            ]
            return _answered(engine, clips, question.names, question.every, _asked(question))

        return await elsewhere(work)

    @app.post(
        f"{PREFIX}classify/again",
        responses=_problems(400, 401, 404, 408, 413, 422, 429, 500, 503),
        **asking,
    )
    async def classify_again(
        request: Request, question: Annotated[schema.AskedAgain, Body()]
    ) -> Any:
        """Answers for a clip that was read before, with other names or another bias."""
        _check_known(request.query_params, ())

        def work() -> dict[str, Any]:
            clip = engine.find(question.key, question.id)
            return _answered(engine, [clip], question.names, question.every, _asked(question))

        return await elsewhere(work)


def _check_known(given: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuses fields that nothing reads."""
    from tcaf.errors import did_you_mean

    for name in given:
        if name not in known:
            raise RefusedError(
                "asked", f"unknown field {name[:40]!r}{did_you_mean(name[:40], known)}"
            )


def _blocks(file: Any) -> Iterator[bytes]:
    file.seek(0)
    return iter(partial(file.read, BLOCK), b"")


def _asked(question: Any) -> dict[str, Any]:
    return {name: getattr(question, name) for name in ("top_k", "seen_bias", "why", "abstain")}


def _answered(
    engine: Engine,
    clips: Sequence[ReadClip],
    names: Sequence[str],
    every: float | None,
    asked: dict[str, Any],
) -> dict[str, Any]:
    """Returns the answers for clips, with their stretches where these are asked for."""
    found = engine.answer(clips, names, **asked)
    if every is not None:
        rest = {name: value for name, value in asked.items() if name != "why"}
        spans = [span for clip in clips for span in engine.spans(clip, every, names, **rest)]
        found["spans"] = [span.to_json() for span in spans]
    return found
