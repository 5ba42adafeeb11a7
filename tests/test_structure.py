"""The package's shape, read from its source: arrows that point one way, sizes, words, and what an
import costs."""

import ast
import importlib
import importlib.metadata
import re
import statistics
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "ppl_vae"
FACE = "__init__"  # the lazy top-level names: for users, so only the command line may read them
LISTED = re.findall(
    r"^\| `(\w+)` \|", (ROOT / "docs" / "design.md").read_text(encoding="utf-8"), re.MULTILINE
)
ROOMS = [*LISTED[: LISTED.index("cli")], FACE, "cli", "__main__"]
MOST_FILES = 12  # in a folder
BUDGETS = {
    "file, median lines": 150,
    "file, most lines": 400,
    "function, median lines": 8,
    "function, most lines": 50,
    "parameters, most": 7,
    "arguments of one call, most": 7,
    "duplicated lines, per cent": 5,
    "packed assignments, per 1,000 lines": 6,
    "conditional expressions, per 1,000 lines": 12,
    "columns, most": 100,
}
DUPLICATE = 6  # lines in a row that must agree to count as copied
TEXT = {
    ".py",
    ".pyi",
    ".md",
    ".toml",
    ".txt",
    ".yaml",
    ".yml",
    ".ipynb",
    ".json",
    ".cfg",
    ".csv",
    "",
}

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Module:
    """One source file of the package."""

    path: Path

    @property
    def parts(self) -> tuple[str, ...]:
        return self.path.relative_to(PACKAGE).with_suffix("").parts

    @property
    def name(self) -> str:
        return ".".join(self.parts)

    @property
    def room(self) -> str:
        return self.parts[0]

    @property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def is_init(self) -> bool:
        return self.parts[-1] == "__init__"


MODULES = {module.name: module for module in map(Module, sorted(PACKAGE.rglob("*.py")))}
FILES = [module for module in MODULES.values() if not module.is_init]


# --- reading imports ------------------------------------------------------------------------------


def resolve(parts: list[str]) -> str:
    """The file behind a dotted name below the package: the module itself, or else the package that
    holds the name."""
    while parts:
        for name in (".".join(parts), ".".join([*parts, "__init__"])):
            if name in MODULES:
                return name
        parts = parts[:-1]
    return FACE


def absolute(module: Module, node: ast.ImportFrom) -> list[str]:
    """The dotted name after `from`, relative dots taken away."""
    here = ["ppl_vae", *module.parts[:-1]]
    base = here[: len(here) - node.level + 1] if node.level else []
    return base + (node.module.split(".") if node.module else [])


def imports(module: Module) -> Iterator[str]:
    """Names of the package's own files that a file imports, wherever in it the import stands."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            dotted = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            dotted = [[*absolute(module, node), alias.name] for alias in node.names]
        else:
            continue
        yield from (resolve(parts[1:]) for parts in dotted if parts[0] == "ppl_vae")


def find_cycle(graph: dict[str, set[str]]) -> list[str]:
    """One import cycle as a path that ends where it began, or the empty list."""
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        done.add(node)
        return next(
            filter(None, (visit(child, [*path, node]) for child in sorted(graph[node]))), []
        )

    return next(filter(None, (visit(node, []) for node in graph)), [])


def test_every_file_stands_in_a_room():
    strangers = {module.room for module in MODULES.values()} - set(ROOMS)
    assert not strangers, f"rooms that the layout does not know: {sorted(strangers)}"


@pytest.mark.parametrize("module", MODULES.values(), ids=MODULES)
def test_imports_point_to_rooms_above(module):
    if module.name == FACE:
        return  # the face names every room
    below = {
        name
        for name in imports(module)
        if ROOMS.index(MODULES[name].room) > ROOMS.index(module.room)
    }
    assert not below, (
        f"{module.name} ({module.room}) imports from rooms below its own: {sorted(below)}"
    )


def test_every_room_is_there():
    missing = [
        room
        for room in LISTED
        if not ((PACKAGE / room).is_dir() or (PACKAGE / f"{room}.py").exists())
    ]
    assert missing == [], "docs/design.md lists rooms that do not exist"


def test_no_folder_is_crowded():
    sizes = Counter(module.path.parent for module in FILES)
    assert {str(folder): size for folder, size in sizes.items() if size > MOST_FILES} == {}


def exported_objects(package: Module) -> set[str]:
    """What a package lists in `__all__`, without its own modules."""
    modules = [
        alias.name
        for node in package.tree.body
        if isinstance(node, ast.ImportFrom)
        and node.module == ".".join(["ppl_vae", *package.parts[:-1]])
        for alias in node.names
    ]
    return set(exported(package)) - set(modules)


def test_no_module_has_the_name_of_what_its_package_exports():
    packages = {
        module.path.parent: exported_objects(module)
        for module in MODULES.values()
        if module.is_init
    }
    assert [
        module.name for module in FILES if module.parts[-1] in packages.get(module.path.parent, ())
    ] == []


def test_imports_have_no_cycle():
    graph = {
        module.name: set(imports(module)) - {module.name}
        for module in MODULES.values()
        if module.name != FACE
    }
    graph[FACE] = set()
    assert find_cycle(graph) == []


def test_a_cycle_would_be_found():
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert find_cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


# --- budgets --------------------------------------------------------------------------------------


def without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    first = body[0] if body else None
    documented = (
        isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and type(first.value.value) is str
    )
    return body[1:] if documented else body


def body_lines(function: Function) -> int:
    body = without_docstring(function.body)
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def is_command(function: Function) -> bool:
    """A typer command has one parameter per flag: the signature is the command line's own."""
    return any(
        re.search(r"\.(command|callback)\(", ast.unparse(decorator))
        for decorator in function.decorator_list
    )


