"""Money: which currencies there are, and how an integer of minor units reads.

Owns the meaning of every `*_cents` of the storefront: an integer count of the currency's minor unit as ISO 4217
defines it (1 cent, 1 yen, 1/1000 dinar). Babel says which currencies are legal tender today; the digits are ISO 4217's
own, since Babel's follow everyday use (it gives the Iraqi dinar 0 digits where the standard has 3).
Never compute money in floating point: `Decimal` for showing, `int` for everything else.
"""

from __future__ import annotations

from decimal import Decimal
from functools import lru_cache

from babel.core import get_global

_USUAL_DIGITS = 2
_NO_DIGITS = (
    "BIF",
    "CLP",
    "DJF",
    "GNF",
    "ISK",
    "JPY",
    "KMF",
    "KRW",
    "PYG",
    "RWF",
    "UGX",
    "VND",
    "VUV",
    "XAF",
    "XOF",
    "XPF",
)
_THREE_DIGITS = ("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND")
_DIGITS = dict.fromkeys(_NO_DIGITS, 0) | dict.fromkeys(_THREE_DIGITS, 3)


@lru_cache(maxsize=1)
def current_currencies() -> frozenset[str]:
    """Return the codes of the currencies that are legal tender somewhere today."""
    territories = get_global("territory_currencies").values()
    return frozenset(
        code for history in territories for code, _, ended, is_tender in history if ended is None and is_tender
    )


def is_currency(code: str) -> bool:
    """Tell whether `code`, three capital letters such as `EUR`, is a currency of today."""
    return code in current_currencies()


def minor_digits(currency: str) -> int:
    """Return how many digits of an amount in `currency` come after the point: EUR 2, JPY 0, KWD 3."""
    return _DIGITS.get(currency, _USUAL_DIGITS)


def format_money(cents: int, currency: str) -> str:
    """Return the amount as a person reads it, without the currency: `format_money(123456, "EUR") == "1,234.56"`."""
    digits = minor_digits(currency)
    return f"{Decimal(cents).scaleb(-digits):,.{digits}f}"
