"""The concept pages: their code runs with its assertions, and their tables name every choice."""

import re
from pathlib import Path

import pytest

from ppl_vae import evidence, likelihoods, networks, objectives, posteriors, priors, refinement
from ppl_vae.families import missingness

DOCS = Path(__file__).resolve().parent.parent / "docs"
CELL = re.compile(
    r"^```\{code-cell\}[^\n]*\n(?:---\n(?P<options>.*?)\n---\n)?(?P<code>.*?)^```", re.M | re.S
)
PAGES = [
    path
    for path in [DOCS / "concepts.md", *sorted((DOCS / "concepts").rglob("*.md"))]
    if "{code-cell}" in path.read_text(encoding="utf-8")
]
TABLES = {
    "priors": priors.__all__,
    "likelihoods": likelihoods.__all__,
    "posteriors": posteriors.__all__,
    "networks": [*networks.__all__, *missingness.__all__],
    "objectives": objectives.__all__,
}


def choosing(page):
    return (DOCS / "concepts" / "choosing" / f"{page}.md").read_text(encoding="utf-8")


def rows(page):
    """Cells of the rows that begin with a name, of all tables of a page."""
    lines = re.findall(r"^\| `.*\|$", choosing(page), re.MULTILINE)
    return [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_the_cells_of_a_page_hold(path):
    """All cells but those that only draw, which have hidden input."""
    names = {"__name__": path.stem}
    for cell in CELL.finditer(path.read_text(encoding="utf-8")):
        if "hide-input" not in (cell["options"] or ""):
            exec(compile(cell["code"], str(path), "exec"), names)


@pytest.mark.parametrize(("page", "names"), TABLES.items(), ids=TABLES)
def test_the_tables_have_a_row_for_every_choice(page, names):
    listed = [row[0].strip(" `") for row in rows(page)]
    assert sorted(listed) == sorted(names)


@pytest.mark.parametrize("page", TABLES)
def test_every_row_is_complete(page):
    """A formula, and when it fails with what to try next, but for the base classes."""
    short = [row[0] for row in rows(page) if not row[1].strip() or "→" not in row[2]]
    assert {name.strip(" `") for name in short} <= {"Bound", "Gradient"}


def test_the_page_of_evidence_names_every_method_and_result():
    named = set(re.findall(r"`(\w+)`", choosing("evidence")))
    assert {*evidence.__all__, *refinement.__all__} <= named


def test_every_advice_is_a_name_of_the_library():
    """Names in code type that begin with a capital, on the pages of choices."""
    known = {name for names in TABLES.values() for name in names}
    known |= {*evidence.__all__, *refinement.__all__}
    for page in [*TABLES, "evidence", "index"]:
        named = set(re.findall(r"`([A-Z]\w+)`", choosing(page)))
        assert named <= known, page
