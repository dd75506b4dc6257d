"""The MLflow pages of a study in a real browser: two clicks from the study to the arms compared."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import BrowserContext, Page, expect, sync_playwright
from small_study import write_study

from compose.stack import COMMAND, Stack

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = """
    --no-sandbox --disable-gpu --no-first-run --disable-background-networking
    --disable-component-update --disable-sync
""".split()
PATIENCE = 60_000.0  # milliseconds
ARMS = ("pretrained", "scratch")
STUDY = "browsed"
FIRST, SECOND = (f"split-000/{arm}" for arm in ARMS)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt install chromium")


@pytest.fixture(scope="module")
def browsed(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A study of two arms and two splits, trained from this machine by the worker's account."""
    file = write_study(tmp_path_factory.mktemp("browsed"))
    text = file.read_text().replace("[arm.one]", "[arm.pretrained]")
    file.write_text(text.replace("[arm.two]", "[arm.scratch]"))
    environ = stack.environ(stack.worker)
    stack.run(COMMAND, "run", str(file), "--set", f"name={STUDY}", timeout=600, **environ)


@pytest.fixture(scope="module")
def context(stack: Stack) -> Iterator[BrowserContext]:
    """A browser that has never been here before, of a person who logs in."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        login = {"username": stack.admin.name, "password": stack.admin.password}
        made = chromium.new_context(
            base_url=stack.uri,
            http_credentials=login,
            viewport={"width": 1200, "height": 750},
        )
        made.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        yield made
        chromium.close()


@pytest.fixture
def study_page(context: BrowserContext, browsed: None) -> Iterator[Page]:
    """The study's page, come to from the list of experiments."""
    del browsed
    page = context.new_page()
    page.goto("/#/experiments")
    page.get_by_test_id("experiment-list-item-link").filter(has_text=STUDY).click()
    expect(page.get_by_role("link", name=FIRST)).to_be_visible()
    yield page
    page.close()


def keep(page: Page, name: str) -> None:
    """Keep a picture of the page where the caller asks for pictures."""
    if folder := os.environ.get("UI_PICTURES"):
        if (banner := page.get_by_role("button", name="Exit shared view")).count():
            banner.locator("xpath=following-sibling::button").click()
        page.wait_for_timeout(4000)  # charts move into place
        page.screenshot(path=Path(folder) / f"ui-{name}.png")


def test_two_clicks_lead_from_the_study_to_its_arms_compared(study_page: Page) -> None:
    link = study_page.get_by_role("link", name="Compare pretrained with scratch")
    with study_page.context.expect_page() as opened:
        link.click()
    page = opened.value
    for arm in ARMS:
        expect(page.get_by_text(f"Group: {arm}", exact=True)).to_be_visible()
    expect(page.get_by_test_id("saved-views-trigger")).to_have_text("Arms")
    for section in ("Accuracy and loss", "Recall of each class", "Whole runs"):
        expect(page.get_by_text(section).first).to_be_attached()
    for metric in ("test_accuracy", "train_accuracy"):
        expect(page.get_by_text(metric, exact=True).first).to_be_visible()
    expect(page.locator(".scatterlayer .trace").nth(1)).to_be_attached()
    assert page.get_by_text("Error loading shared view").count() == 0
    keep(page, "charts")
    page.close()


def test_two_runs_compared_show_both_curves(study_page: Page) -> None:
    for run in (FIRST, SECOND):
        row = study_page.get_by_role("row").filter(has=study_page.get_by_role("link", name=run))
        row.get_by_role("checkbox").first.check()
    study_page.get_by_role("button", name="Compare", exact=True).click()
    expect(study_page.get_by_text("Comparing 2 Runs from 1 Experiment")).to_be_visible()
    study_page.get_by_role("link", name="test_accuracy", exact=True).first.click()
    for run in (FIRST, SECOND):
        expect(study_page.get_by_text(f"{run} (test_accuracy)")).to_be_visible()
    expect(study_page.locator(".scatterlayer .trace").nth(1)).to_be_attached()  # flat: no height
    keep(study_page, "compare")


def test_a_run_shows_its_confusion_matrix(study_page: Page) -> None:
    study_page.get_by_role("link", name=FIRST).click()
    study_page.get_by_role("tab", name="Artifacts").click()
    study_page.get_by_text("figures", exact=True).click()
    for name in ("curves.png", "recall.png"):
        expect(study_page.get_by_text(name, exact=True)).to_be_visible()
    study_page.get_by_text("confusion.png", exact=True).click()
    picture = study_page.locator("img[src^='blob:']").first
    expect(picture).to_be_visible()
    width, height = picture.evaluate("image => [image.naturalWidth, image.naturalHeight]")
    assert 300 <= height <= width <= 1000
    keep(study_page, "confusion")


def test_the_description_explains_the_study(stack: Stack, browsed: None) -> None:
    del browsed
    session = stack.session(stack.admin)
    where = f"{stack.uri}/api/2.0/mlflow/experiments/get-by-name"
    answer = session.get(where, params={"experiment_name": STUDY}, timeout=30)
    experiment = json.loads(answer.text)["experiment"]
    note = {tag["key"]: tag["value"] for tag in experiment["tags"]}["mlflow.note.content"]
    link = note.partition("](")[2].partition(")")[0]
    split = urlsplit(urlsplit(link).fragment)
    assert split.path == f"/experiments/{experiment['experiment_id']}/runs"
    assert parse_qs(split.query)["compareRunsMode"] == ["CHART"]
    assert "| `schedule` | constant | cosine |" in note
