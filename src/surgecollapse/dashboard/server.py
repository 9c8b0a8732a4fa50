"""The web application: a page, what it reads, and the commands that it sends."""

from __future__ import annotations

import hashlib
import re
import sqlite3
from contextlib import closing
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from surgecollapse.commands import command_from
from surgecollapse.dashboard import reading, run_state
from surgecollapse.dashboard.answer import Answer, as_json
from surgecollapse.dashboard.documents import CONFINED, Documents
from surgecollapse.dashboard.feed import Feeds
from surgecollapse.dashboard.forms import command_forms
from surgecollapse.dashboard.guard import Guard, body_of
from surgecollapse.dashboard.launch import Launcher
from surgecollapse.dashboard.notes import read_notes
from surgecollapse.dashboard.operations import operations
from surgecollapse.dashboard.readings import reading_lines
from surgecollapse.dashboard.ridges import ridges
from surgecollapse.dashboard.rows import varying
from surgecollapse.dashboard.runs import Runs, changed
from surgecollapse.dashboard.story import story_of
from surgecollapse.dashboard.twins import twins_of
from surgecollapse.record import CommandQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

    from surgecollapse.record.schema import Connection

STREAMS = 50
"""Open streams at once; more are refused."""
_TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml", "png": "image/png"}
_TOKEN = re.compile(r"[A-Za-z0-9-]{8,64}")
_SPACES = re.compile(rb'("(?:[^"\\\\]|\\\\.)*")| *([{}();,=<>?:&|*!]) *')
_MOST_SERIES = 200
_MOST_LINES = 50
_FACTS = ("config", "summary", "environment", "data", "costs")
"""Tables of the record that the page shows."""


def application(
    root: str | Path,
    token: str,
    hosts: Iterable[str],
    *,
    feeds: Feeds | None = None,
    launcher: Launcher | None = None,
) -> ASGIApp:
    """Make the server of a folder of runs.

    Args:
        root: a folder of run directories.
        token: that every request of data must carry.
        hosts: values of the header Host that are answered.
        feeds: of the open streams, for a server that ends them before it stops.
        launcher: starts the processes that train branches.

    Raises:
        FileNotFoundError: if there is no such folder.
    """
    runs = Runs(root)
    pages = _Pages(runs, feeds or Feeds(STREAMS), launcher or Launcher(), Documents(runs.root, token))
    routes = [Route(f"/{name}" if name != "index.html" else "/", _static(name)) for name in page_files()]
    routes += [
        Route("/api/runs", pages.runs),
        Route("/api/lines", pages.lines),
        Route("/api/settings", pages.settings),
        Route("/api/commands", pages.forms),
        Route("/documents/{run}/{named}/{ticket}/{file}", pages.document),
        Route("/api/runs/{run}", pages.run),
        Route("/api/runs/{run}/series", pages.series),
        Route("/api/runs/{run}/events", pages.events),
        Route("/api/runs/{run}/readings", pages.readings),
        Route("/api/runs/{run}/array", pages.array),
        Route("/api/runs/{run}/ridges", pages.ridges),
        Route("/api/runs/{run}/notes", pages.notes, methods=["POST"]),
        Route("/api/runs/{run}/trash", pages.trash, methods=["POST"]),
        Route("/api/runs/{run}/operations", pages.operations),
        Route("/api/runs/{run}/stream", pages.stream),
        Route("/api/runs/{run}/commands", pages.command, methods=["POST"]),
        Route("/api/runs/{run}/forks", pages.fork, methods=["POST"]),
        Route("/api/runs/{run}/twins", pages.twins),
        Route("/api/runs/{run}/twins", pages.twin, methods=["POST"]),
    ]
    return Guard(Starlette(routes=routes), token, hosts)


def page_files() -> list[str]:
    """The files of the page; no other is served."""
    there = files("surgecollapse.dashboard").joinpath("page").iterdir()
    return sorted(file.name for file in there if file.name.rpartition(".")[2] in _TYPES)


def lean(name: str, data: bytes) -> bytes:
    r"""A file of the page as it is sent: modules without comments, indentation and spaces beside punctuation.

    Lines with a template, a regular expression or a quote in single quotes keep their spaces.

    >>> lean("app.js", b'// why\nif (a) {\n  b = "x, y";\n}\n')
    b'if(a){\nb="x, y";\n}\n'
    """
    if not name.endswith((".js", ".html")) or "uPlot" in name:
        return data
    lines = re.sub(rb"(?m)^(//.*\n|[ \t]+)", b"", data).splitlines(keepends=True)
    if name.endswith(".html"):
        return b"".join(lines)
    kept = (b"`", b"/", b"'")
    return b"".join(
        line if any(mark in line for mark in kept) else _SPACES.sub(lambda found: found[1] or found[2], line)
        for line in lines
    )


