"""The API page in a real browser: it shows and sends all operations, and keeps to its policy."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import sync_playwright

from sandbox.server.http.operations import OPERATIONS
from tests.server.plain import served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        program = shutil.which("chromium")
        yield playwright.chromium.launch(executable_path=program, args=ARGUMENTS)


def errors_of(page: Page) -> list[str]:
    """Filled with what the browser reports about the page from now on."""
    found: list[str] = []
    page.on("console", lambda message: found.append(message.text))
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on("requestfailed", lambda request: found.append(request.url))
    return found


def test_it_shows_every_operation_under_its_policy(browser: Browser, tmp_path: Path) -> None:
    with served(tmp_path) as server, browser.new_page() as page:
        errors = errors_of(page)
        page.goto(f"{server.client.base_url}/docs")
        page.wait_for_selector(".opblock")
        shown = {
            (block.get_attribute("data-path"), method.inner_text())
            for block, method in zip(
                page.locator("[data-path]").all(),
                page.locator(".opblock-summary-method").all(),
                strict=True,
            )
        }
        assert shown == {
            (operation.path, operation.method) for operation in OPERATIONS if operation.documented
        }
        page.locator(".opblock-summary").first.click()
        page.wait_for_selector(".opblock-body .parameters")
        assert not errors
        # The control: the browser reports what the policy forbids.
        page.evaluate("document.body.append(Object.assign(document.createElement('script'),"
                      " {textContent: 'window.ran = 1'}))")  # fmt: skip
        assert not page.evaluate("'ran' in window")
        assert any("Content Security Policy" in error for error in errors)


def test_it_sends_a_request_with_the_key_that_is_entered(browser: Browser, tmp_path: Path) -> None:
    with served(tmp_path, authentication="required") as server, browser.new_page() as page:
        key = server.key("read")["authorization"].removeprefix("Bearer ")
        errors = errors_of(page)
        page.goto(f"{server.client.base_url}/docs")
        page.locator("button.authorize").click()
        page.get_by_label("auth-bearer-value").fill(key)
        page.get_by_label("Apply credentials").first.click()
        page.get_by_role("button", name="Close").first.click()
        block = page.locator("#operations-functions-get_api_functions")
        block.locator(".opblock-summary").click()
        block.get_by_role("button", name="Try it out").click()
        block.get_by_role("button", name="Execute").click()
        assert (
            block.locator(".live-responses-table tbody .response-col_status").inner_text() == "200"
        )
        assert not errors
