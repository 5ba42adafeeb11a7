"""Sphinx configuration: `make docs` builds offline, and every warning is an error."""

import ast
import importlib.metadata
import os
import re
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "ppl_vae"

project = "ppl_vae"
author = "The ppl_vae authors"
copyright = "2026, the ppl_vae authors"
release = version = importlib.metadata.version("ppl-vae")

extensions = [
    "myst_nb",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = [
    "_build",
    "generated",
    "jupyter_execute",
    "**.ipynb_checkpoints",
]
default_role = "code"
highlight_language = (
    "text"  # a block without a language is output, not Python
)

myst_enable_extensions = [
    "amsmath",
    "attrs_inline",
    "colon_fence",
    "deflist",
    "dollarmath",
    "substitution",
]
myst_heading_anchors = 3
myst_substitutions = {"version": version}
nb_execution_mode = (
    "cache"  # a tutorial runs again when its cells change
)
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_merge_streams = True
nb_output_stderr = "remove"  # progress bars
mathjax_path = "mathjax/tex-chtml-full.js"  # a copy beside the pages: formulas need no network
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_exclude = ".linenos, .gp, .go"

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints_format = "short"
autosummary_generate = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = ["Shape"]
python_maximum_signature_line_length = 100

html_theme = "pydata_sphinx_theme"
html_title = "ppl_vae"
html_static_path = ["_static"]
html_css_files = ["ppl_vae.css"]
html_theme_options = {
    "footer_end": ["theme-version"],
    "footer_start": ["copyright", "sphinx-version"],
    "logo": {"text": "ppl_vae"},
    "navbar_align": "left",
    "navigation_with_keys": False,
    "pygments_dark_style": "a11y-high-contrast-dark",
    "pygments_light_style": "a11y-high-contrast-light",
    "search_bar_text": "Search these pages",
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": True,
    "show_toc_level": 2,
}
html_sidebars = {"index": []}
html_show_sourcelink = False

if os.environ.get(
    "DOCS_INTERSPHINX"
):  # links into other projects' pages: needs the network, so not by default
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "arviz": ("https://python.arviz.org/en/stable", None),
        "pyro": ("https://docs.pyro.ai/en/stable", None),
        "python": ("https://docs.python.org/3", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
    }

HANDLES = (
    r"(array\(|\[)*<(Axes|matplotlib|arviz_plots)|\[*Text\(|FitResult\("
)
DESIGN = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
ROOMS = re.findall(r"^\| `(\w+)` \|", DESIGN, re.MULTILINE)


def public_names(path: Path) -> list[str]:
    """What a file lists in `__all__`, read without importing it."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if (
            isinstance(node, ast.Assign)
            and ast.unparse(node.targets[0]) == "__all__"
        ):
            return list(ast.literal_eval(node.value))
    return []


def room_files(room: str) -> list[Path]:
    folder = (
        sorted((PACKAGE / room).rglob("*.py"))
        if (PACKAGE / room).is_dir()
        else [PACKAGE / f"{room}.py"]
    )
    return [
        path
        for path in folder
        if path.exists()
        and path.stem != "__init__"
        and public_names(path)
    ]


def file_section(path: Path) -> str:
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    names = "\n".join(f"   {name}" for name in public_names(path))
    return f"""
### `{module}`

```{{eval-rst}}
.. currentmodule:: {module}

.. autosummary::
   :nosignatures:

{names}

.. automodule:: {module}
```
"""


def write_api(app, docname: str, source: list[str]) -> None:
    """Fill docs/api.md from `__all__`, so that a new family needs no line of documentation
    elsewhere."""
    if docname == "api":
        sections = [
            f"## {room}\n" + "".join(map(file_section, files))
            for room in ROOMS
            if (files := room_files(room))
        ]
        source[0] = source[0].replace(
            "<!-- public names -->", "\n".join(sections)
        )


def escape(line: str) -> str:
    """Keep `*`, `|` and trailing underscores of plain maths from being read as markup; leave code
    spans alone."""
    parts = re.split(r"(`+[^`]*`+)", line)
    parts[::2] = [
        re.sub(
            r"(?<=\w)_(?!\w)", r"\\_", re.sub(r"([*|])", r"\\\1", part)
        )
        for part in parts[::2]
    ]
    return "".join(parts)


def plain_docstring(
    app,
    what: str,
    name: str,
    obj: object,
    options: object,
    lines: list[str],
) -> None:
    """Docstrings are plain text with maths in ASCII: escape it, and keep the lines of a Shape
    section apart."""
    section = ""
    for i, line in enumerate(lines):
        if heading := re.fullmatch(r"(\w+):", line):
            section = heading[1]
        elif line and not line.startswith(" "):
            section = ""
        if section == "Example" or ">>>" in line:
            continue
        indent = len(line) - len(line.lstrip())
        mark = "| " if section == "Shape" and indent else ""
        lines[i] = line[:indent] + mark + escape(line[indent:])


def skip_generated(
    app, what: str, name: str, obj: object, skip: bool, options: object
) -> bool | None:
    """Leave out the methods that scikit-learn adds, whose text refers to its own pages."""
    return True if re.fullmatch(r"set_\w+_request", name) else None


def drop_handles(app, doctree) -> None:
    """Leave out what a cell that draws or trains returns."""
    from docutils import nodes  # a documentation tool

    for block in list(doctree.findall(nodes.literal_block)):
        if re.match(HANDLES, block.astext()):
            node = block
            while len(node.parent) == 1:
                node = node.parent
            node.parent.remove(node)


def copy_mathjax(app) -> None:
    """MathJax with its fonts, from the package sphinx-mathjax-offline, into the pages' folder."""
    package = importlib.metadata.distribution("sphinx-mathjax-offline")
    source = Path(
        package.locate_file("sphinx-mathjax-offline/static/mathjax")
    )
    target = Path(app.outdir) / "_static" / "mathjax"
    if app.builder.format == "html" and not target.exists():
        fonts = "output/chtml/fonts/woff-v2"
        shutil.copytree(source / fonts, target / fonts)
        shutil.copy(source / Path(mathjax_path).name, target)


def setup(app) -> None:
    app.connect("builder-inited", copy_mathjax)
    app.connect("doctree-read", drop_handles)
    app.connect("autodoc-skip-member", skip_generated)
    app.connect("source-read", write_api)
    app.connect(
        "autodoc-process-docstring", plain_docstring, priority=400
    )  # before napoleon's 500
