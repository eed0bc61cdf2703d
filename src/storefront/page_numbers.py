"""Page x of y: a canvas that knows the number of pages before it writes the first.

Owns the footer of a document. Each finished page is kept until the last one is known, and only then written.
Never use it for documents that do not fit into memory.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from reportlab.pdfgen.canvas import Canvas

if TYPE_CHECKING:
    from collections.abc import Callable

_SIZE = 8
_HEIGHT = 0.6


class NumberedCanvas(Canvas):
    """Writes `text` and `Page x of y` at the foot of every page."""

    def __init__(
        self,
        *arguments: Any,  # noqa: ANN401 - ReportLab chooses the arguments of a canvas
        footer: tuple[str, str, float],
        **options: Any,  # noqa: ANN401 - the same
    ) -> None:
        """Make the canvas of a document; `footer` is text, typeface and margin."""
        super().__init__(*arguments, **options)
        self._text, self._face, self._margin = footer
        self._pages: list[dict[str, object]] = []

    @classmethod
    def footed_with(cls, text: str, face: str, margin: float) -> Callable[..., NumberedCanvas]:
        """Return what ReportLab calls to make the canvas of a document."""
        return partial(cls, footer=(text, face, margin))

    def showPage(self) -> None:  # noqa: N802 - ReportLab's name
        """Keep the finished page."""
        self._pages.append(dict(self.__dict__))
        self._startPage()  # type: ignore[attr-defined]  # the stubs lack what ReportLab's own guide overrides

    def save(self) -> None:
        """Write the kept pages, each with its footer."""
        for number, page in enumerate(list(self._pages), start=1):
            self.__dict__.update(page)
            self._write_footer(number, of=len(self._pages))
            super().showPage()
        super().save()

    def _write_footer(self, number: int, *, of: int) -> None:
        self.setFont(self._face, _SIZE)
        self.setFillGray(0.4)
        height = self._margin * _HEIGHT
        self.drawString(self._margin, height, self._text)
        width = self._pagesize[0]  # type: ignore[attr-defined]  # the stubs lack it
        self.drawRightString(width - self._margin, height, f"Page {number} of {of}")
