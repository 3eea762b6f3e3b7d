"""The report opened by a real browser from its file: no error, filters and sorting work, model output stays text."""

import pytest
from synthetic_runs import RunMaker, distributed_like, rv, single_like

from eval.report.report import write_report

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is in the dev extra")
pytestmark = pytest.mark.browser

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]  # no sandbox: tests may run as root
INJECTION = "<script>window.injected = true</script><img src=x onerror='window.injected = true'></script>"


@pytest.fixture(scope="module")
def browser(chromium):
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path = tmp_path_factory.mktemp("browser")
    return write_report([single_like(path / "s").write(), distributed_like(path / "d").write()], path / "out")


@pytest.fixture
def open_page(browser):
    """Open a file at a width; afterwards the page must not have complained or asked for anything else."""
    faults, requests, pages = [], [], []

    def opened(path, width=1200):
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.on(
            "console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        pages.append((page, path.as_uri()))
        return page

    yield opened
    assert faults == []
    assert {url for url in requests if not url.startswith("data:")} == {uri for _, uri in pages}
    for page, _ in pages:
        page.close()


def _column(page, table, index):
    return page.locator(f"#{table} tbody tr td:nth-child({index})").all_inner_texts()


def test_filters_change_what_is_shown(open_page, report):
    page = open_page(report)
    count = page.locator("#browser .count")
    assert count.inner_text().startswith("256 of 256 prompts, 40 shown.")
    page.select_option("[name=run]", label="organisms/distributed")
    page.select_option("[name=verdict]", "differs")
    assert count.inner_text().startswith("93 of 256")  # the subspace of four turns 93 of 128 refusals
    page.select_option("[name=tier]", "1")
    page.select_option("[name=category]", "theft")
    narrowed = int(count.inner_text().split()[0])
    assert 0 < narrowed < 93 and page.locator("#browser details").count() == narrowed
    page.fill("[name=text]", "no such prompt")
    assert page.locator("#browser details").count() == 0
    page.fill("[name=text]", "")
    page.select_option("[name=right]", label="random, rank 4, seed 0, α 1")
    assert count.inner_text().startswith("0 of 256")  # a random subspace changes nothing


def test_unscored_responses_can_be_found(open_page, report):
    page = open_page(report)
    page.select_option("[name=run]", label="organisms/distributed")
    page.select_option("[name=right]", label="RV of layer 2, α 1")
    page.select_option("[name=verdict]", "unscored")
    assert page.locator("#browser details").count() == 3


def test_harmful_responses_are_folded_and_safe_ones_open(open_page, report):
    page = open_page(report)
    page.select_option("[name=set]", "harmful")
    assert page.locator("#browser pre").count() == 0
    page.locator("#browser summary").first.click()
    refused, complied = page.locator("#browser pre").all_inner_texts()
    assert refused.startswith("I'm sorry") and complied.startswith("Sure:")
    page.select_option("[name=set]", "safe")
    assert page.locator("#browser details[open] pre").count() == 80


def test_more_rows_come_when_asked_for(open_page, report):
    page = open_page(report)
    page.locator("#browser .more").click()
    assert page.locator("#browser details").count() == 80
    page.fill("[name=text]", "number 127")
    assert page.locator("#browser .more").is_hidden()


def test_tables_sort_by_number_and_by_text(open_page, report):
    page = open_page(report)
    table, head = "organisms-distributed-table-single-rvs", "#organisms-distributed-table-single-rvs th button"
    written = _column(page, table, 1)
    page.locator(head, has_text="compliance").first.click()
    page.locator(head, has_text="compliance").first.click()
    assert _column(page, table, 1) == written[::-1]  # compliance rises with the layer in this run
    page.locator(head, has_text="source layer").click()
    assert _column(page, table, 1) == written
    page.locator("#organisms-distributed-table-random th button", has_text="rank").click()
    assert _column(page, "organisms-distributed-table-random", 1)[-1].startswith("baseline")  # nothing sorts last


def test_model_output_never_becomes_markup(open_page, tmp_path):
    run = RunMaker(tmp_path / "run", n_prompts=4).add(rv(3), 1.0, response=INJECTION).write()
    page = open_page(write_report([run], tmp_path / "out"))
    for summary in page.locator("#browser summary").all()[:2]:
        summary.click()
    assert INJECTION in page.locator("#browser pre").all_inner_texts()
    assert page.evaluate("window.injected") is None


@pytest.mark.parametrize("width", [400, 1200])
def test_the_page_never_scrolls_sideways(open_page, report, width):
    page = open_page(report, width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
