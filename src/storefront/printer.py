"""The printer: draws invoices beside the event loop.

Owns the one place where the drawing is loaded. ReportLab takes 7 MB before it has drawn anything, which processes that
print nothing must not pay for: the drawing is imported when a process opens its providers, and not with this module.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from headrace.settings import Settings
from storefront.invoice import Invoice

_DRAWING = "storefront.drawing"


class Printer:
    """Prints invoices."""

    def __init__(self, draw: Callable[[Invoice], bytes]) -> None:
        """Print what `draw` makes of an invoice."""
        self._draw = draw

    async def print(self, invoice: Invoice) -> bytes:
        """Return the invoice as a PDF; other coroutines run meanwhile."""
        return await asyncio.to_thread(self._draw, invoice)


@asynccontextmanager
async def open_printer(settings: Settings) -> AsyncIterator[Printer]:
    """Provide the printer of a process."""
    del settings
    yield Printer(importlib.import_module(_DRAWING).render)
