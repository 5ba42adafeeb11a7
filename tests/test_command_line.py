"""The laws of the command line, over all commands: help, options, exit codes, words, completion."""

import ast
import inspect
import json
import logging
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from ppl_vae.cli import app
from ppl_vae.cli.names import FAMILIES, named
from ppl_vae.cli.words import OPTIONS, in_flags
from ppl_vae.experiment import read_config
from ppl_vae.experiment.signatures import choices
from ppl_vae.experiment.tables import (
    LikelihoodTable,
    MethodTable,
    ObjectiveTable,
    PosteriorTable,
    PriorTable,
)
from ppl_vae.training import Training

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = sorted(typer.main.get_command(app).commands)
TABLES = dict(
    zip(FAMILIES, (PriorTable, LikelihoodTable, PosteriorTable, ObjectiveTable), strict=True)
)
WIDTH = 80


def call(*arguments, **options):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], **options)


@pytest.fixture(scope="module")
def pages():
    """The help of each command, at the width of a terminal."""
    wide = {"env": {"COLUMNS": str(WIDTH), "TERMINAL_WIDTH": str(WIDTH)}}
    found = {name: call(name, "--help", **wide) for name in COMMANDS}
    return found | {"": call("--help", **wide)}


# --- help -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_has_examples_and_fits(pages, name):
    page = pages[name].stdout
    assert pages[name].exit_code == 0
    head, _, examples = page.partition("Examples:\n")
    assert re.match(rf" +ppl-vae {name}", examples)
    assert [line for line in head.splitlines() if len(line) > WIDTH] == []
    assert not re.search(r"\bdata per\b|None", page)


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_h_is_help(pages, name):
    wide = {"env": {"COLUMNS": str(WIDTH), "TERMINAL_WIDTH": str(WIDTH)}}
    assert call(*name.split(), "-h", **wide).stdout == pages[name].stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained(name):
    command = typer.main.get_command(app).commands[name]
    bare = [each.name for each in command.params if not getattr(each, "help", None)]
    assert [each for each in bare if each not in ("help",)] == []


@pytest.mark.parametrize("name", [each for each in COMMANDS if each != "data"])
def test_every_command_takes_the_common_options(pages, name):
    for option in ("--json", "--quiet", "--debug"):
        assert option in pages[name].stdout


@pytest.mark.parametrize("option", FAMILIES)
def test_help_names_what_python_accepts(pages, option):
    table = TABLES[option]
    assert named(FAMILIES[option]) == sorted(choices(table.module, table.kind))
    said = " ".join(pages["fit"].stdout.partition("Names:")[2].split())
    assert f"{option} {', '.join(named(FAMILIES[option]))}" in re.sub(r"(?<=\w)- ", "-", said)
    default = table.model_fields["name"].default
    assert re.search(rf"{option} \S+ [^;]*; {default} by default", _one_line(pages["fit"].stdout))


def test_help_names_the_methods(pages):
    said = _one_line(pages["evaluate"].stdout)
    assert all(name in said for name in choices(MethodTable.module, MethodTable.kind))


@pytest.mark.parametrize("name", ["num_epochs", "batch_size", "learning_rate", "latent_dim"])
def test_help_gives_the_defaults(pages, name):
    defaults = {key: each.default for key, each in inspect.signature(Training).parameters.items()}
    defaults["learning_rate"] = inspect.signature(torch.optim.Adam).parameters["lr"].default
    defaults["latent_dim"] = read_config(changes=[("data.name", "digits")]).latent_dim
    shown = rf"--{name.replace('_', '-')} \S+ .*?; ([\d.]+) by default"
    assert float(re.search(shown, _one_line(pages["fit"].stdout))[1]) == defaults[name]


def _one_line(text):
    return " ".join(text.split())


# --- options before or after the command ----------------------------------------------------------


@pytest.mark.parametrize("place", ["before", "after"])
def test_json_may_stand_on_either_side(place):
    arguments = ["--json", "data", "digits"] if place == "before" else ["data", "digits", "--json"]
    found = json.loads(call(*arguments).stdout)
    assert found["event shape"] == "8 x 8"