def records() -> set[str]:
    """Classes whose constructor lists their fields: dataclasses, pydantic models, and the data
    set."""
    classes = [node for _, node in nodes(ast.ClassDef)]
    return {"Dataset"} | {
        node.name
        for node in classes
        if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)
        or any("BaseModel" in ast.unparse(base) for base in node.bases)
    }


def num_parameters(function: Function) -> int:
    names = [
        arg.arg
        for arg in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
    ]
    return 0 if is_command(function) else len(names) - (names[:1] in (["self"], ["cls"]))


def signatures() -> list[tuple[int, str]]:
    own = {
        id(item) for _, node in nodes(ast.ClassDef) if node.name in RECORDS for item in node.body
    }
    functions = nodes(ast.FunctionDef, ast.AsyncFunctionDef)
    return [(num_parameters(node), place) for place, node in functions if id(node) not in own]


def calls() -> list[tuple[int, str]]:
    found = [
        (place, node)
        for place, node in nodes(ast.Call)
        if ast.unparse(node.func).split(".")[-1] not in RECORDS
    ]
    return [(len(node.args) + len(node.keywords), place) for place, node in found]


def nodes(*kinds: type[ast.AST]) -> Iterator[tuple[str, ast.AST]]:
    """Every node of these kinds in the package, with where it stands."""
    for module in FILES:
        found = (node for node in ast.walk(module.tree) if isinstance(node, kinds))
        yield from (
            (f"{module.name}:{node.lineno} {getattr(node, 'name', '')}", node) for node in found
        )


def code_lines(module: Module) -> list[str]:
    """Statements in a normal form: no docstring, comment, import, blank line, or bracket alone on
    its line."""
    tree = ast.parse(module.text)  # a tree of its own, since it is cut down
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | Function):
            kept = without_docstring(node.body)
            node.body = [
                item for item in kept if not isinstance(item, ast.Import | ast.ImportFrom)
            ] or [ast.Pass()]
    return [line.strip() for line in ast.unparse(tree).splitlines() if len(line.strip()) > 1]


def duplicated_share() -> float:
    """Per cent of lines that stand in some run of `DUPLICATE` lines found twice or more in the
    package."""
    lines = {module.name: code_lines(module) for module in FILES}
    runs = {
        (name, start): tuple(text[start : start + DUPLICATE])
        for name, text in lines.items()
        for start in range(len(text) - DUPLICATE + 1)
    }
    counts = Counter(runs.values())
    copied = {
        (name, start + i)
        for (name, start), run in runs.items()
        if counts[run] > 1
        for i in range(DUPLICATE)
    }
    return 100 * len(copied) / max(1, sum(map(len, lines.values())))


def is_packed(node: ast.AST) -> bool:
    """Several assignments in one: a, b = c, d."""
    return (
        isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Tuple)
        and isinstance(node.value, ast.Tuple)
    )


