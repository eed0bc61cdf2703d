"""Producers: they ask for jobs over HTTP and by transactions, as patiently as a client should be.

Owns what was acknowledged: a job counts as accepted when its request was answered with 2xx, or when the transaction's
block has ended. A request that failed is repeated under its `Idempotency-Key` until it is answered. A commit whose
answer was lost is looked up: the record knows it or not. Never write down what nobody has acknowledged.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final
from uuid import UUID

import httpx
import msgspec

from headrace.clock import new_id
from headrace.database.states import JobState
from headrace.jobs.call import Call
from headrace.transaction import transaction
from tests.chaos.mix import STEPS, Road, Wanted
from tests.history import Accepted
from tests.job_processes import World

_PAUSE_SECONDS: Final = 0.2
_MOST_TOGETHER: Final = 40
_GATHERED_SECONDS: Final = 1.0


class _Request(msgspec.Struct, frozen=True, omit_defaults=True):
    """A call as the body of a request says it."""

    task: str
    args: msgspec.Raw
    priority: int | None = None
    delay_seconds: float | None = None
    expires_at: Any = None
    unique_key: str | None = None
    concurrency_key: str | None = None
    after: tuple[str, ...] = ()


class Producers:
    """The clients of one run; `accepted` is what was promised to them."""

    def __init__(self, world: World, client: httpx.AsyncClient) -> None:
        self._world, self._client = world, client
        self._promised: dict[UUID, Accepted] = {}
        self._cancelling: set[asyncio.Task[None]] = set()

    @property
    def accepted(self) -> Sequence[Accepted]:
        """What was acknowledged."""
        return list(self._promised.values())

    async def run(self, wanted: Sequence[Wanted]) -> None:
        """Ask for all of it, each at its time; returns when the last request is answered."""
        began_at = time.monotonic()
        async with asyncio.TaskGroup() as producers:
            for road in Road:
                chosen = [one for one in wanted if one.road is road]
                producers.create_task(self._produce(chosen, road, began_at))
        await asyncio.gather(*self._cancelling)

    async def retry(self, job_ids: Iterable[UUID]) -> None:
        """Give jobs another chance, as an operator does."""
        for job_id in job_ids:
            await self._client.post(f"/v1/jobs/{job_id}/retry")

    async def _produce(self, wanted: Sequence[Wanted], road: Road, began_at: float) -> None:
        ask, most = {
            Road.REQUEST: (self._request, 1),
            Road.BATCH: (self._batch, _MOST_TOGETHER),
            Road.TRANSACTION: (self._commit, _MOST_TOGETHER),
            Road.WORKFLOW: (self._workflow, 1),
        }[road]
        async with asyncio.TaskGroup() as requests:  # a request that waits for an answer holds up none of the next ones
            for together in _gathered(wanted, most):
                await asyncio.sleep(max(0.0, began_at + together[-1].at_seconds - time.monotonic()))  # its time to come
                requests.create_task(ask(together))

    async def _request(self, wanted: Sequence[Wanted]) -> None:
        answer = await self._post("/v1/jobs", msgspec.json.encode(_request_of(wanted[0].call)))
        self._promise([UUID(answer["id"])], wanted)

    async def _batch(self, wanted: Sequence[Wanted]) -> None:
        answer = await self._post(
            "/v1/jobs/batch", msgspec.json.encode({"jobs": [_request_of(one.call) for one in wanted]})
        )
        self._promise([UUID(found) for found in answer["ids"]], wanted)

    async def _workflow(self, wanted: Sequence[Wanted]) -> None:
        steps = [wanted[0], *wanted[0].steps]
        jobs = {
            name: _Request(task=step.call.task, args=step.call.args, after=after)
            for (name, after), step in zip(STEPS.items(), steps, strict=True)
        }
        answer = await self._post("/v1/workflows", msgspec.json.encode({"jobs": jobs}))
        self._promise([UUID(answer["ids"][name]) for name in STEPS], steps)

    async def _commit(self, wanted: Sequence[Wanted]) -> None:
        ids = [new_id() for _ in wanted]
        while not await self._committed(ids, [one.call for one in wanted]):
            await asyncio.sleep(_PAUSE_SECONDS)
        self._promise(ids, wanted)

    async def _committed(self, ids: Sequence[UUID], calls: Sequence[Call]) -> bool:
        try:
            if await self._world.any_row("SELECT 1 FROM jobs WHERE id = $1", ids[0]):
                return True  # by the attempt before, whose answer was lost
            async with transaction(self._world.record) as tx:
                await tx.enqueue_calls(calls, ids=ids)
        except Exception:  # noqa: BLE001 - whatever a store that dies says, the client asks again
            return False
        return True

    async def _post(self, path: str, body: bytes = b"") -> Any:  # noqa: ANN401 - JSON
        headers = {"Content-Type": "application/json", "Idempotency-Key": str(new_id())}
        while True:
            try:
                answer = await self._client.post(path, content=body, headers=headers)
            except httpx.TransportError:
                await asyncio.sleep(_PAUSE_SECONDS)
                continue
            if answer.is_success:
                return answer.json()
            if not _passes(answer):
                raise AssertionError(answer.text)
            await asyncio.sleep(_PAUSE_SECONDS)

    def _promise(self, ids: Iterable[UUID], wanted: Iterable[Wanted]) -> None:
        for job_id, one in zip(ids, wanted, strict=True):
            self._promised[job_id] = Accepted(job_id, one.ends, one.effect)
            if one.cancel_after_seconds is not None:
                cancelling = asyncio.create_task(self._cancel(job_id, one.cancel_after_seconds))
                self._cancelling.add(cancelling)

    async def _cancel(self, job_id: UUID, after_seconds: float) -> None:
        """Cancel a job as an operator does; what was cancelled before it ran must stay so."""
        await asyncio.sleep(after_seconds)  # the operator makes up their mind
        while True:
            try:
                answer = await self._client.post(f"/v1/jobs/{job_id}/cancel")
            except httpx.TransportError:
                await asyncio.sleep(_PAUSE_SECONDS)
                continue
            if answer.is_success and answer.json()["state"] == JobState.CANCELLED:
                self._promised[job_id] = Accepted(job_id, frozenset({JobState.CANCELLED}))
            if answer.is_success or answer.status_code == httpx.codes.CONFLICT:
                return
            await asyncio.sleep(_PAUSE_SECONDS)


def _passes(answer: httpx.Response) -> bool:
    """Tell whether a refusal is one that a client waits out: a store is away, or the first request is under way."""
    return answer.status_code in {httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.CONFLICT, httpx.codes.TOO_MANY_REQUESTS}


def _request_of(call: Call) -> _Request:
    return _Request(
        task=call.task,
        args=call.args,
        priority=call.priority,
        delay_seconds=call.delay_seconds,
        expires_at=call.expires_at,
        unique_key=call.unique_key,
        concurrency_key=call.concurrency_key,
    )


def _gathered(wanted: Sequence[Wanted], most: int) -> Iterable[Sequence[Wanted]]:
    """Put together what is asked for within a second, up to a number."""
    second: Callable[[Wanted], int] = lambda one: int(one.at_seconds / _GATHERED_SECONDS)  # noqa: E731 - a key
    for _, within in itertools.groupby(wanted, second):
        chosen = list(within)
        yield from (chosen[n : n + most] for n in range(0, len(chosen), most))
