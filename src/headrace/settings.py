"""What a deployment may choose, read once from the environment.

Owns every `HEADRACE_*` variable: its name, type, default and meaning. An unknown `HEADRACE_*` variable, or a value
that does not fit, stops the process with a message that says which and suggests what was meant; nothing starts half
configured. Never read the environment elsewhere. OpenTelemetry keeps its own standard `OTEL_*` variables.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated

import msgspec

from headrace.errors import ConfigurationError

PREFIX = "HEADRACE_"


def _meaning(text: str) -> msgspec.Meta:
    return msgspec.Meta(description=text)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a process; each field is the variable `HEADRACE_<FIELD>`."""

    database_url: Annotated[str, _meaning("PostgreSQL, as postgresql://user:password@host:port/name")] = (
        "postgresql://postgres@127.0.0.1:5432/postgres"
    )
    redis_url: Annotated[
        str,
        _meaning(
            "Redis or Valkey, as redis://host:port/0, redis+cluster://host:port,host:port "
            "or redis+sentinel://host:port,host:port/service"
        ),
    ] = "redis://127.0.0.1:6379/0"
    api_key: Annotated[str | None, _meaning("an API key of full scope, valid from start-up")] = None
    applications: Annotated[str, _meaning("the applications to run, as module:attribute, comma-separated; or none")] = (
        "storefront.application:application"
    )
    host: Annotated[str, _meaning("the address that the API listens on")] = "127.0.0.1"
    port: Annotated[int, _meaning("the port that the API listens on"), msgspec.Meta(ge=0, le=65535)] = 8000
    queues: Annotated[str | None, _meaning("the queues that a worker serves, comma-separated; all where unset")] = None
    worker_concurrency: Annotated[
        int,
        _meaning("jobs at once in one worker process; give --max-async-tasks the same"),
        msgspec.Meta(ge=1, le=1000),
    ] = 100
    worker_threads: Annotated[
        int,
        _meaning("plain functions at once in one worker process, each in a thread"),
        msgspec.Meta(ge=1, le=1000),
    ] = 32
    worker_processes: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=1000)] | None,
        _meaning("child processes at once of one worker, for tasks that run in processes; as many as CPUs where unset"),
    ] = None
    subscriptions: Annotated[str | None, _meaning("the subscriptions to consume, comma-separated; all where unset")] = (
        None
    )
    consumer_concurrency: Annotated[
        int, _meaning("deliveries at once in one subscription of one process"), msgspec.Meta(ge=1, le=1000)
    ] = 32
    lane_capacity: Annotated[
        int,
        _meaning("entries of a lane that Redis holds at most; what is above it waits on record"),
        msgspec.Meta(ge=100),
    ] = 1_000_000
    lanes: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=256)] | None,
        _meaning("how many lanes events flow in; the leading relay changes it; as it is where unset, 4 at first"),
    ] = None
    live_listeners: Annotated[
        int, _meaning("live tails at once in one API process; about 20 KB of memory each"), msgspec.Meta(ge=1)
    ] = 20_000
    lease_seconds: Annotated[
        float, _meaning("how long a silent process keeps what it owns"), msgspec.Meta(ge=0.5, le=60)
    ] = 3.0
    shutdown_seconds: Annotated[
        float,
        _meaning("how long a stopping process lets running work finish before it hands it back"),
        msgspec.Meta(ge=0),
    ] = 20.0
    database_pool_size: Annotated[int, _meaning("connections to PostgreSQL per process"), msgspec.Meta(ge=2)] = 10
    retention_days: Annotated[
        int, _meaning("days that finished jobs and events stay on record"), msgspec.Meta(ge=1)
    ] = 30
    log_level: Annotated[str, _meaning("debug, info, warning or error")] = "info"
    smtp_url: Annotated[str, _meaning("the mail server, as smtp://[user:password@]host:port or smtps://…")] = (
        "smtp://127.0.0.1:25"
    )
    mail_from: Annotated[str, _meaning("the sender of mail")] = "Headrace <no-reply@headrace.example>"
    warehouse_url: Annotated[str, _meaning("where confirmed orders are announced, by signed POST")] = (
        "http://127.0.0.1:9000/orders"
    )
    warehouse_secret: Annotated[
        str | None, _meaning("the secret of these signatures, as whsec_<base64>; without it nothing is announced")
    ] = None
    release: Annotated[
        str | None,
        _meaning("the version of your code, such as a commit, kept with what fails; your packages' where unset"),
    ] = None
    secret_keys: Annotated[
        str | None,
        _meaning("the keys of secrets at rest, comma-separated, from `headrace keys secret`; the first one encrypts"),
    ] = None
    webhook_allow_private: Annotated[
        bool, _meaning("whether webhooks may call private, loopback and link-local addresses")
    ] = False
    webhook_disable_days: Annotated[
        int,
        _meaning("after how many days without a success a webhook that fails is disabled"),
        msgspec.Meta(ge=1, le=365),
    ] = 5
    stack_dir: Annotated[
        str | None, _meaning("set by `headrace up` on its processes: the directory they belong to")
    ] = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Read the settings.

        Raises:
            ConfigurationError: a variable is unknown or its value does not fit; the message says what to do.

        """
        given = {name: value for name, value in environment.items() if name.startswith(PREFIX)}
        for name in given:
            _reject_unknown(name)
        values = {name.removeprefix(PREFIX).lower(): value for name, value in given.items() if value != ""}
        try:
            return msgspec.convert(values, cls, strict=False)
        except msgspec.ValidationError as error:
            message = f"a setting does not fit: {error} (see `headrace settings`)"
            raise ConfigurationError(message) from error

    def as_environment(self) -> dict[str, str]:
        """Return the variables that make another process read these settings."""
        values = msgspec.to_builtins(self)
        return {PREFIX + name.upper(): str(value) for name, value in values.items() if value is not None}


class Variable(msgspec.Struct, frozen=True):
    """One row of `headrace settings`."""

    name: str
    default: str
    meaning: str


def variables() -> list[Variable]:
    """Return every variable with its default and meaning, in the order of `Settings`."""
    schema = msgspec.json.schema(Settings)["$defs"]["Settings"]["properties"]
    return [
        Variable(
            name=PREFIX + field.name.upper(),
            default="" if field.default is None else str(field.default),
            meaning=schema[field.name]["description"],
        )
        for field in msgspec.structs.fields(Settings)
    ]


def _reject_unknown(name: str) -> None:
    known = [field.upper() for field in Settings.__struct_fields__]
    if name.removeprefix(PREFIX) in known:
        return
    near = difflib.get_close_matches(name.removeprefix(PREFIX), known, n=1)  # the prefix would make all names alike
    suggestion = f"did you mean {PREFIX}{near[0]}?" if near else "`headrace settings` lists them all"
    message = f"unknown setting {name}: {suggestion}"
    raise ConfigurationError(message)
