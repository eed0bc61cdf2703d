"""Which currencies there are, and how amounts read."""

from __future__ import annotations

import pytest

from storefront.money import format_money, is_currency, minor_digits


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
    shown = format_money(2**63 - 1, "EUR")

    assert shown == "92,233,720,368,547,758.07"


@pytest.mark.parametrize("code", ["", "eur", "EURO", "XXX", "DEM", "ZZZ", "€"])
def test_currency_is_unknown_when_it_is_not_in_use(code: str) -> None:
    """Misspelt, historic and invented codes are no currencies."""
    assert not is_currency(code)


@pytest.mark.parametrize("code", ["EUR", "JPY", "KWD", "PLN"])
def test_currency_is_known_when_it_is_in_use(code: str) -> None:
    """A currency of today is one."""
    assert is_currency(code)
