"""`/v1/subscriptions/{name}/replay` and `/rebuild`: one subscription goes back in the record.

Owns these routes. What they begin is a job, with its place on record, when the answer is sent: it is watched, cancelled
and retried as any job. A dry run answers the count and begins nothing.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, Router, post

from headrace.api.door import door_of
from headrace.api.idempotency import Answer, once
from headrace.subscribers.rebuild import AskedRebuild, start_rebuild
from headrace.subscribers.replay import FASTEST, Asked, Position, Replayed, Selection, start_replay
from headrace.transaction import Transaction

_Moment = Annotated[datetime, msgspec.Meta(tz=True)]
_Pattern = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Rate = Annotated[
    Annotated[float, msgspec.Meta(gt=0, le=FASTEST)] | None,
    msgspec.Meta(description="events in a second at most; as fast as it goes where missing"),
]


class ReplayRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which events are replayed; all on record that the subscription listens to where nothing is given."""

    from_time: Annotated[
        _Moment | None, msgspec.Meta(description="those recorded at this time or later; excludes from_position")
    ] = None
    from_position: Annotated[
        Position | dict[str, Position] | None,
        msgspec.Meta(description="those at this position of their lane and after it; an object names the lanes"),
    ] = None
    to_time: Annotated[_Moment | None, msgspec.Meta(description="those recorded before this time")] = None
    types: Annotated[
        Annotated[list[_Pattern], msgspec.Meta(min_length=1, max_length=100)] | None,
        msgspec.Meta(description="types, or patterns such as `orders.*`, of those that it listens to"),
    ] = None
    rate_per_second: Rate = None
    dry_run: Annotated[bool, msgspec.Meta(description="only count")] = False


@post("/v1/subscriptions/{name:str}/replay", status_code=202, summary="Replay events to one subscription")
async def replay(request: Request[Any, Any, Any], name: str, data: ReplayRequest) -> Response[Replayed]:
    """Give a subscription events again, beside its live traffic; nobody else notices.

    What is replayed is what is on record now. Each event is a delivery of its own, with an idempotency key of its own;
    what the subscriber writes through its session happens once in this replay, too. A projection is rebuilt instead,
    409 says so.
    """
    selection = Selection(
        from_time=data.from_time,
        to_time=data.to_time,
        from_position=data.from_position,
        types=None if data.types is None else tuple(data.types),
        rate_per_second=data.rate_per_second,
    )
    known = door_of(request).registry.subscriptions

    async def work(tx: Transaction) -> Answer:
        return Answer(202, await start_replay(tx, known, Asked(name, selection, dry_run=data.dry_run)))

    return await once(request, work)


class RebuildRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a projection is rebuilt."""

    rate_per_second: Rate = None
    accept_pruned: Annotated[
        bool, msgspec.Meta(description="also where retention has dropped events, which the new tables will not know")
    ] = False
    dry_run: Annotated[bool, msgspec.Meta(description="only count, and say whether it can be done")] = False


@post("/v1/subscriptions/{name:str}/rebuild", status_code=202, summary="Rebuild the tables of a projection")
async def rebuild(request: Request[Any, Any, Any], name: str, data: RebuildRequest | None = None) -> Response[Replayed]:
    """Make the tables of a projection anew from the record, beside live traffic, and put them in place when they match.

    Who reads the tables sees the old rows or the new ones. While a rebuild of the projection is under way, its job is
    the answer. 409 says why a projection cannot be rebuilt.
    """
    wanted = data or RebuildRequest()
    asked = AskedRebuild(name, wanted.rate_per_second, dry_run=wanted.dry_run, accept_pruned=wanted.accept_pruned)
    known = door_of(request).registry.subscriptions

    async def work(tx: Transaction) -> Answer:
        return Answer(202, await start_rebuild(tx, known, asked))

    return await once(request, work)


replay_routes = Router(path="/", route_handlers=[replay, rebuild], tags=["Subscriptions"])
