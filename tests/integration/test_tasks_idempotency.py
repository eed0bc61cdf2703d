"""Work that is done once: check then act, a unique key with the stored result, a claim in Redis, and the fence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis
from sqlalchemy import text

from headrace.application import Application
from headrace.clock import new_id
from headrace.database.record import open_record
from headrace.database.states import JobState
from headrace.errors import UnavailableError
from headrace.jobs.retry import Retry
from headrace.resources import registry_of
from headrace.settings import Settings
from headrace.tasks.claims import Busy, Claims, Holder, RedisClaims, Standing
from headrace.tasks.contract import Task, task
from headrace.tasks.idempotency import check_then_act, claimed, once
from headrace.tasks.remembered_claims import RememberedClaims
from headrace.tasks.run import Run
from headrace.tasks.sync_run import ThreadRun
from headrace.testing.drained import drained
from headrace.testing.inline import Inline, inline
from headrace.testing.stores import Stores, open_stores
from headrace.transaction import transaction
from tests.servers import PostgresServer, RedisServer

SOON = Retry(max_attempts=3, first_delay_seconds=0.01)


class Receipt(msgspec.Struct, frozen=True):
    """What a charge leaves."""

    number: int
    cents: int


class Bank:
    """Somebody else's service: what it was asked to do, and what it remembers."""

    def __init__(self) -> None:
        self.charges: list[str] = []
        self.busy = 0
        self.most_busy = 0

    async def charge(self, order_id: str) -> Receipt:
        """Take a while, and charge."""
        self.busy += 1
        self.most_busy = max(self.most_busy, self.busy)
        await asyncio.sleep(0.05)
        self.busy -= 1
        self.charges.append(order_id)
        return Receipt(len(self.charges), 500)


@task("idem.charge_once", retry=SOON)
async def charge_once(run: Run, order_id: str) -> int:
    """Charge, and keep the receipt."""
    receipt = await run.once("idem.charge", order_id, lambda: run.get(Bank).charge(order_id), returns=Receipt)
    return receipt.number


@task("idem.refund", retry=SOON)
async def refund(run: Run, order_id: str) -> Receipt:
    """Ask the bank before it is asked to do anything."""
    bank = run.get(Bank)

    async def find() -> Receipt | None:
        return Receipt(1, 500) if order_id in bank.charges else None

    return await run.check_then_act(order_id, check=find, act=lambda: bank.charge(order_id))


@task("idem.digest", retry=SOON)
async def digest(run: Run, user: str) -> bool:
    """Send unless it was sent."""
    async with run.claim(f"digest {user}", seconds=3600) as mine:
        if mine:
            await run.get(Bank).charge(user)
    return mine


@task("idem.charge_in_thread", retry=SOON)
def charge_in_thread(run: ThreadRun, order_id: str) -> int:
    """Charge from a plain function."""

    async def charge(of: Run) -> Receipt:
        return await of.once("idem.charge", order_id, lambda: of.get(Bank).charge(order_id), returns=Receipt)

    return run.on_loop(charge).number


application = Application(name="idem", tasks=(charge_once, refund, digest, charge_in_thread))


@pytest.fixture(scope="module")
def stores(postgres_server: PostgresServer, redis_server: RedisServer) -> Iterator[Stores]:
    """The run's own servers."""
    with open_stores(database_url=postgres_server.url_of("postgres"), redis_url=redis_server.url_of(0)) as opened:
        yield opened


@pytest.fixture
def bank() -> Bank:
    """The bank."""
    return Bank()


@pytest.fixture
async def headrace(stores: Stores, bank: Bank) -> AsyncIterator[Inline]:
    """The application, step by step."""
    async with inline(application, stores, providers={Bank: bank}) as opened:
        yield opened


@pytest.fixture(params=["redis", "memory"])
async def claims(request: pytest.FixtureRequest) -> AsyncIterator[RedisClaims | RememberedClaims]:
    """Both places in which claims are kept."""
    if request.param == "memory":
        yield RememberedClaims()
        return
    async with Redis.from_url(request.getfixturevalue("redis_url")) as redis:
        yield RedisClaims(redis)