@pytest.mark.parametrize("place", ["before", "after", "neither"])
def test_debug_may_stand_on_either_side(place, tmp_path):
    command = ["sample", tmp_path, "--output", tmp_path / "x.png"]
    arguments = {"before": ["--debug", *command], "after": [*command, "--debug"]}
    result = call(*arguments.get(place, command))
    assert isinstance(result.exception, SystemExit) == (place == "neither")
    assert "holds no run" in f"{result.exception} {result.stderr}"


# --- exit codes -----------------------------------------------------------------------------------

WRONG = [
    ["nothing"],
    ["--nonsense"],
    ["fit"],
    ["fit", "nowhere.toml", "-o", "OUT"],
    ["fit", "nowhere.csv", "-o", "OUT"],
    ["fit", "--data", "nowhere.csv", "-o", "OUT"],
    ["fit", "--data", "digits", "--latent-dim", "0", "-o", "OUT"],
    ["fit", "--data", "digits", "--num-epochs", "x", "-o", "OUT"],
    ["fit", "--data", "digits", "--batch-size", "-1", "-o", "OUT"],
    ["fit", "--data", "digits", "--set", "training.seed=-1", "-o", "OUT"],
    ["fit", "--data", "digits", "--set", "a", "-o", "OUT"],
    ["fit", "--data", "digits", "--objective", "ELBO", "-o", "OUT"],
    ["fit", "--data", "digits", "--num-steps", "5", "-o", "OUT"],
    ["demo", "--seed", "-1", "-o", "OUT"],
    ["compare", "nowhere.toml", "-o", "OUT"],
    ["compare-estimators", "nowhere.toml", "-o", "OUT"],
    ["data", "nowhere"],
    *([name, "NONE"] for name in ("evaluate", "report", "sample")),
    *([name, "NONE", "rows.csv"] for name in ("score", "impute", "anomaly", "transform")),
    *([name, "OUT", "-o"] for name in ("score", "impute", "anomaly", "transform")),
    ["report", "NONE", "--num-data", "1"],
    ["impute", "NONE", "rows.csv", "--level", "2"],
    ["sample", "NONE", "--num-samples", "0"],
]


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_wrong_usage_is_one_line_and_2(arguments, tmp_path):
    places = {"OUT": str(tmp_path / "out"), "NONE": str(tmp_path / "none")}
    result = call(*[places.get(each, each) for each in arguments])
    assert result.exit_code == 2, result.output
    [line] = result.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert result.stdout == ""
    assert not (tmp_path / "out").exists()


# --- words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ('binarise the data (Dataset(..., binarize="dynamic"))', "(--binarize dynamic)"),
        ("give num_particles=500, or fewer rows", "give --num-particles 500, or fewer rows"),
        ("use likelihoods.StudentT for tails", "use --likelihood StudentT for tails"),
        ("try priors.VampPrior", "try --prior VampPrior"),
        ("or posteriors.FullRankNormal(2)", "or --posterior FullRankNormal(2)"),
        ("anneal: Training(kl_warmup_epochs=20)", "--set training.kl_warmup_epochs=20"),
        ("a warm-up longer than num_epochs=5", "a warm-up longer than num_epochs=5"),
        ("num_particles=0 is too few", "num_particles=0 is too few"),
    ],
)
def test_remedies_are_options(said, meant):
    assert in_flags(said).endswith(meant)
    assert in_flags(in_flags(said)) == in_flags(said)


def options_of(command):
    """The options of a command, by name."""
    params = typer.main.get_command(app).get_command(None, command).params
    return {"--help", *(o for each in params for o in (*each.opts, *each.secondary_opts))}


def foreign(said, own):
    """Options in a text that neither the command that it names with them nor this one has."""
    found = []
    said = re.sub(r"torchrun [^\n]*?-m ppl_vae", "ppl-vae", said)
    for part in re.findall(r"ppl-vae [a-z][a-z-]* [^`;)\n]*|(?<![\w'-])--[a-z][a-z-]*", said):
        command = re.match(r"ppl-vae ([a-z][a-z-]*) ", part)
        known = options_of(command[1]) if command else own
        found += [
            flag for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]*", part) if flag not in known
        ]
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_remedies_have_options_of_the_command_or_name_another(command):
    remedies = [
        "binarise the data (Dataset(..., binarize='dynamic'))",
        "use likelihoods.StudentT, priors.VampPrior, posteriors.FullRankNormal or objectives.IWAE",
        "if it is a category, say so (frame.astype({'a': 'category'}))",
        "if it is a category, say so (frame.astype({'a,b': 'category'}))",
        "read the text as missing (na_values=['-'])",
        "column 'a' of x is constant: drop it",
        "column 'a' of context is constant: drop it",
        "2 columns (the first is a) are constant; leave them out",
        "anneal: Training(kl_warmup_epochs=20)",
        "give a file (on the command line: --data digits)",
        "`ppl-vae evaluate RUN --refine` refines the guide, or use num_particles=500",
        *(f"give {name}=3" for name in OPTIONS.split("|")),
    ]
    own = options_of(command)
    for remedy in remedies:
        said = in_flags(remedy, own)
        assert foreign(said, own) == []
        assert in_flags(said, own) == said


