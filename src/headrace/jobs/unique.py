"""A unique key is held for a time, also by a job that has finished.

Owns the table `unique_keys`: one row for each key that a call wanted held for some seconds, with the job that answers
for it and until when. Of any number of transactions that want a key at once the first takes it; the others wait for its
commit and get its job. A job that is dead, cancelled or expired holds nothing back, for what was wanted has not been
done: the next call makes a new one. The row is locked from the moment it is looked at to the end of the transaction, so
that what was seen stays true. Never look at a job's state before its key is locked: it may just be tried again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace.errors import ConflictError

# ON CONFLICT locks the row of a held key even where the condition leaves it as it is. In the order of the keys: two
# batches that want the same ones wait for each other in one direction only.
_TAKE: Final = text("""
    INSERT INTO unique_keys AS k (task, key, job_id, until)
    SELECT w.task, w.key, w.job_id, clock_timestamp() + make_interval(secs => w.seconds)
    FROM jsonb_to_recordset(CAST(:wanted AS jsonb)) AS w(task text, key text, job_id uuid, seconds double precision)
    ORDER BY w.task, w.key
    ON CONFLICT (task, key) DO UPDATE SET job_id = excluded.job_id, until = excluded.until
        WHERE k.until <= clock_timestamp()
    RETURNING k.job_id
""")

# A statement of its own: only now does the snapshot see what the holders before us have committed.
_REPLACE: Final = text("""
    UPDATE unique_keys k SET job_id = w.job_id, until = clock_timestamp() + make_interval(secs => w.seconds)
    FROM jsonb_to_recordset(CAST(:wanted AS jsonb)) AS w(task text, key text, job_id uuid, seconds double precision)
    WHERE k.task = w.task AND k.key = w.key AND k.job_id <> w.job_id
      AND NOT EXISTS (SELECT FROM jobs j WHERE j.id = k.job_id AND j.state NOT IN ('dead', 'cancelled', 'expired'))
""")

_HOLDERS: Final = text("""
    SELECT k.task, k.key, k.job_id
    FROM jsonb_to_recordset(CAST(:wanted AS jsonb)) AS w(task text, key text)
    JOIN unique_keys k ON k.task = w.task AND k.key = w.key
""")

_PASS_ON: Final = text("""
    UPDATE unique_keys k SET job_id = p.job_id
    FROM jsonb_to_recordset(CAST(:passed AS jsonb)) AS p(task text, key text, job_id uuid)
    WHERE k.task = p.task AND k.key = p.key
""")

_LOCK: Final = text("SELECT 1 FROM unique_keys WHERE task = :task AND key = :key FOR UPDATE")

_TAKE_OVER: Final = text("""
    UPDATE unique_keys k SET job_id = CASE
        WHEN EXISTS (SELECT FROM jobs j WHERE j.id = k.job_id AND j.state NOT IN ('dead', 'cancelled', 'expired'))
        THEN k.job_id ELSE :job_id END
    WHERE task = :task AND key = :key AND until > clock_timestamp()
    RETURNING job_id
""")


class Wanted(msgspec.Struct, frozen=True):
    """A key that a new job wants to hold, and for how long."""

    task: str
    key: str
    job_id: UUID
    seconds: float

    @property
    def place(self) -> tuple[str, str]:
        """What is to be unique."""
        return self.task, self.key


async def hold_keys(connection: AsyncConnection, wanted: Sequence[Wanted]) -> dict[UUID, UUID]:
    """Take the keys that are free; return for each new job the one that holds its key: itself, or another."""
    if not wanted:
        return {}
    first: dict[tuple[str, str], Wanted] = {}
    for one in wanted:
        first.setdefault(one.place, one)
    rows = {"wanted": msgspec.json.encode(list(first.values())).decode()}
    taken = (await connection.execute(_TAKE, rows)).all()
    if len(taken) < len(first):
        await connection.execute(_REPLACE, rows)
    holders = {(row.task, row.key): row.job_id for row in await connection.execute(_HOLDERS, rows)}
    return {one.job_id: holders[one.place] for one in wanted}


async def pass_on(connection: AsyncConnection, holders: Mapping[tuple[str, str], UUID]) -> None:
    """Let other jobs answer for keys that this transaction holds: unfinished ones that were there before."""
    if holders:
        passed = [{"task": task, "key": key, "job_id": job_id} for (task, key), job_id in holders.items()]
        await connection.execute(_PASS_ON, {"passed": msgspec.json.encode(passed).decode()})


async def take_over(connection: AsyncConnection, task: str, key: str, job_id: UUID) -> None:
    """Give a job that is tried again its key back, where it is still held for a time.

    Raises:
        ConflictError: another job holds it, which has succeeded or is under way.

    """
    place = {"task": task, "key": key, "job_id": job_id}
    if (await connection.execute(_LOCK, place)).first() is None:
        return
    holder = (await connection.execute(_TAKE_OVER, place)).scalar_one_or_none()
    if holder not in {None, job_id}:
        message = f"the job {holder} holds the unique key for a time"
        raise ConflictError(message)