def _static(name: str) -> Any:
    data = lean(name, files("surgecollapse.dashboard").joinpath("page", name).read_bytes())
    kind = _TYPES[name.rpartition(".")[2]] + "; charset=utf-8"

    async def answer(_: Request) -> Response:
        return Response(data, headers={"content-type": kind})

    return answer


class _Pages:
    """The endpoints under ``/api/``."""

    def __init__(self, runs: Runs, feeds: Feeds, launcher: Launcher, documents: Documents) -> None:
        self._runs = runs
        self._feeds = feeds
        self._launcher = launcher
        self._documents = documents

    async def runs(self, request: Request) -> Response:
        """All runs; or only that nothing is new, for a page that names the mark of what it has."""
        listing = await run_in_threadpool(self._runs.listing)
        mark = hashlib.sha256(as_json(listing).encode()).hexdigest()[:16]
        if request.query_params.get("mark") == mark:
            return Answer({"mark": mark, "same": True})
        return Answer({"mark": mark, "folder": str(self._runs.root), **listing})

    async def lines(self, request: Request) -> Response:
        """Sparklines of some runs."""
        wanted = request.query_params.get("runs", "").split(",")[:_MOST_LINES]
        return Answer(await run_in_threadpool(self._runs.sparklines, wanted))

    async def settings(self, _: Request) -> Response:
        """Settings and results of all runs, of the settings those in which they differ."""

        def read() -> dict[str, Any]:
            rows = [row for row in self._runs.rows() if row.get("settings")]
            names = varying(rows)
            return {
                "varying": names,
                "runs": {row["id"]: [row["settings"].get(name) for name in names] for row in rows},
            }

        return Answer(await run_in_threadpool(read))

    async def forms(self, _: Request) -> Response:
        """The commands, with what each asks for."""
        return Answer({"commands": command_forms()})

    async def document(self, request: Request) -> Response:
        """A report or an analysis, without scripts."""
        run, named, ticket, file = (request.path_params[name] for name in ("run", "named", "ticket", "file"))

        def read() -> bytes:
            return self._documents.read(run, self._runs.path(run).parent, named, ticket, file)

        try:
            data = await run_in_threadpool(read)
        except (KeyError, ValueError, OSError):
            return _refusal("no such document", 404)
        kind = _TYPES[file.rpartition(".")[2]]
        headers = {"content-type": kind if kind == "image/png" else f"{kind}; charset=utf-8"}
        return Response(data, headers=headers | {"content-security-policy": CONFINED})

    async def run(self, request: Request) -> Response:
        """State, names of series, events and commands."""

        def read(connection: Connection, path: Path) -> Any:
            found = {
                "series": reading.series_of(connection),
                "arrays": reading.arrays(connection),
                "events": reading.events(connection),
                "commands": reading.commands(connection),
                **{name: reading.meta(connection, name, dict, {}) for name in _FACTS},
                "documents": self._documents.of(run, path.parent),
                "notes": read_notes(path.parent),
                "directory": str(path.parent),
            }
            rows = self._runs.rows()
            row = next((one for one in rows if one["id"] == run), None)
            told = {} if row is None or "group" not in row else story_of(connection, row, rows)
            return found | told | {"state": run_state.state(connection, changed(path))}

        run = request.path_params["run"]
        return await self._answer(request, read)

    async def readings(self, request: Request) -> Response:
        """The readings and the sparsity as lines."""
        try:
            after = _whole(request, "after")
        except ValueError:
            return _refusal("after must be a whole number")
        return await self._answer(
            request, lambda connection, _: reading_lines(connection, after=-1 if after is None else after)
        )

    async def ridges(self, request: Request) -> Response:
        """The histograms of one name over time."""
        name = request.query_params.get("name", "")
        return await self._answer(request, lambda connection, _: ridges(connection, name))

    async def notes(self, request: Request) -> Response:
        """Change what people note about a run."""
        return await self._change(request, self._runs.note)

    async def trash(self, request: Request) -> Response:
        """Throw a run away that nobody trains; the body repeats its name, so that no slip does it."""

        def throw(run: str, given: dict[str, Any]) -> dict[str, Any]:
            path = self._runs.path(run)
            if given != {"name": path.parent.name}:
                raise ValueError("expected the name of the run's folder, to be sure which one is meant")
            return {"trash": self._runs.throw_away(run)}

        return await self._change(request, throw)

    async def _change(
        self, request: Request, work: Callable[[str, dict[str, Any]], Any], *, status: int = 200
    ) -> Response:
        """Do something with a body of JSON to a run; what it gives is the answer."""
        try:
            given = await body_of(request)
            return Answer(await run_in_threadpool(work, request.path_params["run"], given), status)
        except ClientDisconnect:
            return _refusal("the client left")  # nobody hears it
        except KeyError:
            return _refusal("no such run", 404)
        except ValueError as error:
            return _refusal(str(error))
        except OSError as error:
            return _refusal(str(error), 503)

    async def series(self, request: Request) -> Response:
        """Some series, thinned."""
        try:
            given = [part for part in request.query_params.get("ids", "").split(",") if part]
            ids = [_bounded(part) for part in given[:_MOST_SERIES]]
            first, last = (_whole(request, name) for name in ("from", "to"))
            buckets = min(max(_whole(request, "buckets") or reading.BUCKETS, 1), 4 * reading.BUCKETS)
        except ValueError:
            return _refusal("ids, from, to and buckets must be whole numbers")
        return await self._answer(
            request,
            lambda connection, _: {
                id: reading.points(connection, id, first=first, last=last, buckets=buckets) for id in ids
            },
        )

    async def events(self, request: Request) -> Response:
        """Events of some kinds, before one of them."""
        kinds = tuple(part for part in request.query_params.get("kinds", "").split(",") if part)
        try:
            before = _whole(request, "before")
        except ValueError:
            return _refusal("before must be a whole number")
        return await self._answer(
            request, lambda connection, _: reading.events(connection, before=before, kinds=kinds, most=200)
        )

    async def array(self, request: Request) -> Response:
        """The newest array of a name."""
        name = request.query_params.get("name", "")
        return await self._answer(request, lambda connection, _: reading.array(connection, name))

    async def operations(self, request: Request) -> Response:
        """Floating-point operations up to each change of the mask."""
        return await self._answer(request, lambda connection, _: operations(connection))

    async def stream(self, request: Request) -> Response:
        """What is new, as server-sent events."""
        refused = await self._answer(request, lambda connection, _: connection.skipped)
        if refused.status_code != 200:
            return refused
        run = request.path_params["run"]
        path = self._runs.path(run)
        if not self._feeds.enter():
            return _refusal(f"{self._feeds.room} pages are open already: close some", 503)
        return _Stream(self._feeds, run, path)

    async def command(self, request: Request) -> Response:
        """Put a command into the run's queue."""

        def put(run: str, given: dict[str, Any]) -> dict[str, Any]:
            if set(given) != {"kind", "body", "token"}:
                raise ValueError("expected kind, body and token")
            token, command = _token(given), command_from(given["kind"], given["body"])
            return {"id": CommandQueue(self._runs.path(run)).put(command, source="page", token=token)}

        return await self._change(request, put, status=202)

    async def fork(self, request: Request) -> Response:
        """Start a branch of the run in a process of its own."""
        return await self._launch(request, ("at", "changes", "name", "seed"), self._launcher.fork)

    async def twin(self, request: Request) -> Response:
        """Start the twin of the run in a process of its own."""
        return await self._launch(request, ("intervention", "seeds", "name"), self._launcher.twin)

    async def twins(self, request: Request) -> Response:
        """Results of twins of the run, as ``twin.json`` has them, with the name of their directory."""
        return await self._answer(request, lambda _, path: {"twins": twins_of(path.parent)})

    async def _launch(self, request: Request, known: tuple[str, ...], start: Callable[..., str]) -> Response:
        """Start what a body asks for, once for each token."""

        def launch(run: str, given: dict[str, Any]) -> dict[str, Any]:
            token = _token(given)
            wanted = {name: value for name, value in given.items() if name != "token"}
            if not set(wanted) <= set(known):
                raise ValueError(f"expected token and any of {', '.join(known)}")
            path = self._runs.path(run)
            return {"name": self._launcher.once(token, lambda: start(path.parent, wanted))}

        return await self._change(request, launch, status=202)

    async def _answer(self, request: Request, read: Callable[[Connection, Path], Any]) -> Response:
        def work(path: Path) -> Response:
            with closing(reading.look(path)) as connection:
                return Answer(read(connection, path))

        try:
            path = await run_in_threadpool(self._runs.path, request.path_params["run"])
        except KeyError:
            return _refusal("no such run", 404)
        except ValueError as error:
            return _refusal(f"the run cannot be read: {error}", 422)
        try:
            return await run_in_threadpool(work, path)
        except ValueError as error:
            return _refusal(f"the run cannot be read: {error}", 422)
        except (sqlite3.Error, OSError) as error:
            return _refusal(f"the run cannot be read: {error}", 503)


class _Stream(StreamingResponse):
    """Server-sent events of one run; its place is taken before it is made and given back when it ends."""

    def __init__(self, feeds: Feeds, run: str, path: Path) -> None:
        super().__init__(feeds.listen(run, path), media_type="text/event-stream")
        self._feeds = feeds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._feeds.leave()


def _whole(request: Request, name: str) -> int | None:
    given = request.query_params.get(name)
    if given is None:
        return None
    return _bounded(given)


def _bounded(given: str) -> int:
    value = int(given)
    if abs(value) >= 2**62:
        raise ValueError(given)
    return value


def _token(given: dict[str, Any]) -> str:
    token = given.get("token")
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise ValueError("token must be 8 to 64 letters, digits and dashes")
    return token


def _refusal(reason: str, code: int = 400) -> Response:
    return Answer({"error": reason}, code)