def is_conditional(node: ast.AST) -> bool:
    """An expression with an if in it."""
    return isinstance(node, ast.IfExp)


def per_thousand_lines(chosen: Callable[[ast.AST], bool]) -> float:
    found = sum(chosen(node) for module in FILES for node in ast.walk(module.tree))
    return round(1000 * found / sum(len(module.text.splitlines()) for module in FILES), 1)


RECORDS = records()


def measure() -> dict[str, tuple[float, str]]:
    """Each budget's measured value, and the place of the worst."""
    files = [(len(module.text.splitlines()), module.name) for module in FILES]
    lengths = [
        (body_lines(node), place) for place, node in nodes(ast.FunctionDef, ast.AsyncFunctionDef)
    ]
    widths = [(len(line), module.name) for module in FILES for line in module.text.splitlines()]
    return {
        "file, median lines": (statistics.median(size for size, _ in files), ""),
        "file, most lines": max(files),
        "function, median lines": (statistics.median(size for size, _ in lengths), ""),
        "function, most lines": max(lengths),
        "parameters, most": max(signatures()),
        "arguments of one call, most": max(calls()),
        "duplicated lines, per cent": (round(duplicated_share(), 1), ""),
        "packed assignments, per 1,000 lines": (per_thousand_lines(is_packed), ""),
        "conditional expressions, per 1,000 lines": (per_thousand_lines(is_conditional), ""),
        "columns, most": max(widths),
    }


def test_budgets():
    measured = measure()
    rows = [
        f"{name:42} {value:7} {BUDGETS[name]:7}  {place}"
        for name, (value, place) in measured.items()
    ]
    print(
        "\n".join(["", f"{'budget':42} {'is':>7} {'allowed':>7}  worst at", *rows])
    )  # shown with -s, and on failure
    assert [row for row in rows if measured[row[:42].strip()][0] > BUDGETS[row[:42].strip()]] == []


def over(budget: str, sizes: list[tuple[int, str]]) -> list[str]:
    return [
        f"{place.strip()}: {size}"
        for size, place in sorted(sizes, reverse=True)
        if size > BUDGETS[budget]
    ]


def test_no_file_over_budget():
    assert (
        over("file, most lines", [(len(module.text.splitlines()), module.name) for module in FILES])
        == []
    )


def test_no_function_over_budget():
    functions = list(nodes(ast.FunctionDef, ast.AsyncFunctionDef))
    assert (
        over("function, most lines", [(body_lines(node), place) for place, node in functions]) == []
    )
    assert over("parameters, most", signatures()) == []
    assert over("arguments of one call, most", calls()) == []


# --- words ----------------------------------------------------------------------------------------


def test_no_print():
    printing = [place for place, node in nodes(ast.Call) if ast.unparse(node.func) == "print"]
    assert printing == [], "a library logs, and the command line echoes"


def test_no_unfinished_marks():
    pattern = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    assert [module.name for module in MODULES.values() if pattern.search(module.text)] == []


def test_recording_takes_private_parts_of_torch_in_one_file():
    pattern = re.compile(r"torch\.(ops\.mkldnn|_(?!_version__)\w+)|proxy_tensor")
    found = {module.name for module in MODULES.values() if pattern.search(module.text)}
    assert found == {"runtime.recording.private"}


def test_no_room_without_a_subject():
    empty = {"utils", "util", "core", "base", "common", "helpers", "misc"}
    assert [module.name for module in MODULES.values() if empty & set(module.parts)] == []


def project_files() -> Iterator[Path]:
    folders = [ROOT / name for name in ("ppl_vae", "tests", "docs", "examples", ".ci")]
    files = [path for folder in folders if folder.exists() for path in folder.rglob("*")]
    built = {"_build", "generated", "jupyter_execute", "__pycache__", ".ipynb_checkpoints"}
    for path in [*ROOT.iterdir(), *files]:
        if path.name == ".git":  # a file in a worktree
            continue
        if path.is_file() and path.suffix in TEXT and not built & set(path.relative_to(ROOT).parts):
            yield path


def test_no_machine_is_named():
    # Written in two halves, so that this file does not name one itself.
    pattern = re.compile(
        "|".join(
            [
                "/" + "work/",
                "/" + "root/",
                "/" + "home/",
                "/" + "Users/",
                "/opt" + "/",
                "file" + "://",
            ]
        )
    )
    named = {
        str(path.relative_to(ROOT)): match.group()
        for path in project_files()
        if (match := pattern.search(path.read_text(encoding="utf-8", errors="ignore")))
    }
    assert named == {}


