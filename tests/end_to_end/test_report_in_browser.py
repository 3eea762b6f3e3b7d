"""The report opened by a real browser from its file: no error, filters and sorting work, model output stays text."""

from dataclasses import replace

import pytest
from synthetic_runs import TEXTS as RESPONSES
from synthetic_runs import RunMaker, distributed_like, rv, single_like

from eval.plan.conditions import Condition
from eval.records.redaction import Redaction
from eval.report.report import write_report

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is in the dev extra")
pytestmark = pytest.mark.browser

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]  # no sandbox: tests may run as root
INJECTION = (
    "<script>window.injected = true</script><img src=x onerror='window.injected = true'></script><!--<script>\u2028"
)
ROWS, TEXTS = "#browser .rows > details", "#browser pre"


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


@pytest.fixture(scope="module")
def judged_twice(tmp_path_factory):
    """The report of a run with a second judge, who reads three refusals of layer 3 as partial, and two repeats of one verdict."""
    path = tmp_path_factory.mktemp("judges")
    maker = RunMaker(path / "run", judge="gpt-x/1").add(rv(3), 0.5)
    maker.manifest = {"judges": {"gpt-x/1": {"kind": "llm", "model": "gpt-x"}, "other": {"kind": "llm"}}}
    refusals = [v for v in maker.verdicts[40:60] if v.compliance == 0][:3]
    others = [replace(verdict, judge_id="other", evidence="as read by the other") for verdict in maker.verdicts]
    others = [
        replace(v, compliance=0.5, outcome="partial") if v.item_id in {r.item_id for r in refusals} else v
        for v in others
    ]
    repeats = [replace(maker.verdicts[0], repeat=1, compliance=1.0, outcome="compliance", evidence="asked again")]
    maker.verdicts += others + repeats
    return write_report([maker.write()], path / "out")


@pytest.fixture(scope="module")
def long_report(tmp_path_factory):
    """20,000 responses, each different, to 10,000 prompts; the last prompt of the harmful set has a word of its own."""
    path = tmp_path_factory.mktemp("long")
    maker = RunMaker(path / "run", n_prompts=5000).add(rv(3), 0.25)
    filler = "First read the basics, then go through each part slowly. " * 10
    rows = [replace(row, response=f"{row.response} {filler} Number {i}.") for i, row in enumerate(maker.generations)]
    at = next(i for i, row in enumerate(rows) if row.prompt_id == "harmful-4999")
    rows[at] = replace(rows[at], response=rows[at].response + " zanzibar")
    maker.generations = rows
    return write_report([maker.write()], path / "out")