def test_every_option_that_is_named_with_a_command_is_one_of_it():
    """In messages, help and documentation; a message may name one option of some command alone."""
    every = {"--version"}.union(*map(options_of, COMMANDS))
    for path in sorted((ROOT / "ppl_vae").rglob("*.py")):
        if path.name in ("words.py", "diagnosis.py"):  # patterns
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert foreign(node.value, every) == [], path
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        text = path.read_text(encoding="utf-8").replace("\\\n", " ")
        for command in re.findall(r"ppl-vae [a-z][a-z-]* [^`;)\n]*", text):
            assert foreign(command, every) == [], path


@pytest.mark.parametrize("command", ["score", "anomaly", "fit"])
def test_a_message_about_a_table_names_no_option_of_another_command(tmp_path, monkeypatch, command):
    """What all commands say of a wrong column, with the options of the one that says it."""

    def wrong(*_, **__):
        logging.getLogger("ppl_vae").warning("column 'h' of x has one level: drop it")
        raise ValueError("column 'h' of x holds text (frame.astype({'h': 'category'}))")

    for name in ("load_run", "recipe_config"):
        monkeypatch.setattr(f"ppl_vae.experiment.{name}", wrong)
    (tmp_path / "a.csv").write_text("h\n1\n")
    rows = [tmp_path / "a.csv"]
    given = rows if command == "fit" else [tmp_path, *rows]
    said = call(command, *given, "--output", tmp_path / "out.csv").stderr
    before = "" if command == "fit" else "ppl-vae fit "
    assert f"warning: column 'h' of x has one level: leave it out ({before}--drop h)" in said
    assert f"error: column 'h' of x holds text ({before}--categories h)" in said


def test_a_wrong_likelihood_is_told_in_options(tmp_path):
    result = call("fit", "--data", "digits", "--output", tmp_path / "grey", "--quiet")
    assert result.exit_code == 1
    assert "--binarize dynamic" in result.stderr
    assert "Dataset(" not in result.stderr


# --- completion -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [("ppl-vae rep", "report"), ("ppl-vae fit --prior Vamp", "VampPrior")],
)
def test_a_shell_completes_commands_and_names(typed, wanted):
    words = {"COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)}
    result = call(env=words | {"_PPL_VAE_COMPLETE": "complete_bash"}, prog_name="ppl-vae")
    assert wanted in result.stdout.split()


def test_threads_do_not_spin():
    """Threads that spin while they wait slow each other down where others use the cores too."""
    code = """
import os
os.environ.pop("OMP_WAIT_POLICY", None)
from ppl_vae.cli import app
app(["data"], standalone_mode=False)
print(os.environ["OMP_WAIT_POLICY"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "PASSIVE"


# --- memory of freed tensors ----------------------------------------------------------------------

FAULTS = """
import resource, sys
from ppl_vae.cli.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [b"x" * 2**24 for _ in range(3)]
    del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(), faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_memory_of_freed_blocks_is_kept_for_the_next_ones():
    """Page faults of 48 MB that were allocated and freed before: none, or each page (of 4 KB, or of
    2 MB where the system makes them so large)."""
    environment = {key: value for key, value in os.environ.items() if "MALLOC" not in key}

    def pages(mode, **variables):
        command = [sys.executable, "-c", FAULTS, mode]
        found = subprocess.check_output(command, env=environment | variables, text=True)
        return int(found)

    assert pages("kept") < 10
    assert pages("as it is") > 20
    assert pages("kept", MALLOC_TRIM_THRESHOLD_="100000", MALLOC_MMAP_THRESHOLD_="100000") > 20
