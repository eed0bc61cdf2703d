"""The invoice as a PDF, read back."""

from __future__ import annotations

import io
import re
from datetime import UTC, datetime

import pytest
from pypdf import PdfReader

from storefront.drawing import render
from storefront.invoice import SELLER, Invoice, InvoiceLine, invoice_number

NOON = datetime(2026, 11, 20, 12, 30, tzinfo=UTC)
ORDER = "01939c2e-7f00-7000-8000-0123456789ab"


def invoice(*lines: InvoiceLine, email: str = "ada@example.com", currency: str = "EUR") -> Invoice:
    """Make an invoice of these lines."""
    return Invoice(
        number=invoice_number(7),
        order_id=ORDER,
        customer_email=email,
        currency=currency,
        issued_on=NOON.date(),
        ordered_at=NOON,
        confirmed_at=NOON,
        lines=lines,
    )


def pages(pdf: bytes) -> list[str]:
    """Return the text of each page."""
    return [page.extract_text() for page in PdfReader(io.BytesIO(pdf)).pages]


def joined(pdf: bytes) -> str:
    """Return the text of all pages without any space, so that wrapped words are whole."""
    return re.sub(r"\s", "", "".join(pages(pdf)))


def test_invoice_says_everything_when_it_has_one_line() -> None:
    """Seller, number, dates, customer, order, line and total can all be read."""
    drawn = render(invoice(InvoiceLine("MUG-BLUE", 2, 1250)))

    (page,) = pages(drawn)
    expected = [
        *(SELLER.name, *SELLER.address, SELLER.tax_number, SELLER.email),
        *("INV-000007", "2026-11-20", "2026-11-20 12:30 UTC", "ada@example.com", ORDER),
        *("MUG-BLUE", "12.50", "25.00", "Total due", "EUR 25.00", "1 line, 2 articles", "Page 1 of 1"),
    ]
    assert [text for text in expected if text not in page] == []


def test_header_and_page_numbers_repeat_when_lines_fill_many_pages() -> None:
    """Three hundred lines are all there, in order, under a header on each page."""
    drawn = render(invoice(*(InvoiceLine(f"SKU-{number:03d}", 1, number) for number in range(300))))

    texts = pages(drawn)
    assert len(texts) > 5
    assert all("Article (SKU)" in text for text in texts)
    assert [f"Page {place} of {len(texts)}" in text for place, text in enumerate(texts, start=1)] == [True] * len(texts)
    assert re.findall(r"SKU-(\d{3})", "".join(texts)) == [f"{number:03d}" for number in range(300)]
    assert "EUR 448.50" in texts[-1]


def test_nothing_is_cut_off_when_names_are_long() -> None:
    """A name of 200 letters and an address of 250 are wrapped and whole."""
    address = "a" * 60 + "@" + "sub-domain." * 16 + "example.com"

    drawn = render(invoice(InvoiceLine("X" * 200, 1, 1), email=address))

    assert "X" * 200 in joined(drawn)
    assert address in joined(drawn)


@pytest.mark.parametrize("text", ["Καφές-ελληνικός-Ζωή", "Żółta-gęś-Łódź-ćma", "Кириллица-Ёж", "Ærø-Ångström-ñ-ß-€"])
def test_every_letter_is_shown_when_the_typeface_has_it(text: str) -> None:
    """Greek, Polish and Cyrillic names are letters on the page, not boxes."""
    drawn = render(invoice(InvoiceLine(text, 1, 1)))

    assert text in joined(drawn)


def test_code_point_is_shown_when_the_typeface_lacks_a_letter() -> None:
    """What cannot be drawn is named, never left out."""
    drawn = render(invoice(InvoiceLine("漢 \u202e😀\x07", 1, 1)))

    assert "[U+6F22][U+202E][U+1F600][U+0007]" in joined(drawn)


def test_markup_is_text_when_a_name_contains_it() -> None:
    """A customer cannot write into the invoice's layout."""
    drawn = render(invoice(InvoiceLine("<b>&amp;</para><img src='x'/>", 1, 1)))

    assert "<b>&amp;</para><imgsrc='x'/>" in joined(drawn)


def test_amounts_have_no_fraction_when_the_currency_has_none() -> None:
    """Yen are printed as yen."""
    drawn = render(invoice(InvoiceLine("SAKE", 3, 123_456), currency="JPY"))

    assert "JPY 370,368" in pages(drawn)[0]


def test_amount_stays_in_its_column_when_it_is_the_largest() -> None:
    """The widest amounts are on one line each."""
    drawn = render(invoice(InvoiceLine("HUGE", 1, 2**53 - 1)))

    assert pages(drawn)[0].count("90,071,992,547,409.91") == 3


def test_bytes_are_the_same_when_the_invoice_is_drawn_again() -> None:
    """A repeat cannot be told from the first."""
    drawn, again = (render(invoice(InvoiceLine("MUG", 1, 1))) for _ in range(2))

    assert drawn == again
    assert drawn.startswith(b"%PDF-")