async def test_result_is_kept_when_work_was_done_once(headrace: Inline, bank: Bank) -> None:
    """A second job gets the first one's receipt, typed, and the bank hears nothing."""
    first = await headrace.run(charge_once, "a")
    second = await headrace.run(charge_once, "a")
    plain = await headrace.run(charge_in_thread, "a")
    other = await headrace.run(charge_once, "b")

    assert [outcome.result for outcome in (first, second, plain, other)] == [1, 1, 1, 2]
    assert bank.charges == ["a", "b"]


async def test_work_is_done_again_when_the_worker_dies_before_the_commit(headrace: Inline, bank: Bank) -> None:
    """The row goes with the session: what was done outside is done twice, as the page says."""
    headrace.crash(charge_once)

    outcome = await headrace.run(charge_once, "a")

    assert (outcome.state, outcome.attempt) == (JobState.SUCCEEDED, 2)
    assert bank.charges == ["a", "a"]
    async with headrace.transaction() as tx:
        assert (await tx.connection.execute(text("SELECT count(*) FROM processed_work"))).scalar_one() == 1


async def test_effect_is_found_when_the_worker_died_after_it(headrace: Inline, bank: Bank) -> None:
    """Where the effect can be asked for, a crash after it makes no second one."""
    headrace.crash(refund)

    outcome = await headrace.run(refund, "a")

    assert (outcome.state, outcome.attempt) == (JobState.SUCCEEDED, 2)
    assert bank.charges == ["a"]


async def test_claim_is_taken_over_when_the_run_that_held_it_is_dead(headrace: Inline, bank: Bank) -> None:
    """The same job's next run is the rightful one; another job finds it done, until its time is over."""
    headrace.crash(digest)

    crashed_after = await headrace.run(digest, "ada")
    repeat = await headrace.run(digest, "ada")
    await headrace.advance(3601)
    late = await headrace.run(digest, "ada")

    assert [outcome.result for outcome in (crashed_after, repeat, late)] == [False, False, True]
    assert bank.charges == ["ada", "ada"]


@pytest.mark.parametrize("made", [charge_once, refund, digest], ids=lambda made: made.name)
async def test_two_jobs_at_the_same_time_make_one_effect(stores: Stores, bank: Bank, made: Task[[str], Any]) -> None:
    """Twenty of them, on the real road: one acts, the others wait for it and find it done."""
    async with drained(application, stores, providers={Bank: bank}) as headrace:
        await headrace.enqueue_calls([made.call("a") for _ in range(20)])
        await headrace.drain()

        assert {job.state for job in await headrace.jobs()} == {JobState.SUCCEEDED}
    assert (bank.charges, bank.most_busy) == (["a"], 1)


async def test_second_waits_and_works_when_the_first_rolls_back(database_url: str) -> None:
    """The unique key makes the second attempt wait; what the first one did not commit is not there."""

    class OnPurposeError(Exception):
        pass

    done: list[str] = []
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def first() -> str:
        begun.set()
        await go_on.wait()
        done.append("first")
        return "first"

    async def second() -> str:
        done.append("second")
        return "second"

    async with open_record(Settings(database_url=database_url)) as record:

        async def fails() -> None:
            async with transaction(record) as tx:
                await once(tx, ("scope", "key"), new_id(), function=first, returns=str)
                raise OnPurposeError

        async def succeeds() -> str:
            async with transaction(record) as tx:
                return await once(tx, ("scope", "key"), new_id(), function=second, returns=str)

        failing = asyncio.create_task(fails())
        await begun.wait()
        succeeding = asyncio.create_task(succeeds())
        assert not (await asyncio.wait([succeeding], timeout=0.1))[0]
        go_on.set()
        with pytest.raises(OnPurposeError):
            await failing

        assert await succeeding == "second"
        assert await succeeds() == "second"
    assert done == ["first", "second"]


