"""The console in a real browser: an operator opens it with a key, sees what is wrong, and mends it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Dialog, Page, expect, sync_playwright

from tests.stacks import Stack, running_stack

CHROMIUM = shutil.which("chromium")
HOSTILE = "<img src=x onerror=\"document.title='broken'\">"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A running stack."""
    with running_stack(tmp_path_factory.mktemp("console") / "stack") as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM)
        yield launched
        launched.close()


@pytest.fixture
def page(stack: Stack, browser: Browser) -> Iterator[Page]:
    """The console, opened with the stack's key; a script error fails the test."""
    errors: list[str] = []
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{stack.where.api_url}/console")
    page.get_by_label("API key").fill(stack.key)
    page.get_by_role("button", name="Open").click()
    expect(page.get_by_role("heading", name="System")).to_be_visible()
    yield page
    page.close()
    assert errors == []


def dead_job(stack: Stack, message: str, *, tags: tuple[str, ...] = (), times: int = 1) -> str:
    """Return the id of a job that has died with a message."""
    args = {"times": times, "message": message, "permanent": True}
    body = {"task": "diagnostics.fail", "args": args, "tags": tags}
    with stack.client() as client:
        identity: str = client.post("/v1/jobs", json=body).json()["id"]
        job = client.get(f"/v1/jobs/{identity}", params={"wait_seconds": 20}).json()
    assert job["state"] == "dead", job
    return identity


def test_key_is_asked_for_again_when_it_is_refused(stack: Stack, browser: Browser) -> None:
    """A wrong key opens nothing and is forgotten."""
    page = browser.new_page()
    page.goto(f"{stack.where.api_url}/console")

    page.get_by_label("API key").fill("hr_wrong")
    page.get_by_role("button", name="Open").click()

    expect(page.get_by_text("That key was refused")).to_be_visible()
    assert page.evaluate("sessionStorage.length") == 0
    page.close()


def test_system_shows_every_part_when_all_are_alive(page: Page) -> None:
    """Health, queues, subscriptions and workers stand on the first page."""
    expect(page.get_by_text("Every part is alive.")).to_be_visible(timeout=20_000)
    expect(page.get_by_role("cell", name="storefront.analytics")).to_be_visible()
    expect(page.get_by_role("link", name="default")).to_be_visible()
    expect(page.get_by_text("all alive")).to_be_visible()


def test_dead_job_is_found_and_retried_when_an_operator_looks_for_it(page: Page, stack: Stack) -> None:
    """From the list of dead jobs to the error, and from the button to a job that has succeeded."""
    identity = dead_job(stack, HOSTILE)
    page.get_by_role("link", name="Jobs").click()
    page.get_by_label("state").select_option("dead")
    page.get_by_role("button", name="Filter").click()

    page.get_by_role("link", name=identity).click()
    expect(page.locator("summary").last).to_contain_text("DeliberatePermanentError")
    page.get_by_role("button", name="Retry", exact=True).click()

    expect(page.get_by_role("heading").get_by_text("succeeded")).to_be_visible(timeout=20_000)
    assert page.title() == "Headrace console"


def test_waiting_job_says_why_when_its_queue_is_paused(page: Page, stack: Stack) -> None:
    """The reason is on the job's page; resuming the queue lets it run."""
    with stack.client() as client:
        client.post("/v1/queues/default/pause")
        created = client.post("/v1/jobs", json={"task": "diagnostics.echo", "args": {"value": 1}})
    page.goto(f"{stack.where.api_url}/console#/jobs/{created.json()['id']}")

    expect(page.get_by_text("queue_paused")).to_be_visible()
    expect(page.get_by_text("when it starts cannot be said: the queue is paused")).to_be_visible()
    page.get_by_role("link", name="System").click()
    page.get_by_role("button", name="Resume").click()

    page.goto(f"{stack.where.api_url}/console#/jobs/{created.json()['id']}")
    expect(page.get_by_role("heading").get_by_text("succeeded")).to_be_visible(timeout=20_000)


