"""The drawing of an invoice: the PDF that a person accepts as one.

Owns how an invoice looks: seller, number, dates, customer, order, every line, the total; the table's header is repeated
on each page, and each page says which it is of how many. A letter that cannot be drawn is named.
Pure computing, about 5 ms a page, and it holds the interpreter: call it through `storefront.printer`.
Never read the record or the clock here: what is printed was handed in.
"""

from __future__ import annotations

import io
import threading
from datetime import UTC, datetime
from xml.sax.saxutils import escape

from reportlab.lib import colors
from reportlab.lib.enums import TA_RIGHT
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfbase.pdfmetrics import stringWidth
from reportlab.platypus import Flowable, LongTable, Paragraph, SimpleDocTemplate, Spacer, Table

from storefront.invoice import Invoice, InvoiceLine
from storefront.money import format_money
from storefront.page_numbers import NumberedCanvas
from storefront.typeface import FAMILY, printable, register

_MARGIN = 18 * mm
_WIDTH = A4[0] - 2 * _MARGIN
_GREY = colors.HexColor("#5f6b76")
_RULE = colors.HexColor("#c9d1d8")
_SHADE = colors.HexColor("#eef2f5")
_SIZE = 9.5
_PADDING = 6
_ONE_AT_A_TIME = threading.Lock()  # ReportLab keeps fonts and parser state per process


def render(invoice: Invoice) -> bytes:
    """Return the invoice as a PDF."""
    with _ONE_AT_A_TIME:
        register()
        page = io.BytesIO()
        document = SimpleDocTemplate(
            page,
            pagesize=A4,
            leftMargin=_MARGIN,
            rightMargin=_MARGIN,
            topMargin=_MARGIN,
            bottomMargin=_MARGIN + 6 * mm,
            title=f"Invoice {invoice.number}",
            author=invoice.seller.name,
            subject=f"Order {invoice.order_id}",
            creator="Headrace storefront",
            lang="en",
            invariant=1,
        )
        footer = f"Invoice {invoice.number}  ·  Order {invoice.order_id}"
        document.build(_story(invoice), canvasmaker=NumberedCanvas.footed_with(footer, FAMILY, _MARGIN))
        return page.getvalue()


def _story(invoice: Invoice) -> list[Flowable]:
    return [
        _head(invoice),
        Spacer(0, 9 * mm),
        _parties(invoice),
        Spacer(0, 9 * mm),
        _lines(invoice),
        Spacer(0, 5 * mm),
        _totals(invoice),
        Spacer(0, 12 * mm),
        _note("Payable on receipt. Please name the invoice number with your payment."),
    ]


def _head(invoice: Invoice) -> Flowable:
    table = Table(
        [[_text("INVOICE", size=24), _text(invoice.number, size=14, right=True)]],
        colWidths=[_WIDTH / 2, _WIDTH / 2],
        style=[("VALIGN", (0, 0), (-1, -1), "BOTTOM"), ("LINEBELOW", (0, 0), (-1, -1), 1.2, colors.black)],
    )
    table.setStyle(_flush())
    return table


def _parties(invoice: Invoice) -> Flowable:
    seller = invoice.seller
    issuer = [seller.name, *seller.address, f"VAT {seller.tax_number}", seller.email]
    facts = [
        ("Invoice date", invoice.issued_on.isoformat()),
        ("Ordered", _moment(invoice.ordered_at)),
        ("Confirmed", _moment(invoice.confirmed_at)),
        ("Currency", invoice.currency),
        ("Order", invoice.order_id),
    ]
    columns = [
        [_label("From"), *(_text(line) for line in issuer)],
        [_label("Bill to"), _text(invoice.customer_email)],
        [part for name, value in facts for part in (_label(name), _text(value, size=9), Spacer(0, 1.2 * mm))],
    ]
    table = Table([columns], colWidths=[_WIDTH * 0.29, _WIDTH * 0.35, _WIDTH * 0.36])
    table.setStyle([*_flush(), ("VALIGN", (0, 0), (-1, -1), "TOP"), ("RIGHTPADDING", (0, 0), (-2, -1), 10)])
    return table


