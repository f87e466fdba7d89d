"""The example shop in a real browser: what people do to a form is one order."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.request import urlopen

import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.responses import HTMLResponse

from idemtable import upgrade as steps
from tests.servers import chromium
from tests.servers.ports import HOST
from tests.servers.process import new_home, remove
from tests.support.backends import needed
from tests.support.shop import ROOT, SHOP, Shop, open_shop

try:
    from playwright.sync_api import Browser, Error, Locator, Page, Request, Response, Route, expect, sync_playwright
except ImportError:  # as for a server that is missing
    reason = "playwright is not installed; `make test` does"
    if os.environ.get("CI"):
        raise
    pytest.skip(f"!!! NOT TESTED !!! {reason}", allow_module_level=True)

LARGEST = 60_000  # bytes of a screenshot: a checkout stays small


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    home = new_home("chromium")
    try:
        with needed():
            found = chromium(home)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=found.program, env=found.environment)
            yield browser
            browser.close()
    finally:
        remove(home)


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    with open_shop() as shop:
        yield shop


@pytest.fixture
def page(browser: Browser, shop: Shop) -> Iterator[Page]:
    """A visitor who has just come in."""
    context = browser.new_context(viewport={"width": 720, "height": 420})
    page = context.new_page()
    page.goto(shop.address)
    yield page
    context.close()


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    with socket.socket() as listening:
        listening.bind((HOST, 0))
        listening.listen()  # whoever comes before the server does waits
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://{HOST}:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def button(page: Page, name: str = "Buy") -> Locator:
    return page.get_by_role("button", name=name, exact=True)


def is_post(request: Request) -> bool:
    return request.method == "POST"


def double_click(page: Page) -> None:
    """Click twice, at a person's pace: at once, the first request may be cancelled before it has left."""
    button(page).hover()
    for count in (1, 2):
        with page.expect_request(is_post):
            press(page, count)


def press(page: Page, count: int = 1) -> None:
    """Press where the mouse is. `click` would wait until the page that comes of it is there."""
    page.mouse.down(click_count=count)
    page.mouse.up(click_count=count)


def replayed(response: Response | None) -> bool:
    assert response is not None
    return response.headers.get("idempotent-replayed") == "true"


def test_make_shop_opens_it_with_its_tables_made(shop: Shop) -> None:
    with urlopen(f"{shop.address}/docs") as answer:
        assert answer.status == 200
    assert steps.check(f"sqlite:///{shop.path}") == []
    told = subprocess.run(["make", "-C", ROOT, "help"], capture_output=True, text=True, check=True).stdout
    assert re.search(r"^shop +\S", told, re.MULTILINE)


def test_a_double_click_on_buy_is_one_order(shop: Shop, page: Page) -> None:
    before = shop.orders()
    with shop.held():  # the first must not be done before the second click
        double_click(page)
    page.wait_for_url("**/orders/*")
    assert shop.orders() == before + 1
    page.goto(shop.address)
    expect(page.locator("tr.order")).to_have_count(1)


def test_a_double_click_is_one_order_where_the_browser_does_not_cancel_the_first_request(
    shop: Shop, page: Page
) -> None:
    """Then no hanging up rolls it back: both are done to the end, and only the token tells that they are one."""
    before, answers = shop.orders(), []

    def carry(route: Route) -> None:
        answers.append(route.fetch(max_redirects=0))
        with suppress(Error):  # the browser waits for the second only
            route.fulfill(response=answers[-1])

    page.route("**/checkout", carry)
    with shop.held():
        double_click(page)
    page.wait_for_url("**/orders/*")
    page.unroute_all(behavior="wait")
    assert [answer.status for answer in answers] == [303, 303]
    assert sorted("idempotent-replayed" in answer.headers for answer in answers) == [False, True]
    assert shop.orders() == before + 1


