"""`GET /v1/jobs/{id}/stream`: a job as it goes, by server-sent events.

Owns the form of the stream (https://html.spec.whatwg.org/multipage/server-sent-events.html): `state` with the whole job
at once and whenever it stands otherwise, `progress` live, a comment every 15 s so that nobody in between takes the
connection for dead. It ends after a finished state; a client that goes away is forgotten.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final
from uuid import UUID

import msgspec
from litestar import Request, Router, get
from litestar.openapi.datastructures import ResponseSpec
from litestar.response import Stream

from headrace.api.door import door_of
from headrace.api.job_watch import Watches
from headrace.api.methods import HEAD
from headrace.database.states import FINISHED
from headrace.jobs.queries import Job, job_by_id

_MEDIA_TYPE: Final = "text/event-stream"
_HEARTBEAT_SECONDS: Final = 15.0
_HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_DESCRIBED: Final = ResponseSpec(
    data_container=str,
    media_type=_MEDIA_TYPE,
    generate_examples=False,
    description="Events: `state` with the job as `GET /v1/jobs/{id}` shows it, at once and at each change of state; "
    '`progress` with `{"done", "total", "note"}`, up to twenty times a second. The stream ends after a finished state.',
)


@get(
    "/{job_id:uuid}/stream",
    summary="Watch a job",
    media_type=_MEDIA_TYPE,
    responses={200: _DESCRIBED},
)
async def stream_job(request: Request[Any, Any, Any], job_id: UUID) -> Stream:
    """Return a job's states and its progress as they come, until it is finished; see `text/event-stream`.

    States that do not last a tenth of a second may be passed over; the last one never is.
    """
    door = door_of(request)
    job = await job_by_id(door.record, job_id)
    is_head = bool(request.scope.get(HEAD))
    return Stream(iter(()) if is_head else _events(door.watches, job), media_type=_MEDIA_TYPE, headers=_HEADERS)


async def _events(watches: Watches, job: Job) -> AsyncIterator[bytes]:
    yield _event("state", msgspec.json.encode(job))
    if job.state in FINISHED:
        return
    with watches.watch(job) as watch:
        while not watch.over:
            news = await watch.news(_HEARTBEAT_SECONDS)
            for kind, encoded in news:
                yield _event(kind, encoded)
            if not news:
                yield b": the job has not changed\n\n"


def _event(kind: str, encoded: bytes) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), encoded)


stream_routes: Final = Router(path="/v1/jobs", route_handlers=[stream_job], tags=["Jobs"])