def _lines(invoice: Invoice) -> Flowable:
    header = ["#", "Article (SKU)", "Quantity", f"Unit price ({invoice.currency})", f"Amount ({invoice.currency})"]
    rows = [
        (
            str(place),
            line.sku,
            f"{line.quantity:,}",
            *(format_money(cents, invoice.currency) for cents in _prices(line)),
        )
        for place, line in enumerate(invoice.lines, start=1)
    ]
    narrow = [_column(header[column], [row[column] for row in rows]) for column in (0, 2, 3, 4)]
    widths = [narrow[0], _WIDTH - sum(narrow), *narrow[1:]]
    cells = [[place, _text(sku), *numbers] for place, sku, *numbers in rows]
    table = LongTable([header, *cells], colWidths=widths, repeatRows=1)
    table.setStyle(
        [
            ("FONT", (0, 0), (-1, -1), FAMILY, _SIZE),
            ("FONT", (0, 0), (-1, 0), FAMILY, 8.5),
            ("TEXTCOLOR", (0, 0), (-1, 0), _GREY),
            ("BACKGROUND", (0, 0), (-1, 0), _SHADE),
            ("LINEBELOW", (0, 1), (-1, -1), 0.4, _RULE),
            ("ALIGN", (2, 0), (-1, -1), "RIGHT"),
            ("VALIGN", (0, 0), (-1, -1), "TOP"),
            ("LEFTPADDING", (0, 0), (-1, -1), _PADDING),
            ("RIGHTPADDING", (0, 0), (-1, -1), _PADDING),
        ]
    )
    return table


def _totals(invoice: Invoice) -> Flowable:
    pieces = sum(line.quantity for line in invoice.lines)
    articles = f"{_count(len(invoice.lines), 'line')}, {_count(pieces, 'article')}"
    total = f"{invoice.currency} {format_money(invoice.total_cents, invoice.currency)}"
    table = Table(
        [[_text(articles, color=_GREY), _text("Total due", size=12, right=True), _text(total, size=12, right=True)]],
        colWidths=[_WIDTH * 0.36, _WIDTH * 0.20, _WIDTH * 0.44],
        style=[("BACKGROUND", (0, 0), (-1, -1), _SHADE), ("VALIGN", (0, 0), (-1, -1), "MIDDLE")],
    )
    table.setStyle([("TOPPADDING", (0, 0), (-1, -1), 7), ("BOTTOMPADDING", (0, 0), (-1, -1), 9)])
    return table


def _note(text: str) -> Flowable:
    table = Table([[_text(text, size=8.5, color=_GREY)]], colWidths=[_WIDTH])
    table.setStyle(_flush())
    return table


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _prices(line: InvoiceLine) -> tuple[int, int]:
    return line.unit_price_cents, line.total_cents


def _column(title: str, texts: list[str]) -> float:
    widest = max((stringWidth(text, FAMILY, _SIZE) for text in [title, *texts]), default=0.0)
    return float(widest) + 2 * _PADDING


def _flush() -> list[tuple[str, tuple[int, int], tuple[int, int], int]]:
    return [("LEFTPADDING", (0, 0), (-1, -1), 0), ("RIGHTPADDING", (0, 0), (-1, -1), 0)]


def _label(text: str) -> Paragraph:
    return _text(text, size=8, color=_GREY)


def _text(text: str, *, size: float = _SIZE, color: colors.Color = colors.black, right: bool = False) -> Paragraph:
    style = ParagraphStyle(
        "text", fontName=FAMILY, fontSize=size, leading=size * 1.3, textColor=color, splitLongWords=1,
        alignment=TA_RIGHT if right else 0,
    )  # fmt: skip  # one value of type, read as one
    return Paragraph(escape(printable(text)), style)


def _moment(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
