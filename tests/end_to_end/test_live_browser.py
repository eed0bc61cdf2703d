"""The examples of docs/live.md in a real browser: events come, and none is missed when the connection breaks."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Final

import pytest
from playwright.async_api import Page, async_playwright

from headrace.live.listener import End
from headrace.settings import Settings
from tests.lanes import eventually
from tests.live import KEY, Served, serving

PAGE: Final = Path(__file__).parents[2] / "docs" / "live.md"
CHROMIUM: Final = shutil.which("chromium")
WATCH: Final = """([code, name, url, key]) => {
    window.shown = [];
    const start = new Function(`${code}; return ${name};`)();
    start(url, key, (event) => window.shown.push(event.data.number));
}"""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed: apt-get install chromium"),
]


@pytest.mark.parametrize(("name", "path"), [("follow", "/v1/events/stream"), ("live", "/v1/live")])
async def test_example_misses_nothing_when_a_browser_runs_it(
    database_url: str, redis_url: str, name: str, path: str
) -> None:
    """Events before and after a break, and those in between, once each and in order."""
    (code,) = re.findall(rf"```javascript\n([^`]*function {name}\(.*?)```", PAGE.read_text(), re.DOTALL)
    settings = Settings(database_url=database_url, redis_url=redis_url)
    async with serving(settings) as served, async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM)
        page = await browser.new_page()
        await page.goto(f"{served.url}/health/live")
        url = served.url + path if name == "follow" else served.url.replace("http", "ws", 1) + path
        await page.evaluate(WATCH, [code, name, f"{url}?type=tests.*", KEY])
        await eventually(lambda: watched(served, 1))
        await served.publish(1, 2)
        await eventually(lambda: has_shown(page, [1, 2]))
        for listener in served.door.hub:
            listener.close(End.STOPPING)
        await eventually(lambda: watched(served, 0))
        await served.publish(3, 4)
        await eventually(lambda: has_shown(page, [1, 2, 3, 4]))
        await served.publish(5)
        await eventually(lambda: has_shown(page, [1, 2, 3, 4, 5]))
        await browser.close()


async def watched(served: Served, count: int) -> bool:
    """Tell whether so many are shown what comes."""
    return len(served.door.hub.index) == count


async def has_shown(page: Page, numbers: list[int]) -> bool:
    """Tell whether the page has shown exactly these events."""
    shown: list[int] = await page.evaluate("window.shown")
    assert shown == numbers[: len(shown)]
    return shown == numbers
