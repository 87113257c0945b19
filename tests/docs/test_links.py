"""Links of the documents as GitHub shows them. How the site shows docs/ is mkdocs' to check: `tox run -e docs`."""

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = (
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    *sorted(ROOT.glob("docs/**/*.md")),
)
FENCED = re.compile(r"^(`{3,}|~{3,}).*?^\1", re.MULTILINE | re.DOTALL)
"""A block in which `#` begins a comment."""
HEADING = re.compile(r"^#{1,6} +(.+?)[ #]*$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)[^)]*\)|^\[[^\]]+\]:\s+(\S+)", re.MULTILINE)
"""A link's target, where it is used or beside a name for it."""
ELSEWHERE = re.compile(r"[a-z][a-z+.-]*:")


def targets(text: str) -> list[str]:
    """What a page links to within the repository: a file, a file and its anchor, or an anchor of its own."""
    found = (used or named for used, named in LINK.findall(FENCED.sub("", text)))
    return [target for target in found if not ELSEWHERE.match(target)]


def anchors(text: str) -> set[str]:
    """What GitHub makes of a page's headings: without punctuation, and numbered where one comes again."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in HEADING.findall(FENCED.sub("", text)):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_link_leads_somewhere(page):
    """Each file that a document links to is there, and so is the heading that its anchor names."""
    broken = []
    for target in targets(page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        if not there.exists() or (anchor and anchor not in anchors(there.read_text(encoding="utf-8"))):
            broken.append(target)
    assert broken == []


def test_links_and_headings_are_found():
    """Code is no heading and holds no link; a link may be broken over lines, be an image, or stand beside its name."""
    page = """
# The `gate`, its [rule](a.md#rule) & more?
![drawn](b.svg) and [two
words](c.md "its title"), [named][d], [abroad](https://example.org/e.md)
## A heading
```python
# no heading [no link](f.md)
```
## A heading ##
[d]: #a-heading-1
"""
    assert targets(page) == ["a.md#rule", "b.svg", "c.md", "#a-heading-1"]
    assert anchors(page) == {"the-gate-its-rule--more", "a-heading", "a-heading-1"}