# --- public names ---------------------------------------------------------------------------------


def exported(module: Module) -> list[str]:
    if module.is_init and module.name != FACE:
        return list(getattr(importlib.import_module(f"ppl_vae.{module.name[:-9]}"), "__all__", []))
    for node in module.tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            return list(ast.literal_eval(node.value))
    return []


def public_definitions() -> Iterator[tuple[Module, ast.ClassDef | Function]]:
    for module in FILES:
        names = set(exported(module))
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef | Function) and node.name in names:
                yield module, node


def test_a_file_without_all_serves_its_own_room_alone():
    private = {
        module.name for module in FILES if module.name not in ROOMS[-2:] and not exported(module)
    }
    users = {
        f"{module.name} imports {name}"
        for module in MODULES.values()
        for name in private & set(imports(module))
        if MODULES[name].room != module.room
    }
    assert users == set(), (
        "list its public names in __all__, or take them from the room's public files"
    )


def test_public_names_have_an_example():
    bare = [
        f"{module.name}.{node.name}"
        for module, node in public_definitions()
        if not re.search(r"Example|>>>", ast.get_docstring(node) or "")
    ]
    assert bare == []


def test_families_and_objectives_name_their_source():
    bare = [
        f"{module.name}.{node.name}"
        for module, node in public_definitions()
        if module.room in {"families", "objectives"} and isinstance(node, ast.ClassDef)
        if "densities" not in module.parts  # of torch's distributions, where floats end
        if "References:" not in (ast.get_docstring(node) or "")
    ]
    assert bare == []


def test_every_name_of_the_face_resolves():
    import ppl_vae

    missing = [name for name in ppl_vae.__all__ if getattr(ppl_vae, name, None) is None]
    assert missing == []
    assert {
        "Dataset",
        "Model",
        "Guide",
        "fit",
        "Training",
        "log_evidence",
        "to_datatree",
        "load",
    } <= set(ppl_vae.__all__)


# --- what an import costs -------------------------------------------------------------------------


def loaded_after(code: str, watched: str) -> set[str]:
    """Which of the watched packages a fresh interpreter has loaded after running the code."""
    ending = (
        f"\nimport sys; loaded = set('{watched}'.split()) & set(sys.modules)"
        "\nsys.stderr.write('\\n' + ' '.join(loaded))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code + ending], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.rpartition("\n")[2].split())


def test_importing_the_package_is_cheap():
    assert (
        loaded_after("import ppl_vae", "torch pyro arviz arviz_stats matplotlib sklearn pandas")
        == set()
    )


def test_training_needs_no_diagnostics():
    code = "from ppl_vae import Dataset, Guide, Model, Training, fit"
    assert loaded_after(code, "arviz arviz_plots matplotlib.pyplot sklearn pandas") == set()


@pytest.mark.parametrize("command", ["", "fit", "evaluate", "sample", "data", "demo"])
def test_help_is_cheap(command):
    arguments = [*command.split(), "--help"]
    code = f"from ppl_vae.cli import app\napp({arguments!r}, standalone_mode=False)"
    assert loaded_after(code, "torch pyro arviz arviz_stats sklearn matplotlib pandas") == set()


# --- packaging ------------------------------------------------------------------------------------

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def canonical(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[<>=!~\[; ]", requirement)[0]).lower()


def test_version_has_one_source():
    assert PROJECT["dynamic"] == ["version"], "hatch reads it from ppl_vae/__init__.py"
    assert "version" not in PROJECT
    assert (
        importlib.metadata.version("ppl-vae") == importlib.import_module("ppl_vae").__version__
    ), "run: make install"


def test_tested_versions_are_pinned():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {canonical(line) for line in lines if "==" in line and not line.startswith("#")}
    extras = PROJECT["optional-dependencies"]
    tested = [
        *PROJECT["dependencies"],
        *extras["dev"],
        *extras["docs"],
        *extras["zuko"],
        *extras["zarr"],
    ]
    assert {canonical(requirement) for requirement in tested} <= pins
    assert "torch==2.13.0" in lines


def test_types_are_shipped():
    assert (PACKAGE / "py.typed").exists()
    assert (PACKAGE / "__init__.pyi").exists()