def test_job_shows_its_way_when_it_has_ended(page: Page, stack: Stack) -> None:
    """Each state it was in, and how long it waited, ran and backed off."""
    identity = dead_job(stack, "for good")

    page.goto(f"{stack.where.api_url}/console#/jobs/{identity}")

    expect(page.get_by_role("heading", name="Its way")).to_be_visible()
    expect(page.get_by_text("backed off 0 ms")).to_be_visible()
    assert page.locator("section td .state").all_inner_texts() == ["pending", "queued", "running", "dead"]


def test_job_succeeds_when_it_is_retried_with_other_arguments(page: Page, stack: Stack) -> None:
    """What is typed stays while the page is drawn anew, and becomes the job's arguments."""
    identity = dead_job(stack, "wrong arguments", times=1000)
    page.goto(f"{stack.where.api_url}/console#/jobs/{identity}")
    page.get_by_text("Retry with other arguments").click()
    page.get_by_label("arguments, as JSON").fill('{"times": 0, "message": "right"}')
    for _ in range(2):
        with page.expect_response("**/health/system"):  # asked for as often as the page is drawn
            pass

    page.get_by_role("button", name="Retry with these").click()

    expect(page.get_by_text("Retried with these arguments.")).to_be_visible()
    expect(page.get_by_role("heading").get_by_text("succeeded")).to_be_visible(timeout=20_000)


def test_all_jobs_that_match_are_retried_when_an_operator_says_so(page: Page, stack: Stack) -> None:
    """The button asks first, names what is meant, and tells how many jobs there were."""
    for _ in range(3):
        dead_job(stack, "bulk", tags=("bulk",))
    asked: list[str] = []

    def answer(dialog: Dialog) -> None:
        asked.append(dialog.message)
        dialog.accept()

    page.on("dialog", answer)
    page.goto(f"{stack.where.api_url}/console#/jobs?state=dead&tag=bulk")

    page.get_by_role("button", name="Retry all that match").click()

    expect(page.get_by_text("3 jobs retried.")).to_be_visible()
    assert asked == ["Retry every job with state dead, tag bulk, on all pages?"]


def test_limits_are_set_when_an_operator_fills_them_in(page: Page) -> None:
    """From the first page to the queue, and back to its limits beside its name; emptied fields lift them."""
    page.get_by_role("link", name="default").click()
    page.get_by_label("jobs at once").fill("7")
    page.get_by_label("starts").fill("100")
    page.get_by_label("within seconds").fill("60")
    page.get_by_role("button", name="Set limits").click()
    expect(page.get_by_text("The queue default: 7 at once, 100 starts in 60 s.")).to_be_visible()
    page.get_by_role("link", name="System").click()
    expect(page.get_by_role("cell", name="7 at once, 100 starts in 60 s")).to_be_visible()

    page.get_by_role("link", name="default").click()
    page.get_by_label("jobs at once").fill("")
    page.get_by_label("starts").fill("")
    page.get_by_role("button", name="Set limits").click()

    expect(page.get_by_text("The queue default: no limits.")).to_be_visible()


def test_event_shows_its_deliveries_when_it_is_opened(page: Page, stack: Stack) -> None:
    """Every subscription of the type stands there, handled."""
    order = {
        "customer_email": "a@example.com",
        "currency": "EUR",
        "items": [{"sku": "x", "quantity": 1, "unit_price_cents": 1}],
    }
    with stack.client() as client:
        order_id = client.post("/v1/orders", json=order).json()["id"]
    page.get_by_role("link", name="Events").click()
    page.get_by_label("subject").fill(order_id)
    page.get_by_role("button", name="Filter").click()

    page.locator("tbody a").first.click()

    expect(page.get_by_role("heading", name="orders.order.created")).to_be_visible()
    expect(page.get_by_role("cell", name="storefront.audit")).to_be_visible(timeout=20_000)
    expect(page.get_by_text("handled").first).to_be_visible(timeout=20_000)


def test_page_loads_nothing_from_elsewhere(stack: Stack, browser: Browser) -> None:
    """Every request goes to the API itself: the console works where there is no internet."""
    asked: list[str] = []
    page = browser.new_page()
    page.on("request", lambda request: asked.append(request.url))

    page.goto(f"{stack.where.api_url}/console")
    expect(page.get_by_label("API key")).to_be_visible()

    assert asked
    assert all(url.startswith(stack.where.api_url) for url in asked)
    page.close()
