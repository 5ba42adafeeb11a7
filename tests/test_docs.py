"""The documentation's pages: every public name has a place in the reference."""

import ast
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "ppl_vae"


@pytest.fixture(scope="module")
def reference():
    """docs/api.md as Sphinx reads it."""
    conf = runpy.run_path(str(ROOT / "docs" / "conf.py"))
    source = [(ROOT / "docs" / "api.md").read_text(encoding="utf-8")]
    conf["write_api"](None, "api", source)
    return source[0]


def public_names():
    """Names in any `__all__` of the package, but for the modules among them."""
    names = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                names |= {name: path for name in literal(node.value)}
    modules = {path.stem for path in PACKAGE.rglob("*.py")}
    modules |= {path.parent.name for path in PACKAGE.rglob("__init__.py")}
    return {name: path for name, path in names.items() if name not in modules}


def literal(node):
    """The names of a list; none of an expression, as the face has one."""
    return ast.literal_eval(node) if isinstance(node, ast.List) else []


def test_every_public_name_is_in_the_reference(reference):
    listed = set(re.findall(r"^   (\w+)$", reference, re.MULTILINE))
    missing = [
        f"{name} ({path.relative_to(ROOT)})"
        for name, path in public_names().items()
        if name not in listed
    ]
    assert missing == []


def test_every_name_of_the_face_is_in_the_reference(reference):
    import ppl_vae

    modules = set(re.findall(r"^### `ppl_vae\.(\w+)", reference, re.MULTILINE))
    listed = modules | set(re.findall(r"^   (\w+)$", reference, re.MULTILINE)) | {"families"}
    families = {"priors", "likelihoods", "posteriors", "networks", "missingness"}
    assert set(ppl_vae.__all__) - listed - families - {"__version__"} == set()


def pages_of(page):
    """The pages in the tables of contents of a page, whose folder they are relative to."""
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    folder = (ROOT / "docs" / page).parent
    for block in re.findall(r"```{toctree}\n(.*?)```", text, re.DOTALL):
        for entry in re.findall(r"^([^:\s].*)$", block, re.MULTILINE):
            for path in sorted(folder.glob(f"{entry}.md")):
                yield path.resolve().relative_to(ROOT / "docs").with_suffix("").as_posix()


def test_every_page_is_reached_from_the_index():
    written = {
        path.relative_to(ROOT / "docs").with_suffix("").as_posix()
        for path in (ROOT / "docs").rglob("*.md")
        if "_build" not in path.parts
    }
    reached, waiting = set(), ["index"]
    while waiting:
        page = waiting.pop()
        if page not in reached:
            reached.add(page)
            waiting += pages_of(page)
    assert written - reached == set()


def test_the_reference_for_citations_names_this_version():
    import ppl_vae

    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"version: {ppl_vae.__version__}\n" in text


def test_code_on_the_pages_fits_beside_the_navigation():
    """At most 72 columns, so that no line has to be scrolled sideways."""
    pages = (ROOT / "docs").rglob("*.md")
    blocks = [
        (path, block)
        for path in pages
        if "_build" not in path.parts
        for block in re.findall(
            r"^```(?:python|{code-cell} ipython3)\n(?:---\n.*?^---\n)?(.*?)^```",
            path.read_text(encoding="utf-8"),
            re.MULTILINE | re.DOTALL,
        )
    ]
    wide = [
        f"{path.name}: {line}"
        for path, block in blocks
        for line in block.splitlines()
        if len(line) > 72
    ]
    assert wide == []
