"""uvicorn's two protocols, which tell an application the transport below it.

Owns the one thing that ASGI cannot say: that a connection is to be cut off at once, with whatever its client has not
read. A live tail whose client reads nothing would otherwise keep its buffers, and hold up the end of the process. And a
handshake that cannot be read is answered (414, 431) and ended, where uvicorn would keep its connection without a word.
Never use the transport for anything else.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, cast

from litestar.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

_TRANSPORT: Final = "headrace.transport"


class HttpProtocol(HttpToolsProtocol):
    """HTTP/1.1."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Put the transport where the scopes of the connection's requests have it."""
        super().connection_made(cast("Any", transport))
        self.app_state = self.app_state | {_TRANSPORT: transport}


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """WebSocket."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Put the transport where the scope of the connection has it."""
        super().connection_made(transport)
        self.app_state = self.app_state | {_TRANSPORT: transport}

    def data_received(self, data: bytes) -> None:
        """Take what came; send the refusal of a handshake whose lines are too long or too many, and end it."""
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            self.handshake_initiated = True
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.transport.close()


def transport_of(scope: Scope) -> asyncio.WriteTransport | None:
    """Return what is below a request, None where the server is another one."""
    return cast("asyncio.WriteTransport | None", (scope.get("state") or {}).get(_TRANSPORT))
