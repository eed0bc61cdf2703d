"""Send tasks to Celery: `python fill.py 20000`.

Owns the backlog, sent one by one over one connection.
"""

from __future__ import annotations

import sys

from app import app, echo

with app.producer_pool.acquire(block=True) as producer:
    for number in range(int(sys.argv[1])):
        echo.apply_async((number,), producer=producer)