def test_a_double_click_is_two_orders_where_nothing_is_done_about_it(browser: Browser) -> None:
    app, both, orders = FastAPI(), threading.Barrier(2), []

    @app.get("/", response_class=HTMLResponse)
    def form() -> str:
        return '<form method="post"><button>Buy</button></form>'

    @app.post("/", response_class=HTMLResponse)
    def buy() -> str:
        orders.append("tea")
        both.wait(timeout=30)  # the first must not be done before the second click
        return "Thank you"

    with served(app) as address, browser.new_context() as context:
        page = context.new_page()
        page.goto(address)
        double_click(page)
        expect(page.get_by_text("Thank you")).to_be_visible()
    assert orders == ["tea", "tea"]


def test_reloading_the_page_of_an_order_asks_for_nothing(shop: Shop, page: Page) -> None:
    before, posts = shop.orders(), []
    button(page).click()
    page.wait_for_url("**/orders/*")
    page.on("request", lambda request: posts.extend([request] if is_post(request) else []))
    page.reload()
    expect(page.locator("#receipt")).to_be_visible()
    assert posts == []
    assert shop.orders() == before + 1


def test_reloading_the_answer_to_the_form_itself_sends_it_again_and_gets_the_replay(shop: Shop, page: Page) -> None:
    before = shop.orders()
    with page.expect_response("**/checkout/here") as first:
        button(page, "Buy without a redirect").click()
    receipt = page.locator("#receipt").inner_text()
    assert not replayed(first.value)
    with page.expect_request(is_post):
        again = page.reload()
    assert replayed(again)
    assert page.locator("#receipt").inner_text() == receipt
    assert shop.orders() == before + 1


@pytest.mark.parametrize("name", ["Buy", "Buy without a redirect"])
def test_going_back_and_sending_the_form_again_is_one_order(shop: Shop, page: Page, name: str) -> None:
    before = shop.orders()
    button(page, name).click()
    receipt = page.locator("#receipt").inner_text()
    page.go_back()
    with page.expect_response(lambda response: is_post(response.request)) as again:
        button(page, name).click()
    assert replayed(again.value)
    assert page.locator("#receipt").inner_text() == receipt
    assert shop.orders() == before + 1


def test_one_form_with_its_answer_in_two_tabs_is_one_order(shop: Shop, page: Page) -> None:
    before = shop.orders()
    with page.context.expect_page() as opened:
        button(page).click(modifiers=["Control"])  # the answer comes in a new tab, and the form stays here
    opened.value.wait_for_url("**/orders/*")
    with page.expect_response(lambda response: is_post(response.request)) as second:
        button(page).click()
    page.wait_for_url(opened.value.url)
    assert replayed(second.value)
    assert shop.orders() == before + 1


def test_a_form_for_something_else_is_refused_and_the_screenshots_show_it(shop: Shop, page: Page) -> None:
    before = shop.orders()
    page.get_by_label("Item").select_option("cake")
    page.get_by_label("Quantity").fill("2")
    shoot(page, "form")
    button(page).click()
    expect(page.locator("#receipt")).to_contain_text("2 × cake, € 9.00")
    shoot(page, "order")
    page.go_back()
    page.get_by_label("Item").select_option("coffee")
    button(page).click()
    expect(page.get_by_role("heading")).to_have_text("This form was used before")
    shoot(page, "refused")
    page.get_by_role("link").click()
    expect(page.locator("tr.order")).to_have_count(1)
    shoot(page, "orders")
    assert shop.orders() == before + 1


def shoot(page: Page, name: str) -> None:
    if folder := os.environ.get("IDEMTABLE_TEST_SCREENSHOTS"):
        page.screenshot(path=ROOT / folder / f"{name}.png")


def test_the_screenshots_in_the_documentation_are_small() -> None:
    taken = {path.stem: path.stat().st_size for path in (SHOP / "screenshots").glob("*.png")}
    assert set(taken) == {"form", "order", "refused", "orders"}
    assert max(taken.values()) < LARGEST
