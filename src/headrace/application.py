"""An application: what a team plugs into Headrace, and all that the loaded ones declare together.

Owns `Application`, a table of declarations without behaviour, and `Registry`, the union that the processes run from.
A name declared twice, or an event that is listened to and not declared, stops the process at its start with the two
places. Patterns of event types are resolved here, against all that are declared. Importing an application does nothing;
loading it binds its tasks to a broker.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import msgspec

from headrace.errors import ConfigurationError
from headrace.events.registry import EventType, event_type_of
from headrace.events.resolving import check_filter, resolved
from headrace.jobs.schedule import Schedule
from headrace.providers import Factory
from headrace.subscribers.contract import Subscription
from headrace.tasks.contract import Task

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """What one application declares.

    Args:
        name: how it is called in messages.
        tasks: what its workers can do.
        events: the msgspec types it publishes or accepts, each declared with `@event`.
        subscriptions: its subscribers and projections.
        schedules: what its clock fires.
        providers: a factory for each type that `run.get` and `delivery.get` hand out.
        controllers: where the Litestar route handlers are that the API serves too, as `module:attribute`; only the API
            imports them, so that no other process carries the packages of HTTP.
        migrations: the package with its Alembic branch, whose `versions/` holds the migrations.

    """

    name: str
    tasks: Sequence[Task[Any, Any]] = ()
    events: Sequence[type[msgspec.Struct]] = ()
    subscriptions: Sequence[Subscription] = ()
    schedules: Sequence[Schedule] = ()
    providers: Mapping[type[Any], Factory] = field(default_factory=dict)
    controllers: str | None = None
    migrations: str | None = None


@dataclass(frozen=True, slots=True)
class Registry:
    """All that the loaded applications declare, by name."""

    applications: tuple[Application, ...]
    tasks: Mapping[str, Task[Any, Any]]
    events: Mapping[str, EventType]
    subscriptions: Mapping[str, Subscription]
    schedules: Mapping[str, Schedule]
    providers: Mapping[type[Any], Factory]
    names: Mapping[str, Task[Any, Any]]
    """The tasks by every name under which a job of theirs may be on record: aliases too."""

    @property
    def controllers(self) -> list[Any]:
        """The route handlers of all applications, imported now.

        Raises:
            ConfigurationError: a module or attribute is missing.

        """
        references = [application.controllers for application in self.applications if application.controllers]
        return [handler for reference in references for handler in _import(reference, "controllers")]

    @property
    def migrations(self) -> tuple[str, ...]:
        """The migration packages of all applications."""
        return tuple(application.migrations for application in self.applications if application.migrations)


def combine(applications: Sequence[Application]) -> Registry:
    """Join applications to one registry.

    Raises:
        ConfigurationError: two declarations share a name, or something refers to what is not declared.

    """
    events = _by_name(applications, lambda one: map(event_type_of, one.events), lambda event: event.type)
    for event in events.values():
        _require(
            all(older >= event.oldest for older in event.upcasts),
            f"{event.type} is at version {event.version} and is upcast from {sorted(event.upcasts)}: one is missing",
        )
    tasks = _by_name(applications, lambda one: one.tasks, lambda task: task.name)
    names = _names_of(applications)
    declared = _by_name(applications, lambda one: one.subscriptions, lambda subscription: subscription.name)
    subscriptions = {name: _resolved(subscription, events) for name, subscription in declared.items()}
    schedules = _by_name(applications, lambda one: one.schedules, lambda schedule: schedule.name)
    for task in tasks.values():
        _require(
            task.policy.on_dead is None or task.policy.on_dead in names,
            f"the task {task.name} names {task.policy.on_dead} as on_dead, which no application lists",
        )
    for schedule in schedules.values():
        _require(
            schedule.call.task in names,
            f"the schedule {schedule.name} calls {schedule.call.task}, which no application lists",
        )
    provided = _by_name(
        applications, lambda one: one.providers.items(), lambda item: f"{item[0].__module__}.{item[0].__qualname__}"
    )
    providers = dict(provided.values())
    return Registry(tuple(applications), tasks, events, subscriptions, schedules, providers, names)


def _resolved(subscription: Subscription, events: Mapping[str, EventType]) -> Subscription:
    """Return a subscription with all declared types that its patterns meet."""
    told = f"the subscription {subscription.name}"
    met = resolved(told, subscription.patterns, events)
    for event in subscription.events:
        listed, named = events[event.type].data_type, event.data_type
        _require(
            listed is named,
            f"{told} names {named.__qualname__} for {event.type}, and the applications list {listed.__qualname__}",
        )
    if subscription.filter is not None:
        check_filter(told, subscription.filter, met)
    return replace(subscription, events=met)


def load(names: str) -> list[Application]:
    """Import the applications named as `module:attribute`, comma-separated; `none` names no application.

    Raises:
        ConfigurationError: a module or attribute is missing, or is not an Application.

    """
    return [] if names == "none" else [_load_one(name.strip()) for name in names.split(",")]


def _load_one(name: str) -> Application:
    found = _import(name, "HEADRACE_APPLICATIONS")
    if not isinstance(found, Application):
        message = f"HEADRACE_APPLICATIONS names {name}, which is a {type(found).__name__} and not an Application"
        raise ConfigurationError(message)
    return found


def _import(reference: str, named_by: str) -> Any:  # noqa: ANN401 - whatever stands there
    module_name, _, attribute = reference.partition(":")
    try:
        return getattr(importlib.import_module(module_name), attribute or "application")
    except (ImportError, AttributeError, ValueError) as error:
        message = f"{named_by} names {reference}, which cannot be loaded: {error}"
        raise ConfigurationError(message) from error


def _by_name(
    applications: Sequence[Application], declared: Callable[[Application], Iterable[T]], name_of: Callable[[T], str]
) -> dict[str, T]:
    found: dict[str, T] = {}
    for application in applications:
        for declaration in declared(application):
            name = name_of(declaration)
            _require(
                name not in found, f"{name} is declared twice, the second time by the application {application.name}"
            )
            found[name] = declaration
    return found


def _names_of(applications: Sequence[Application]) -> dict[str, Task[Any, Any]]:
    """Return the tasks by each of their names; none of them may claim another one's."""
    named = _by_name(
        applications,
        lambda one: [(name, task) for task in one.tasks for name in (task.name, *task.policy.aliases)],
        lambda item: item[0],
    )
    return dict(named.values())


def _require(condition: bool, message: str) -> None:  # noqa: FBT001 - a condition and what its absence means
    if not condition:
        raise ConfigurationError(message)
