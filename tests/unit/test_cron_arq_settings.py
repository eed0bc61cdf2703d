"""What ARQ is told about the clock."""

from __future__ import annotations

import inspect

import pytest
from arq.jobs import deserialize_job_raw, serialize_job
from arq.worker import Worker, get_kwargs

from headrace.application import combine
from headrace.cron.arq_settings import ArqSettings, arq_settings
from headrace.settings import Settings


def settings_for(redis_url: str) -> ArqSettings:
    """Return what ARQ gets for a Redis."""
    return arq_settings(Settings(redis_url=redis_url), combine([]))


def test_arq_reads_every_field_when_it_builds_its_worker() -> None:
    """No field is misspelt: ARQ ignores what it does not know."""
    chosen = settings_for("redis://127.0.0.1/0")

    read = get_kwargs(chosen)  # type: ignore[arg-type]  # ARQ says class, and reads `__dict__`

    assert read.keys() == chosen.__dict__.keys()
    assert read.keys() <= inspect.signature(Worker).parameters.keys()


def test_a_tick_comes_every_second_when_arq_looks_at_its_cron() -> None:
    """The tick, the second hand of the rescue and the upkeep, none of them kept unique by ARQ."""
    jobs = {job.name: job for job in settings_for("redis://127.0.0.1/0").cron_jobs}

    assert jobs["tick"].second == set(range(60))
    assert jobs["tick"].minute is None
    assert jobs.keys() == {"tick", "rescue", "make_partitions", "forget", "prune"}
    assert not any(job.unique for job in jobs.values())


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://127.0.0.1:6380/3", ("127.0.0.1", 6380, 3, None, None, False)),
        ("rediss://clock:p%40ss%2Fword@belt.example/1", ("belt.example", 6379, 1, "clock", "p@ss/word", True)),
    ],
)
def test_the_url_is_read_as_everywhere_when_arq_connects(url: str, expected: tuple[object, ...]) -> None:
    """A password with signs in it is decoded, which ARQ itself does not do."""
    redis = settings_for(url).redis_settings

    assert redis is not None
    assert (redis.host, redis.port, redis.database, redis.username, redis.password, redis.ssl) == expected


def test_no_pickle_is_read_or_written_when_a_tick_is_enqueued() -> None:
    """Whoever can write to Redis cannot make the clock run code."""
    chosen = settings_for("redis://127.0.0.1/0")

    message = serialize_job("tick", (), {}, None, 1, serializer=chosen.job_serializer)

    assert message is not None
    assert message.startswith(b"\x85")  # msgpack: an object of five members
    name, args, kwargs, _, enqueued_ms = deserialize_job_raw(message, deserializer=chosen.job_deserializer)
    assert (name, list(args), kwargs, enqueued_ms) == ("tick", [], {}, 1)
