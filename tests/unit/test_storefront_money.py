"""Which currencies there are, and how amounts read."""

from __future__ import annotations

import pytest

from headrace.errors import InvalidInputError
from storefront.money import LARGEST_CENTS, format_money, minor_digits, require_currency


@pytest.mark.parametrize(
    ("currency", "digits", "text"),
    [
        ("EUR", 2, "1,234.56"),
        ("JPY", 0, "123,456"),
        ("KWD", 3, "123.456"),
        ("IQD", 3, "123.456"),
        ("LBP", 2, "1,234.56"),
    ],
)
def test_amount_reads_in_minor_units_when_currency_has_its_own_digits(currency: str, digits: int, text: str) -> None:
    """The digits are those of ISO 4217, not of everyday use."""
    shown = format_money(123_456, currency)

    assert minor_digits(currency) == digits
    assert shown == text


def test_amount_keeps_every_digit_when_it_is_the_largest() -> None:
    """No digit is lost to floating point or to the precision of a decimal context."""
    shown = format_money(LARGEST_CENTS, "EUR")

    assert shown == "92,233,720,368,547,758.07"


@pytest.mark.parametrize("code", ["", "eur", "EURO", "XXX", "DEM", "ZZZ", "€"])
def test_currency_is_refused_when_it_is_not_in_use(code: str) -> None:
    """Unknown, historic and misspelt codes name the field that is wrong."""
    with pytest.raises(InvalidInputError) as refusal:
        require_currency(code)

    assert [error.field for error in refusal.value.errors] == ["currency"]


def test_currency_is_returned_when_it_is_in_use() -> None:
    """A currency of today passes unchanged."""
    accepted = [require_currency(code) for code in ("EUR", "JPY", "KWD", "PLN")]

    assert accepted == ["EUR", "JPY", "KWD", "PLN"]