async def test_nothing_is_kept_when_the_task_catches_what_the_work_raised(database_url: str) -> None:
    """The work's own writes go with the row, back to where it began, and the session can go on."""
    async with open_record(Settings(database_url=database_url)) as record:
        async with transaction(record) as tx:
            await tx.connection.execute(text("CREATE TABLE notes (what text PRIMARY KEY)"))

            async def fails() -> None:
                await tx.connection.execute(text("INSERT INTO notes VALUES ('a'), ('a')"))

            with pytest.raises(Exception, match="duplicate key"):
                await once(tx, ("scope", "key"), new_id(), function=fails, returns=None)
            await tx.connection.execute(text("INSERT INTO notes VALUES ('b')"))

        async with transaction(record) as tx:
            assert (await tx.connection.execute(text("SELECT what FROM notes"))).scalars().all() == ["b"]
            assert (await tx.connection.execute(text("SELECT count(*) FROM processed_work"))).scalar_one() == 0


async def test_check_then_act_waits_for_the_other_session(database_url: str) -> None:
    """Without the lock both would find nothing."""
    effects: list[int] = []

    async def find() -> int | None:
        found = effects[-1] if effects else None
        await asyncio.sleep(0.02)
        return found

    async def act() -> int:
        effects.append(len(effects))
        return effects[-1]

    async with open_record(Settings(database_url=database_url)) as record:

        async def attempt() -> int:
            async with transaction(record) as tx:
                return await check_then_act(tx, "key", check=find, act=act)

        assert await asyncio.gather(*(attempt() for _ in range(5))) == [0] * 5


async def test_claim_goes_from_run_to_run_by_its_rules(claims: RedisClaims | RememberedClaims) -> None:
    """Of two jobs one waits; of two runs of one job the later one takes over, and the earlier one cannot finish."""
    mine, theirs = Holder(new_id(), 1), Holder(new_id(), 7)
    later = Holder(mine.job_id, 2)

    assert await claims.take("key", mine, 10) is Standing.MINE
    assert isinstance(busy := await claims.take("key", theirs, 10), Busy)
    assert 9 < busy.seconds <= 10
    assert await claims.take("key", later, 10) is Standing.MINE
    assert isinstance(await claims.take("key", mine, 10), Busy)

    await claims.finish("key", mine, 10)
    await claims.let_go("key", mine)
    assert isinstance(await claims.take("key", theirs, 10), Busy)
    await claims.let_go("key", later)
    assert await claims.take("key", theirs, 10) is Standing.MINE
    await claims.finish("key", theirs, 0.05)
    assert await claims.take("key", later, 10) is Standing.DONE
    await claims.let_go("key", theirs)
    await asyncio.sleep(0.06)
    assert await claims.take("key", later, 10) is Standing.MINE


async def test_claim_is_given_back_when_the_effect_fails(claims: RedisClaims | RememberedClaims) -> None:
    """The next attempt, of whichever job, makes it."""
    message = "the effect failed"

    with pytest.raises(ConnectionError):
        async with claimed(claims, "key", Holder(new_id(), 1), seconds=10) as mine:
            assert mine
            raise ConnectionError(message)

    async with claimed(claims, "key", Holder(new_id(), 1), seconds=10) as mine:
        assert mine


async def test_claim_is_refused_when_redis_is_away() -> None:
    """Nobody knows whose it is: the attempt is made again, uncounted."""
    async with Redis.from_url("redis://127.0.0.1:1/0") as redis:
        with pytest.raises(UnavailableError, match="Redis does not answer"):
            await RedisClaims(redis).take("key", Holder(new_id(), 1), 10)


async def test_claim_is_lost_with_redis_and_the_effect_comes_again(redis_url: str) -> None:
    """What a claim gives up, as its page says."""
    async with Redis.from_url(redis_url) as redis:
        claims = RedisClaims(redis)
        await claims.take("key", Holder(new_id(), 1), 10)
        await redis.flushdb()

        assert await claims.take("key", Holder(new_id(), 1), 10) is Standing.MINE


def test_every_process_provides_claims() -> None:
    """`run.get(Claims)` is what `run.claim` asks."""
    assert Claims in registry_of([]).providers
