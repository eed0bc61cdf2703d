"""What `headrace up` will run, decided before anything runs.

Owns the table of a stack's processes, their environment, and the choice between a store of its own and one that the
operator named. What the operator set is handed to the processes as it is; what is missing points to the stack's own
servers. Never decide by a value's default: a store that is named in the environment is used, whatever its name.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from headrace.errors import ConfigurationError
from headrace.settings import Settings
from headrace.stack import postgres, redis
from headrace.stack.bytecode import bytecode_environment
from headrace.stack.files import replace_file
from headrace.stack.ownership import VARIABLE
from headrace.stack.ports import LOOPBACK, is_free, keep_ports
from headrace.stack.program import Program
from headrace.stack.stackfile import SECRET_KEYS, Whereabouts
from headrace.webhooks.secrets import new_key
from headrace.webhooks.signing import new_secret

STOP_ORDER = (("api", "cron"), ("consume", "worker"), ("relay",), ("sink",), ("redis", "postgres"))
"""What lets work in ends first, then what does it; the stores end last."""

_GRACE_SECONDS = 10.0
_DATABASE, _REDIS, _SMTP, _WAREHOUSE = (
    "HEADRACE_DATABASE_URL",
    "HEADRACE_REDIS_URL",
    "HEADRACE_SMTP_URL",
    "HEADRACE_WAREHOUSE_URL",
)
_TRACES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PORTS = ("api", "postgres", "redis", "smtp", "sink")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The programs of a stack, in the order of their start: servers, then `migrate`, then processes."""

    whereabouts: Whereabouts
    api_key: str
    servers: tuple[Program, ...]
    migrate: Program
    processes: tuple[Program, ...]


def make_plan(settings: Settings, environment: Mapping[str, str], *, port: int, directory: Path) -> Plan:
    """Decide everything; makes the files of missing stores. Hold the directory's lock.

    Args:
        settings: what the operator chose.
        environment: the operator's environment, to be handed on.
        port: where the API listens; 0 means a free one, the same at each start.
        directory: absolute, exists.

    Raises:
        ConfigurationError: the port is taken, or a store cannot be made.

    """
    if port and not is_free(port):
        message = f"port {port} is taken: choose another with --port, or --port 0 for a free one"
        raise ConfigurationError(message)
    ports = keep_ports(directory / "ports.json", _PORTS)
    ports["api"] = port or ports["api"]
    servers, stores = _stores(environment, ports, directory)
    api_key = settings.api_key or _kept(directory / "api.key", lambda: f"hr_{secrets.token_urlsafe(32)}")
    secret = settings.warehouse_secret or _kept(directory / "warehouse.secret", new_secret)
    secret_keys = settings.secret_keys or _kept(directory / SECRET_KEYS, new_key)
    whereabouts = _whereabouts(environment, ports, stores)
    chosen = {
        **stores,
        "HEADRACE_API_KEY": api_key,
        "HEADRACE_WAREHOUSE_SECRET": secret,
        "HEADRACE_SECRET_KEYS": secret_keys,
        VARIABLE: str(directory),
        **bytecode_environment(environment, directory),
    }
    full = _environment(environment, whereabouts, chosen)
    sink = _python("sink", ("headrace.stack.sink", str(directory), str(ports["smtp"]), str(ports["sink"])), full)
    return Plan(
        whereabouts=whereabouts,
        api_key=api_key,
        servers=(*servers, sink),
        migrate=_python("migrate", ("headrace.cli", "migrate"), full),
        processes=_processes(settings, {**full, "HEADRACE_HOST": LOOPBACK, "HEADRACE_PORT": str(ports["api"])}),
    )


def _stores(
    environment: Mapping[str, str], ports: Mapping[str, int], directory: Path
) -> tuple[tuple[Program, ...], dict[str, str]]:
    """Return the embedded stores and the URLs of all."""
    programs: list[Program] = []
    urls = {name: environment[name] for name in (_DATABASE, _REDIS) if environment.get(name)}
    minimal = {"PATH": os.defpath, "LC_ALL": "C.UTF-8", VARIABLE: str(directory)}
    if _DATABASE not in urls:
        cluster = postgres.prepare(directory / "postgres", ports["postgres"])
        urls[_DATABASE] = cluster.url()
        programs.append(cluster.program(minimal))
    if _REDIS not in urls:
        belt = redis.prepare(directory / "redis", ports["redis"])
        urls[_REDIS] = belt.url()
        programs.append(belt.program(minimal))
    return tuple(programs), urls


def _whereabouts(environment: Mapping[str, str], ports: Mapping[str, int], stores: Mapping[str, str]) -> Whereabouts:
    page = f"http://{LOOPBACK}:{ports['sink']}"
    return Whereabouts(
        api_url=f"http://{LOOPBACK}:{ports['api']}",
        redis_url=stores[_REDIS],
        postgres_url=stores[_DATABASE],
        mail_url=page,
        smtp_url=None if environment.get(_SMTP) else f"smtp://{LOOPBACK}:{ports['smtp']}",
        warehouse_url=None if environment.get(_WAREHOUSE) else f"{page}/warehouse/orders",
        traces_url=None if any(environment.get(name) for name in _TRACES) else f"{page}/traces",
    )


def _environment(given: Mapping[str, str], whereabouts: Whereabouts, chosen: Mapping[str, str]) -> dict[str, str]:
    full = {**given, **chosen}
    full.pop(
        "PYTHONDONTWRITEBYTECODE", None
    )  # each start would compile everything anew: a rerun would come seconds later
    if whereabouts.smtp_url:
        full[_SMTP] = whereabouts.smtp_url
    if whereabouts.warehouse_url:
        full[_WAREHOUSE] = whereabouts.warehouse_url
    if whereabouts.traces_url:
        full[_TRACES[0]] = whereabouts.mail_url
        full.setdefault("OTEL_BSP_SCHEDULE_DELAY", "500")  # ms; whoever watches a local stack waits for its spans
    return full


def _processes(settings: Settings, environment: Mapping[str, str]) -> tuple[Program, ...]:
    tasks_at_once = str(settings.worker_concurrency)
    worker = (
        "headrace.stack.worker",
        "worker",
        "workers.tasks:broker",
        "--workers",
        "1",
        "--max-async-tasks",
        tasks_at_once,
    )
    table = {
        "api": ("headrace.cli", "api"),
        "relay": ("headrace.cli", "relay"),
        "consume": ("headrace.cli", "consume"),
        "worker": worker,
        "cron": ("arq", "workers.cron.WorkerSettings"),
    }
    patience = settings.shutdown_seconds + _GRACE_SECONDS
    return tuple(
        msgspec.structs.replace(
            _python(name, module, environment), stop_seconds=patience, work_in_child=name == "worker"
        )
        for name, module in table.items()
    )


def _python(name: str, module: tuple[str, ...], environment: Mapping[str, str]) -> Program:
    """Return a module run by this Python, in the operator's directory: an application of theirs may lie there."""
    return Program(
        name=name,
        command=(sys.executable, "-m", *module),
        environment=environment,
        working_directory=Path.cwd(),
    )


def _kept(path: Path, make: Callable[[], str]) -> str:
    """Return the secret that this directory keeps, which is made once."""
    if not path.exists():
        replace_file(path, make().encode())
    return path.read_text()
