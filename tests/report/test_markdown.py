"""The comment on a pull request."""

from dataclasses import replace
from html.parser import HTMLParser

from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rendered_runs import RUNS, case_outcome, claim, large_run, run_outcome, sweep_outcome

from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.verdict import Status
from pytest_slmperf.report.markdown import COMMENT_LIMIT, escape, markdown

OURS = {"h3", "h4", "p", "ul", "li", "strong", "pre", "code", "details", "summary"}
OURS |= {"table", "thead", "tbody", "tr", "th", "td"}
PARSER = MarkdownIt("commonmark", {"html": True}).enable("table")


class Shown(HTMLParser):
    """The text that a reader sees, and the tags that it is made of."""

    def __init__(self):
        super().__init__()
        self.text = ""
        self.tags = []

    def handle_data(self, data):
        self.text += data

    def handle_starttag(self, tag, _attributes):
        self.tags.append(tag)


def shown(text):
    page = Shown()
    page.feed(PARSER.render(text))
    return page


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zs", "Zl", "Zp", "Cf"]), min_size=1))
def test_escaped_text_is_shown_as_it_is(text):
    """Whatever a reason says, the reader sees it, as text in one table cell and nothing else."""
    page = shown(f"| head | next |\n|---|---|\n| {escape(text)} | end |")
    seen = page.text.replace("\u200b", "")
    assert text in seen
    assert page.tags == ["table", "thead", "tr", "th", "th", "tbody", "tr", "td", "td"]


def test_nobody_is_called():
    """A name after an @ in a reason mentions nobody."""
    assert "@a" not in escape("ask @anna or mail it to a@b.example").replace("a@b.example", "")


@settings(max_examples=40)
@given(RUNS)
def test_any_run_is_rendered(run):
    """Whatever came out of a run, every folded part is closed again and only our own elements are there."""
    page = shown(markdown(run))
    text = markdown(run)
    assert text.count("<details>") == text.count("</details>")
    assert set(page.tags) <= OURS


def test_failures_come_first_and_passes_are_folded():
    """What failed stands in a table at the top, what passed is folded away below it."""
    cases = [case_outcome(1), case_outcome(4, Status.INCONCLUSIVE), case_outcome(16, Status.REGRESSED)]
    text = markdown(run_outcome(sweep_outcome(*cases)))
    order = ["❌ regressed", "❌ inconclusive", "<details><summary>4 passed</summary>", "✅ unchanged"]
    assert [text.index(seen) for seen in order] == sorted(text.index(seen) for seen in order)
    assert "opt-125m/batch=16 | output_throughput | 2085 | 1874 tok/s | -10.1% (-10.7…-9.5) | 3.0% | 1.4%" in text


def test_what_can_not_be_judged_and_is_not_red_is_folded_by_itself():
    """Joules of another board, or that nothing tells, are no failure of a run that passed."""
    case = case_outcome(4, Status.UNMEASURED)
    unjudged = replace(case.verdicts["output_throughput"], judged=False)
    case = replace(case, verdicts={**case.verdicts, "output_throughput": unjudged})
    text = markdown(run_outcome(sweep_outcome(case)))
    assert "❌" not in text
    assert text.index("<details><summary>1 not judged</summary>") < text.index("➖ not judged")


def test_the_way_out_is_a_block_of_code():
    """The command that accepts a change can be copied from a block of code, backticks in it or not."""
    case = case_outcome(4, Status.REGRESSED)
    slow = replace(case.verdicts["output_throughput"], way_out="slmperf baselines accept `ls *.json`\n```")
    page = shown(markdown(run_outcome(sweep_outcome(replace(case, verdicts={"output_throughput": slow})))))
    assert "slmperf baselines accept `ls *.json`\n```" in page.text


def test_a_comment_has_a_limit():
    """A run too large for a comment is cut at whole rows, says how many are missing, and stays well-formed."""
    text = markdown(large_run(1_000))
    assert len(text) <= COMMENT_LIMIT
    assert "more lines did not fit here" in text
    assert text.count("<details>") == text.count("</details>") == 2
    assert text.count("regressed |") == 100


def test_problems_and_remarks():
    """What makes a run red beside the verdicts is said at the top, what is only worth knowing at the end."""
    run = run_outcome(sweep_outcome(case_outcome(4)), problems=("a case is stale\nslmperf baselines retire x",))
    run = replace(run, remarks=("the governor is powersave",))
    text = markdown(run)
    assert text.index("a case is stale") < text.index("slmperf baselines retire x") < text.index("#### decode")
    assert text.rstrip().endswith("- the governor is powersave")


def test_recorded():
    """A sweep that was recorded shows its medians and the tolerances that they support."""
    run = run_outcome(sweep_outcome(case_outcome(4), mode="accept"), recorded=True)
    text = markdown(run)
    assert "#### decode: recorded, not judged" in text
    assert "✅" not in text
    assert "#### decode: measured, and NOT recorded" in markdown(replace(run, recorded=False))


def test_what_is_asserted_beside_the_gate():
    """A stated limit that fails stands in a table with its reason below, one that passes is folded away with it."""
    claims = (
        claim("median_ttft_ms", Status.REGRESSED, reason="beyond the limit: 3 ms"),
        claim("knee", Status.UNCHANGED, reason="batch 16 → batch 16"),
    )
    text = markdown(run_outcome(sweep_outcome(case_outcome(4)), claims=claims))
    assert text.startswith("### slmperf: 3 unchanged, 1 regressed; ")
    table = text.partition("#### asserted beside the gate")[2]
    assert "| ❌ regressed | decode/opt-125m/batch=4 | median_ttft_ms |" in table.partition("<details>")[0]
    assert "beyond the limit: 3 ms" in table.partition("<details>")[0]
    assert "| ✅ unchanged | decode/opt-125m/batch=4 | knee | batch 16 → batch 16 |" in table.partition("<details>")[2]


def test_failed_tests_are_in_the_headline_and_folded():
    """However green its verdicts are, a run with a failed test says so first, and which test it was below."""
    text = markdown(run_outcome(sweep_outcome(case_outcome(4)), failed_tests=("test_suite.py::test_own[batch4]",)))
    assert text.startswith("### slmperf: 1 test failed; 2 unchanged; ")
    assert "test_suite.py::test_own[batch4]" in shown(text).text


def test_both_arms_are_named():
    """Below its heading, a comparison of two arms says what each of them is."""
    a, b = EngineSpec("fake", "opt-125m"), EngineSpec("fake", "opt-125m", "int8")
    text = markdown(run_outcome(sweep_outcome(design="interleaved", specs=(b,), baseline_specs=(a,))))
    assert "\nA: fake opt-125m, dtype=float32; B: fake opt-125m, dtype=int8\n" in text
