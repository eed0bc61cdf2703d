"""The warehouse of the sink: takes confirmed orders as a real one should.

Owns the receipts: a call must be signed, and its `Idempotency-Key` names one effect, however often it comes. A repeat
gets the first receipt again, with the number of repeats counted. Receipts are files, so a restart does not forget
them. Never answer 200 before the receipt is kept.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec

from headrace.clock import now
from headrace.errors import FieldError, InvalidInputError
from headrace.signing import verify
from headrace.stack.files import replace_file


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """One effect; `duplicates` counts the calls after the first, `reference` is what a person would call it."""

    receipt_id: str
    reference: str
    order_id: str
    received_at: datetime
    duplicates: int
    idempotency_key: str
    traceparent: str
    order: msgspec.Raw


class Pace(msgspec.Struct, frozen=True):
    """How long the warehouse takes before it answers, for whoever wants to see work that lasts."""

    seconds: Annotated[float, msgspec.Meta(ge=0, le=60)] = 0.0


class _Order(msgspec.Struct):
    order_id: str


class Warehouse:
    """The receipts in a directory."""

    def __init__(self, directory: Path, secret: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._secret = secret
        self.pace = Pace()
        kept = [msgspec.json.decode(path.read_bytes(), type=Receipt) for path in directory.glob("*.json")]
        self._receipts = {receipt.idempotency_key: receipt for receipt in kept}

    def take(self, headers: Mapping[str, str], body: bytes) -> Receipt:
        """Take an order and return its receipt.

        Raises:
            InvalidInputError: the signature does not fit, the key is missing, or the body is no order.

        """
        verify(self._secret, headers=headers, body=body)
        key = headers.get("idempotency-key", "")
        if not key:
            message = "an order needs an Idempotency-Key"
            raise InvalidInputError(message, (FieldError("Idempotency-Key", "missing"),))
        first = self._receipts.get(key)
        receipt = (
            msgspec.structs.replace(first, duplicates=first.duplicates + 1) if first else self._new(key, headers, body)
        )
        self._keep(receipt)
        return receipt

    def all(self) -> list[Receipt]:
        """Return the receipts, newest first."""
        return sorted(self._receipts.values(), key=lambda receipt: receipt.received_at, reverse=True)

    def _new(self, key: str, headers: Mapping[str, str], body: bytes) -> Receipt:
        try:
            order = msgspec.json.decode(body, type=_Order)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            message = f"not an order: {error}"
            raise InvalidInputError(message) from error
        identity = secrets.token_hex(8)
        return Receipt(
            receipt_id=identity,
            reference=f"WH-{identity[:8].upper()}",
            order_id=order.order_id,
            received_at=now(),
            duplicates=0,
            idempotency_key=key,
            traceparent=headers.get("traceparent", ""),
            order=msgspec.Raw(body),
        )

    def _keep(self, receipt: Receipt) -> None:
        replace_file(self._directory / f"{receipt.receipt_id}.json", msgspec.json.encode(receipt))
        self._receipts[receipt.idempotency_key] = receipt
