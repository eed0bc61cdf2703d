"""Send messages to Dramatiq: `python fill.py 20000`.

Owns the backlog, sent one by one as Dramatiq does it.
"""

from __future__ import annotations

import sys

from app import echo

for number in range(int(sys.argv[1])):
    echo.send(number)
