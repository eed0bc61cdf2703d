"""The invoice: what it says.

Owns the value that is drawn, its number and its sums. The same invoice gives the same bytes, always, because
nothing else goes into the drawing. How it looks is the business of `storefront.drawing`, which few processes load.
"""

from __future__ import annotations

from datetime import date, datetime

import msgspec


class Seller(msgspec.Struct, frozen=True):
    """Who issues the invoices."""

    name: str
    address: tuple[str, ...]
    tax_number: str
    email: str


SELLER = Seller(
    name="Headrace Storefront",
    address=("1 Mill Lane", "105 52 Athens", "Greece"),
    tax_number="EL 000000000",
    email="invoices@headrace.example",
)


class InvoiceLine(msgspec.Struct, frozen=True):
    """One article of an invoice."""

    sku: str
    quantity: int
    unit_price_cents: int

    @property
    def total_cents(self) -> int:
        """What the line costs."""
        return self.quantity * self.unit_price_cents


class Invoice(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that an invoice says."""

    number: str
    order_id: str
    customer_email: str
    currency: str
    issued_on: date
    ordered_at: datetime
    confirmed_at: datetime
    lines: tuple[InvoiceLine, ...]
    seller: Seller = SELLER

    @property
    def total_cents(self) -> int:
        """What the customer owes."""
        return sum(line.total_cents for line in self.lines)


def invoice_number(sequence: int) -> str:
    """Return the number printed on the invoice: `invoice_number(7) == "INV-000007"`."""
    return f"INV-{sequence:06d}"
