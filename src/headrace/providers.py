"""What an application needs besides the record: clients of mail servers, of other people's services.

Owns the opened instances of a process, by type. An application names a factory for each type; they are opened when the
process starts and closed, in reverse, when it ends. Tasks and subscribers ask for an instance by its type.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

from headrace.errors import ConfigurationError
from headrace.settings import Settings

T = TypeVar("T")

Factory = Callable[[Settings], AbstractAsyncContextManager[Any]]


class Providers:
    """The opened instances of a process."""

    def __init__(self, instances: Mapping[type[Any], Any]) -> None:
        self._instances = dict(instances)

    def get(self, kind: type[T]) -> T:
        """Return the instance of a type.

        Raises:
            ConfigurationError: no application provides this type.

        """
        instance = self._instances.get(kind)
        if not isinstance(instance, kind):
            message = f"nothing provides {kind.__qualname__}: add it to `providers` of the application"
            raise ConfigurationError(message)
        return instance


@asynccontextmanager
async def open_providers(factories: Mapping[type[Any], Factory], settings: Settings) -> AsyncIterator[Providers]:
    """Open every provided instance for as long as the block runs."""
    async with AsyncExitStack() as stack:
        yield Providers({kind: await stack.enter_async_context(make(settings)) for kind, make in factories.items()})