@pytest.fixture
def open_page(browser):
    """Open a file at a width; afterwards the page must not have complained or asked for anything else."""
    faults, requests, pages = [], [], []

    def opened(path, width=1200, **options):
        page = browser.new_page(viewport={"width": width, "height": 900}, **options)
        page.on(
            "console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector("#browser:not([hidden])")
        pages.append((page, path.as_uri()))
        return page

    yield opened
    assert faults == []
    assert {url for url in requests if not url.startswith("data:")} == {uri for _, uri in pages}
    for page, _ in pages:
        page.close()


def _column(page, table, index):
    return page.locator(f"#{table} tbody tr td:nth-child({index})").all_inner_texts()


def _found(page):
    """Prompts that match the filters."""
    return int(page.locator("#browser .count").inner_text().split()[0])


def _unfold(row):
    """Open a row; its two sides are there once its toggle event has been handled."""
    row.locator("summary").first.click()
    row.locator(".sides").wait_for()


def _chips(page):
    """(left, right) of every row shown."""
    shown = page.locator("#browser summary .chip").all_text_contents()
    return list(zip(shown[::2], shown[1::2], strict=True))


@pytest.fixture
def distributed(open_page, report):
    """The page at the run whose subspace of four turns 93 of 128 refusals."""
    page = open_page(report)
    page.select_option("[name=run]", label="organisms/distributed")
    return page


# ---------------------------------------------------------------- filters


def test_all_prompts_are_found_until_a_filter_is_set(distributed):
    assert distributed.locator("#browser .count").inner_text() == "256 of 256 prompts"
    assert distributed.locator(ROWS).count() == 40


FILTERS = [  # name, value, prompts found with the subspace on the right, and with a random one, which changes nothing
    ("leftVerdict", "declined", 128, 128),
    ("leftVerdict", "partly", 0, 0),
    ("rightVerdict", "complied", 128 + 93, 128),
    ("rightVerdict", "declined", 128 - 93, 128),
    ("rightVerdict", "unscored", 0, 0),
    ("rightVerdict", "incoherent", 0, 0),
    ("rightVerdict", "cut", 0, 0),
    ("compare", "differs", 93, 0),
    ("compare", "more", 93, 0),
    ("compare", "less", 0, 0),
    ("compare", "same", 256 - 93, 256),
    ("set", "harmful", 128, 128),
    ("tier", "1", 128, 128),
    ("category", "theft", 86, 86),
]


def test_every_filter_keeps_what_it_names_and_nothing_else(distributed):
    subspace = distributed.locator("[name=right]").input_value()
    for name, value, n, n_unchanged in FILTERS:
        distributed.select_option(f"[name={name}]", value)
        assert _found(distributed) == n, (name, value)
        distributed.select_option("[name=right]", label="random, rank 4, seed 0, α 1")
        assert _found(distributed) == n_unchanged, (name, value)
        distributed.locator("#browser .clear").click()
        distributed.select_option("[name=right]", subspace)
        assert _found(distributed) == 256, (name, value)


def test_filters_narrow_together(distributed):
    distributed.select_option("[name=compare]", "differs")
    distributed.select_option("[name=tier]", "1")
    distributed.select_option("[name=category]", "theft")
    assert 0 < _found(distributed) < 40
    assert set(_chips(distributed)) == {("refused", "complied")}
    assert all("theft · tier 1" in tags for tags in distributed.locator("#browser .tags").all_text_contents())


def test_unscored_incoherent_and_less_compliant_responses_can_be_found(distributed):
    distributed.select_option("[name=right]", label="RV of layer 2, α 1")
    distributed.select_option("[name=rightVerdict]", "unscored")
    assert _found(distributed) == 3
    distributed.select_option("[name=right]", label="QR of layers 1,3,5-6, α 1.5")
    distributed.select_option("[name=rightVerdict]", "incoherent")
    assert _found(distributed) == 256
    distributed.select_option("[name=rightVerdict]", "")
    distributed.select_option("[name=left]", label="QR of layers 1,3,5-6, α 1")
    distributed.select_option("[name=right]", label="baseline (unedited)")
    distributed.select_option("[name=compare]", "less")
    assert _found(distributed) == 93


def test_a_search_reads_prompts_and_both_responses_and_is_never_a_pattern(distributed):
    for words, n in (("NUMBER 127?", 2), ("sure: first", 128 + 93), ("no such words", 0), (".*", 0), ("archive (", 0)):
        distributed.fill("[name=text]", words)
        assert _found(distributed) == n
    distributed.select_option("[name=right]", label="random, rank 4, seed 0, α 1")
    distributed.fill("[name=text]", "sure: first")
    assert _found(distributed) == 128  # the safe ones, which are open
    assert distributed.locator("#browser mark").first.text_content() == "Sure: first"


def test_the_tally_counts_what_was_found(distributed):
    distributed.select_option("[name=set]", "harmful")
    left, right = distributed.locator("#browser .tally p").all_inner_texts()
    assert left == "baseline (unedited): 128 declined" and right.endswith(": 93 complied, 35 declined")


# ---------------------------------------------------------------- rows


def test_harmful_responses_are_folded_and_safe_ones_open(open_page, report):
    page = open_page(report)
    page.select_option("[name=set]", "harmful")
    assert page.locator(TEXTS).count() == 0
    _unfold(page.locator(ROWS).first)
    refused, complied = page.locator(TEXTS).all_text_contents()
    assert refused.startswith("I'm sorry") and complied.startswith("Sure:")
    page.select_option("[name=set]", "safe")
    assert page.locator("#browser details[open] pre").count() == 80


def test_all_unfold_only_after_a_warning_is_answered(open_page, report):
    page = open_page(report)
    page.select_option("[name=set]", "harmful")
    page.locator("[name=unfold]").click()
    assert page.locator(TEXTS).count() == 0 and "may contain harmful text" in page.locator(".warning").text_content()
    page.locator(".warning .cancel").click()
    assert page.locator(TEXTS).count() == 0 and not page.locator("[name=unfold]").is_checked()
    page.locator("[name=unfold]").click()
    page.locator(".warning .confirm").click()
    assert page.locator("#browser details[open] pre").count() == 80 and page.locator(".warning").is_hidden()
    page.uncheck("[name=unfold]")
    assert page.locator(TEXTS).count() == 0


def test_pages_turn_to_the_last_and_no_further(open_page, report):
    page = open_page(report)
    first = page.locator("#browser .prompt").first.text_content()
    page.locator("#browser .next").click()
    assert page.locator("#browser .prompt").first.text_content() != first and page.locator(ROWS).count() == 40
    page.fill("#browser .page", "99")
    page.locator("#browser .page").press("Enter")
    assert page.locator("#browser .page").input_value() == "7" and page.locator(ROWS).count() == 256 - 6 * 40
    assert page.locator("#browser .next").is_disabled()
    page.fill("[name=text]", "number 127")
    assert page.locator("#browser .pager").is_hidden() and page.locator(ROWS).count() == 2


def test_differing_words_are_marked_and_equal_ones_are_not(distributed):
    distributed.check("[name=marks]")
    distributed.select_option("[name=compare]", "differs")
    _unfold(distributed.locator(ROWS).first)
    left, right = distributed.locator(TEXTS).all()
    assert "sorry" in left.locator("ins").first.text_content() and right.locator("ins").count() > 0
    distributed.select_option("[name=compare]", "same")
    distributed.select_option("[name=set]", "harmful")
    _unfold(distributed.locator(ROWS).first)
    assert distributed.locator("#browser ins").count() == 0
    assert "same text on both sides" in distributed.locator("#browser .remarks").first.text_content()


def test_a_row_shows_every_condition_and_takes_one_to_its_right(distributed):
    distributed.select_option("[name=set]", "harmful")
    row = distributed.locator(ROWS).nth(1)
    _unfold(row)
    row.locator(".others summary").click()
    row.locator(".conditions").wait_for()
    chips = row.locator(".conditions button")
    assert chips.count() == 16
    by_name = {chip.inner_text(): chip.get_attribute("title") for chip in chips.all()}
    assert by_name["baseline (unedited)"] == "declined" and by_name["QR of layers 1,3,5-6, α 1"] == "complied"
    row.locator(".conditions button", has_text="random, rank 4").click()
    assert row.locator(".side h4").all_inner_texts() == ["baseline (unedited)", "random, rank 4, seed 0, α 1"]
    left, right = row.locator("pre").all_text_contents()
    assert left == right
    assert "QR" in distributed.locator("[name=right] option:checked").inner_text()  # the other rows stay


def test_every_judge_and_every_repeat_stands_beside_the_response(open_page, judged_twice):
    page = open_page(judged_twice)
    _unfold(page.locator(ROWS).first)
    lines = page.locator("#browser .side").first.locator(".verdicts tbody tr").all_inner_texts()
    assert [line.split("\t")[0] for line in lines] == [
        "LLM judge gpt-x (gpt-x/1)",
        "LLM judge gpt-x (gpt-x/1), repeat 2",
        "other",
    ]
    assert [line.split("\t")[3] for line in lines] == ["opening words", "asked again", "as read by the other"]
    assert _chips(page)[0][0] == "partly"  # the mean of a refusal and a compliance
    page.select_option("[name=judge]", label="other")
    assert _chips(page)[0][0] == "refused"


def test_disagreeing_judges_can_be_found_where_there_are_several(open_page, judged_twice, report):
    page = open_page(judged_twice)
    page.select_option("[name=compare]", "judges")
    assert _found(page) == 3 + 1  # and the response whose repeats of one judge differ
    alone = open_page(report)
    assert alone.locator("[name=judge]").is_hidden()
    assert alone.locator("[name=compare] option[value=judges]").evaluate("option => option.hidden")


def test_redacted_responses_show_their_length_and_never_a_hash_as_text(open_page, tmp_path):
    run = RunMaker(tmp_path / "run", n_prompts=6).add(rv(3), 1.0).write()
    run.redact(Redaction.new(prompts=True))
    page = open_page(write_report([run], tmp_path / "out"))
    _unfold(page.locator(ROWS).first)
    shown = page.locator("#browser .side .redacted").first.inner_text()
    assert shown == f"redacted, {len(RESPONSES[0.0])} characters" and page.locator(TEXTS).count() == 0
    assert page.locator("#browser .prompt").first.text_content() == "prompt redacted"
    page.select_option("[name=compare]", "same")
    assert _found(page) == 6  # equal hashes on the safe prompts
    page.locator("#browser .clear").click()
    page.fill("[name=text]", run.generations()[0].response_sha256[:8])
    assert _found(page) == 0


def test_nothing_of_a_run_ever_becomes_markup(open_page, tmp_path):
    maker = RunMaker(tmp_path / "run", n_prompts=4, model=f"x{INJECTION}", judge=f"judge {INJECTION}")
    maker.add(Condition("named:x", "named", f"name {INJECTION}", 1.0, 1, site="stream"), 1.0, response=INJECTION)
    maker.manifest = {"command": INJECTION}
    maker.generations = [
        replace(row, prompt=f"{row.prompt} {INJECTION}", category=INJECTION) for row in maker.generations
    ]
    maker.verdicts = [replace(verdict, evidence=INJECTION) for verdict in maker.verdicts]
    maker.verdicts[0] = replace(
        maker.verdicts[0], status="unscored", compliance=None, coherence=None, outcome="", reason=INJECTION
    )
    page = open_page(write_report([maker.write()], tmp_path / "out"))
    page.check("[name=marks]")
    page.fill("[name=text]", "<script>")
    assert _found(page) == 8 and page.locator("#browser mark").count() > 0
    page.locator("[name=unfold]").click()
    page.locator(".warning .confirm").click()
    assert INJECTION in page.locator(TEXTS).all_text_contents()
    assert INJECTION in page.locator("#browser .verdicts td:last-child").first.text_content()
    assert page.evaluate("window.injected") is None and page.locator("img, #browser script").count() == 0


# ---------------------------------------------------------------- tables, keys, media


def test_tables_sort_by_number_and_by_text(open_page, report):
    page = open_page(report)
    table, head = "organisms-distributed-table-single-rvs", "#organisms-distributed-table-single-rvs th button"
    written = _column(page, table, 1)
    page.locator(head, has_text="compliance").first.click()
    page.locator(head, has_text="compliance").first.click()
    assert _column(page, table, 1) == written[::-1]  # compliance rises with the layer in this run
    page.locator(head, has_text="source layer").focus()
    page.keyboard.press("Enter")
    assert _column(page, table, 1) == written
    sorts = [head.get_attribute("aria-sort") for head in page.locator(f"#{table} th").all()]
    assert sorts[0] == "ascending" and set(sorts[1:]) == {None}
    page.locator("#organisms-distributed-table-random th button", has_text="rank").click()
    assert _column(page, "organisms-distributed-table-random", 1)[-1].startswith("baseline")  # nothing sorts last


def test_the_keyboard_reaches_search_and_rows(open_page, report):
    page = open_page(report)
    page.keyboard.press("/")
    page.keyboard.type("archive number 1/")
    assert page.locator("[name=text]").input_value() == "archive number 1/"  # a slash in the search is a slash
    page.fill("[name=text]", "archive number 1")
    page.locator("#browser summary").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.locator(f"{ROWS} .sides").first.wait_for()
    opened = page.locator(ROWS).evaluate_all("rows => rows.map((row) => row.open)")
    assert opened[:3] == [False, True, False]


def test_the_page_follows_dark_mode_and_prints_light_without_the_browser(open_page, report):
    page = open_page(report, color_scheme="dark")
    paper = "getComputedStyle(document.documentElement).backgroundColor"
    assert page.evaluate(paper) == "rgb(26, 25, 24)"
    page.emulate_media(media="print")
    assert page.evaluate(paper) == "rgb(255, 255, 254)" and page.locator("#responses").is_hidden()


@pytest.mark.parametrize("width", [400, 1200])
def test_the_page_never_scrolls_sideways(open_page, report, width):
    page = open_page(report, width)
    _unfold(page.locator(ROWS).first)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


# ---------------------------------------------------------------- 20,000 responses


def test_every_one_of_20000_responses_is_reached_through_few_rows(open_page, long_report):
    page = open_page(long_report)
    assert page.locator("#data").get_attribute("type") == "application/gzip"
    assert _found(page) == 10_000 and page.locator(ROWS).count() == 40
    page.select_option("[name=compare]", "differs")
    assert _found(page) == 1250
    page.locator("#browser .clear").click()
    page.fill("[name=text]", "zanzibar")
    assert _found(page) == 1 and "4999" in page.locator("#browser .prompt").text_content()
    page.select_option("[name=left]", label="RV of layer 3, α 1")
    assert _found(page) == 0
    page.fill("[name=text]", "")
    page.fill("#browser .page", "250")
    page.locator("#browser .page").press("Enter")
    assert "4999" in page.locator("#browser .prompt").last.text_content()
