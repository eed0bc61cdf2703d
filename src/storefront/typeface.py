"""The letters of printed documents: one embedded typeface, and what is shown for a letter that it lacks.

Owns the registration of Noto Sans (Latin, Greek, Cyrillic) with ReportLab, once per process and only when something is
printed. A letter that the typeface lacks is shown as its code point, `[U+6F22]`: ReportLab itself would print nothing
and say nothing.
Never leave a letter out: a document with a missing letter looks right and is wrong.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

import fontpkg  # type: ignore[import-untyped]  # ships no types; one function of it is used
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont

FAMILY = "Noto Sans"


@lru_cache(maxsize=1)
def register() -> frozenset[int]:
    """Make `FAMILY` known to ReportLab and return the code points that it can show."""
    font = TTFont(FAMILY, str(fontpkg.path(FAMILY)))
    pdfmetrics.registerFont(font)
    pdfmetrics.registerFontFamily(FAMILY, normal=FAMILY, bold=FAMILY, italic=FAMILY, boldItalic=FAMILY)
    return frozenset(font.face.charToGlyph)


def printable(text: str) -> str:
    """Return `text` with every letter that cannot be shown, or is invisible, as its code point in brackets."""
    shown = register()
    composed = unicodedata.normalize("NFC", text)
    return "".join(letter if _can_show(letter, shown) else f"[U+{ord(letter):04X}]" for letter in composed)


def _can_show(letter: str, shown: frozenset[int]) -> bool:
    return ord(letter) in shown and unicodedata.category(letter) not in {"Cc", "Cf", "Zl", "Zp"}
