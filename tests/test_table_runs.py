"""Tables in files: from the shell as from a frame in Python, names and levels matched by name."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from test_cli import call, one_error
from test_mixed_columns import frame

import ppl_vae as pv
from ppl_vae import likelihoods
from ppl_vae.evidence import pooled
from ppl_vae.experiment import (
    Cell,
    ConfigError,
    Study,
    build,
    load_run,
    read_config,
    recipe_config,
    run_study,
)
from ppl_vae.experiment.rows.sources import load_data
from ppl_vae.experiment.saved.rows import digest_of_rows, require_rows_of, told_of
from ppl_vae.families.likelihoods import columns

NUM_ROWS = 120
FLAGS = ["--context", "age,sex", "--label", "site", "--weights", "w", "--test", 0.25]
ROLES = {"context": ["age", "sex"], "label": "site", "weights": "w", "test": 0.25}
CHANGES = [(f"data.{role}", name) for role, name in ROLES.items()]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A mixed table with holes, names of rows, covariates, labels and weights."""
    rng = np.random.default_rng(1)
    rows = frame(NUM_ROWS)
    rows["age"] = rng.integers(20, 80, NUM_ROWS)
    rows["sex"] = rng.choice(["female", "male"], NUM_ROWS)
    rows["site"] = rng.choice(["A", "B"], NUM_ROWS)
    rows["w"] = rng.uniform(0.5, 2.0, NUM_ROWS)
    rows.index = pd.Index([f"p{i}" for i in range(NUM_ROWS)])
    path = tmp_path_factory.mktemp("tables") / "mixed.csv"
    rows.to_csv(path)
    return path


@pytest.fixture(scope="module")
def finished(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "mixed"
    short = ["--num-steps", 30, "--set", "evaluation.num_particles=50", "--quiet"]
    return folder, call("fit", table, "--output", folder, *FLAGS, *short)


def read(path):
    return pd.read_csv(path, index_col=0)


# --- what is run ----------------------------------------------------------------------------------


def test_a_table_alone_is_run_by_the_recipe(table):
    experiment = build(recipe_config(table, CHANGES))
    rows = pv.Dataset(read(table), context=["age", "sex"], labels="site", weights="w")
    found = pv.recipe(rows.split(valid=0, test=0.25, seed=0))
    for name, split in found.data.splits.items():
        np.testing.assert_array_equal(experiment.data.splits[name], split)
    assert torch.equal(experiment.data.weights, found.data.weights)
    for ours, theirs in ((experiment.model, found.model), (experiment.guide, found.guide)):
        assert str(ours) == str(theirs)
        for (name, ours_of), theirs_of in zip(
            ours.state_dict().items(), theirs.state_dict().values(), strict=True
        ):
            assert torch.equal(ours_of, theirs_of), name
    assert repr(experiment.objective) == repr(found.objective)
    assert repr(experiment.training) == repr(found.training)


def test_the_folder_of_a_table_holds_the_recipe_and_flags_win(finished, table):
    folder, result = finished
    assert result.exit_code == 0, result.output
    config = read_config(folder / "config.toml")
    changes = [*CHANGES, ("evaluation.num_particles", 50)]
    assert config == build(recipe_config(table, changes, num_steps=30)).config
    assert "test split, 30 rows" in result.stdout
    other = recipe_config(table, [("posterior.latent_dim", 3), ("data.drop", ["w", "age"])])
    assert other.latent_dim == 3
    assert {"w", "age"}.isdisjoint(load_data(other.data).columns["x"])


def test_a_file_says_that_categories_are_ordered(table, tmp_path):
    ordered = ("data.ordered", {"grade": ["low", "mid", "high"]})
    run = build(recipe_config(table, [*CHANGES, ordered]))
    assert run.data.levels["grade"] == ("low", "mid", "high")
    families = run.config.likelihood.keywords["families"]
    assert families["grade"] == {"name": "Ordinal", "num_categories": 3}
    for levels, said in (
        ({"grade": ["low", "high"]}, "'grade' is 'mid' at row .*, which is none of its levels"),
        ({"grades": ["low", "high"]}, "no column 'grades' for ordered: did you mean grade?"),
    ):
        with pytest.raises(ValueError, match=said):
            recipe_config(table, [*CHANGES, ("data.ordered", levels)])


def test_a_file_gives_likelihoods_to_columns_by_name(table):
    families = {
        "income": "Gaussian",
        "change": {"name": "StudentT", "scale": "feature"},
    }
    changes = [*CHANGES, ("likelihood.name", "Columns"), ("likelihood.families", families)]
    config = read_config(changes=[("data.name", str(table)), *changes])
    lines = repr(build(config).model.likelihood).splitlines()
    assert lines[1].split() == ["income", "Gaussian", "given"]
    assert lines[3].split() == ["visits", "NegativeBinomial", "count"]


def test_odd_names_of_columns_survive_the_file(tmp_path, table):
    from ppl_vae.experiment import to_toml

    families = {'income (k"€")': "Gaussian"}
    changes = [("likelihood.name", "Columns"), ("likelihood.families", families)]
    config = read_config(changes=[("data.name", str(table)), *changes])
    (tmp_path / "a.toml").write_text(to_toml(config), encoding="utf-8")
    assert read_config(tmp_path / "a.toml") == config


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("data.context", ["agee"]), "no column 'agee' for context: did you mean age?"),
        (("data.columns", ["incom"]), "no column 'incom' for x: did you mean income?"),
        (("data.split", "sex"), "column 'sex' is '(fe)?male' at row 0: write train, valid or test"),
        (("data.drop", ["grades"]), "no column 'grades' for drop: did you mean grade?"),
        (("data.test", "none.csv"), "none.csv: no such file"),
        (("data.test", 200), "test=200 rows leave none of 120"),
        (("likelihood.families", {"incom": "Gaussian"}), "no column 'incom' among income"),
        (("likelihood.families", {"income": "Gauss"}), "likelihoods has no 'Gauss'"),
        (("likelihood.families", {"income": {"name": "Gaussian", "scle": 1}}), "takes no 'scle'"),
        (("likelihood.families", 3), "families = 3: write a table"),
    ],
)
def test_what_does_not_fit_the_table_is_named(table, change, said):
    with pytest.raises(ValueError, match=said):
        build(recipe_config(table, [("likelihood.name", "Columns"), change]))


def test_roles_are_for_tables():
    for change in (("data.weights", "w"), ("data.test", "a.csv"), ("data.test", 5)):
        config = read_config(changes=[("data.name", "digits"), change])
        with pytest.raises(ValueError, match="tables in files|its own test rows"):
            load_data(config.data)


# --- splits ---------------------------------------------------------------------------------------


def test_a_column_says_which_rows_are_held_out(tmp_path):
    rows = frame(60)
    rows["fold"] = ["train"] * 40 + ["test"] * 20
    rows.to_csv(tmp_path / "a.csv", index=False)
    changes = [("data.split", "fold")]
    config = recipe_config(tmp_path / "a.csv", changes)
    splits = load_data(config.data).splits
    np.testing.assert_array_equal(splits["test"], range(40, 60))
    found = pv.recipe(pv.Dataset(rows.drop(columns="fold"), splits={"train": range(40)}))
    np.testing.assert_array_equal(splits["valid"], found.data.splits["valid"])
    with pytest.raises(ValueError, match="a.csv has its own test rows: leave test out"):
        recipe_config(tmp_path / "a.csv", [*changes, ("data.test", 0.1)])


def test_another_file_is_held_out_in_the_levels_of_training(tmp_path, table):
    rows = read(table)
    new = rows[rows["region"].isin(["s", "w"])].iloc[:9, ::-1]
    new.to_csv(tmp_path / "new.csv")
    data = load_data(recipe_config(table, [("data.test", str(tmp_path / "new.csv"))]).data)
    assert len(data.test) == 9
    assert list(data.test.to_frame()["region"]) == list(new["region"])
    assert list(data.test.coords["datum"]) == list(new.index)
    assert len(data.train) + len(data.valid) == NUM_ROWS
    new.assign(region="x").to_csv(tmp_path / "new.csv")
    with pytest.raises(ValueError, match=r"new.csv: column 'region' of x is 'x' at row 0"):
        recipe_config(table, [("data.test", str(tmp_path / "new.csv"))])


def test_a_run_keeps_the_likelihoods_that_it_chose(finished, table, monkeypatch):
    """Loaded and resumed with the first choice, whatever would be chosen now, and bit for bit."""
    folder, _ = finished
    stored = pv.Evidence.load(folder / "evidence.npz")
    families = read_config(folder / "config.toml").likelihood.keywords["families"]
    assert families["income"]["name"] == "LogNormal"
    assert families["grade"] == {"name": "Categorical", "num_categories": 3}
    monkeypatch.setattr(columns, "choose", lambda *args: (likelihoods.Poisson, "another choice"))
    run = load_run(folder)
    assert set(run.model.likelihood.reasons.values()) == {"given"}
    found = pv.log_evidence(run.model, run.guide, run.held_out, num_particles=50, progress=False)
    np.testing.assert_array_equal(found.log_evidence, stored.log_evidence)
    short = ["--num-steps", 30, "--set", "evaluation.num_particles=50", "--quiet"]
    monkeypatch.undo()
    again = call("fit", table, "--output", folder, *FLAGS, *short)
    assert "already finished" in again.stderr
    other = ["--set", 'likelihood.families.income="Gaussian"']
    refused = call("fit", table, "--output", folder, *FLAGS, *short, *other)
    assert "or of other likelihoods (likelihood.families.income" in one_error(refused, 2)


# --- a table that changes after training ---


CHANGED = {
    "values": lambda rows: rows.assign(visits=rows["visits"] + 1),
    "order": lambda rows: rows[::-1],
    "weights": lambda rows: rows.assign(w=rows["w"][::-1].to_numpy()),
    "split": lambda rows: rows.assign(part=rows["part"].map({"train": "test", "test": "train"})),
}


@pytest.mark.parametrize("change", list(CHANGED))
def test_a_run_knows_its_rows_weights_and_splits(table, tmp_path, change):
    path = tmp_path / "rows.csv"
    rows = read(table).assign(part=["train", "test"] * (NUM_ROWS // 2))
    rows.to_csv(path)
    flags = ["--weights", "w", "--split", "part", "--drop", "site", "--num-steps", 5]
    fit = ["fit", path, "-o", tmp_path / "run", *flags, "--quiet"]
    few = ["--set", "evaluation.num_particles=30"]
    assert call(*fit, *few).exit_code == 0
    again = call(*fit, *few)
    assert again.exit_code == 0
    assert "already finished" in again.stderr
    CHANGED[change](rows).to_csv(path)
    for command in ([*fit, *few], ["evaluate", tmp_path / "run"], ["report", tmp_path / "run"]):
        result = call(*command)
        assert "was trained on other rows than those of 'rows' now" in one_error(
            result, result.exit_code
        )


RENAMED = {  # with the same numbers, and what the message says
    "column": (
        lambda rows: rows.rename(columns={"income": "pay"}),
        "column 0 of x, which was 'income' and is 'pay'",
    ),
    "swapped columns": (
        lambda rows: rows.rename(columns={"income": "change", "change": "income"}),
        "column 0 of x, which was 'income' and is 'change'",
    ),
    "covariate": (
        lambda rows: rows.rename(columns={"sex": "gender"}),
        "column 1 of context, which was 'sex' and is 'gender'",
    ),
    "level": (
        lambda rows: rows.replace({"region": {"w": "x"}}),
        "column 'region' of x, which had levels 'n', 's', 'w' and has levels 'n', 's', 'x'",
    ),
    "level of a covariate": (
        lambda rows: rows.replace({"sex": {"female": "f", "male": "m"}}),
        "column 'sex' of context, which had levels 'female', 'male' and has levels 'f', 'm'",
    ),
    "levels that are numbers": (
        lambda rows: rows.assign(region=rows["region"].map({"n": 0, "s": 1, "w": 2})),
        "column 'region' of x, which had levels 'n', 's', 'w' and has numbers",
    ),
}


@pytest.mark.parametrize(("change", "said"), RENAMED.values(), ids=RENAMED)
def test_rows_of_other_names_are_others_though_their_numbers_are_the_same(table, change, said):
    roles = ["age", "sex"]
    rows = read(table).drop(columns=["site", "w"])
    told = told_of(pv.Dataset(rows, context=roles))
    require_rows_of(told, pv.Dataset(rows, context=roles), Path("run"))
    changed = change(rows)
    data = pv.Dataset(changed, context=[name for name in changed if name in (*roles, "gender")])
    assert digest_of_rows(data) == told.digest
    with pytest.raises(ConfigError, match=re.escape(said)):
        require_rows_of(told, data, Path("run"))


def test_levels_of_no_row_and_arrays_without_names_are_no_other_rows():
    rows = pd.DataFrame({"grade": ["a", "b", "a"], "x": [0.5, 1.5, 2.5]})
    data = pv.Dataset(rows)
    known = pv.Dataset(rows, levels={"grade": ["a", "b", "c"]})
    for before in (data, known):
        for now in (data, known, pv.Dataset(data.x)):
            require_rows_of(told_of(before), now, Path("run"))


@pytest.mark.parametrize("name", ["column", "level", "level of a covariate"])
def test_every_command_refuses_a_table_of_other_names(table, tmp_path, name):
    change, said = RENAMED[name]
    path = tmp_path / "rows.csv"
    read(table).to_csv(path)
    run = tmp_path / "run"
    families = ["--set", 'likelihood.families.income="Gaussian"']
    assert call("fit", path, "-o", run, *FLAGS, *families, "--num-steps", 2, "-q").exit_code == 0
    change(read(table)).to_csv(path)
    for command in ("score", "impute"):
        result = call(command, run, table, "--output", tmp_path / f"{command}.csv")
        assert said in one_error(result, result.exit_code)
    result = call("evaluate", run)
    assert said in one_error(result, result.exit_code)


def test_rows_that_training_used_are_named(table, tmp_path):
    """The last training of a table is one of training and validation rows together."""
    run = tmp_path / "run"
    few = ["--num-particles", 30, "--quiet"]
    fitted = call("fit", table, "-o", run, "--drop", "site", "--num-steps", 5, "--quiet")
    assert fitted.exit_code == 0
    assert "rows were used" not in fitted.stdout
    for split in ("valid", "train"):
        told = call("evaluate", run, "--split", split, *few).stdout
        assert "These rows were used for training, so that log p(x) of new rows is lower" in told


def test_a_study_does_not_mix_rows_of_two_tables(table, tmp_path):
    path = tmp_path / "rows.csv"
    rows = read(table)[["visits", "income"]]
    rows.to_csv(path)
    short = {"num_epochs": 1, "batch_size": 50}
    changes = [("data.name", str(path)), *((f"training.{k}", v) for k, v in short.items())]
    changes += [("evaluation.num_particles", 30), ("likelihood.name", "StudentT")]

    def study(*seeds):
        configs = {s: read_config(changes=[*changes, ("training.seed", s)]) for s in seeds}
        return Study(tuple(Cell({"training.seed": s}, each) for s, each in configs.items()))

    run_study(study(0), tmp_path / "study", progress=False)
    rows.assign(income=3 * rows["income"]).to_csv(path)
    with pytest.raises(ConfigError, match="seed=0 was trained on other rows than those of 'rows'"):
        run_study(study(0, 1), tmp_path / "study", progress=False)


# --- new rows and drawn rows ----------------------------------------------------------------------


def test_scores_are_those_of_python_for_columns_in_any_order(finished, table, tmp_path):
    new = read(table).iloc[5:12].drop(columns=["site", "w"]).assign(town="Rome")
    new[list(new)[::-1]].to_csv(tmp_path / "new.csv")
    output = tmp_path / "scores.csv"
    result = call("score", finished[0], tmp_path / "new.csv", "-o", output, "--quiet")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"log p(x) of 7 rows in {output}")
    run = load_run(finished[0])
    rows = pv.Dataset(new.drop(columns="town"), context=["age", "sex"], levels=run.data.levels)
    expected = pv.log_evidence(run.model, run.guide, rows, num_particles=50, progress=False)
    scores = read(output)
    assert list(scores.index) == list(new.index)
    others = pv.log_evidence(
        run.model, run.guide, run.data.test.unweighted(), num_particles=50, progress=False
    )
    for name in ("log_evidence", "mc_se", "pareto_k"):
        np.testing.assert_allclose(scores[name], getattr(expected, name), rtol=1e-6)
    alike = expected.spread <= others.spread.max()
    with pytest.warns(UserWarning, match="3 rows of 34 are in more than one part"):
        together = pooled([expected, others])[:7].is_estimate
    assert list(scores["is_estimate"][alike]) == list(together[alike])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda new: new.drop(columns="age"), "new.csv: no column 'age' for context"),
        (lambda new: new.drop(columns="visits"), "new.csv: no column 'visits' for x"),
        (lambda new: new.assign(region="x"), "new.csv: column 'region' of x is 'x' at row 0"),
        (lambda new: new.assign(sex="x"), "new.csv: column 'sex' of context is 'x' at row 0"),
        (lambda new: new.assign(income="high"), "column 'income' of x has levels 'high'"),
    ],
)
def test_new_rows_that_do_not_fit_are_refused(finished, table, tmp_path, change, said):
    change(read(table).head(3)).to_csv(tmp_path / "new.csv")
    result = call("score", finished[0], tmp_path / "new.csv", "-o", tmp_path / "s.csv", "--quiet")
    assert said in one_error(result, result.exit_code)
    assert not (tmp_path / "s.csv").exists()


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_drawn_rows_have_the_columns_of_the_file(finished, table, tmp_path, suffix):
    path = tmp_path / f"drawn{suffix}"
    result = call("sample", finished[0], "--num-samples", 9, "-o", path)
    assert result.exit_code == 0, result.output
    drawn = pd.read_csv(path) if suffix == ".csv" else pd.read_parquet(path)
    run = load_run(finished[0])
    with pv.seeded(0):
        x = run.model.sample(9, run.data.test[:9].context)
    expected = run.data.to_frame(x)
    assert list(drawn) == [*expected, "age", "sex"]
    for name in ("region", "grade", "smokes", "visits"):
        assert list(drawn[name]) == list(expected[name])
    covariates = read(table).iloc[run.data.splits["test"][:9]]
    assert list(drawn["sex"]) == list(covariates["sex"])
    if suffix == ".parquet":
        assert (drawn.dtypes["region"], drawn.dtypes["age"]) == ("category", "int64")


def test_rows_are_drawn_for_the_covariates_of_a_file(finished, tmp_path):
    given = pd.DataFrame({"sex": ["male", "female"], "age": [33, 44]})
    given.to_csv(tmp_path / "context.csv", index=False)
    path = tmp_path / "drawn.csv"
    command = ["sample", finished[0], "-o", path, "--context", tmp_path / "context.csv"]
    assert call(*command).exit_code == 0
    pd.testing.assert_frame_equal(pd.read_csv(path)[["sex", "age"]], given)
    assert "there are 2 in " in one_error(call(*command, "--num-samples", 3), 2)
    given.drop(columns="age").to_csv(tmp_path / "context.csv", index=False)
    assert "context.csv: no column 'age' for context" in one_error(call(*command), 2)


def test_families_are_classes_of_likelihoods(table):
    changes = [("likelihood.name", "Columns"), ("likelihood.families", {"income": "Poisson"})]
    chosen = read_config(changes=[("data.name", str(table)), *changes]).likelihood
    likelihood = chosen.of(pv.Dataset(frame(20)))
    assert isinstance(likelihood, likelihoods.Columns)
    assert type(likelihood.parts[0]) is likelihoods.Poisson


# --- a table that changes before its run is finished ----------------------------------------------

RNG = np.random.default_rng(5)
COUNTS = pd.DataFrame({"y": RNG.poisson(50, 80), "z": RNG.normal(size=80)})
LEVELS = COUNTS.assign(y=np.where(COUNTS.y > 50, "p", "q"))
CORRECTED = {
    "a column becomes counts": (COUNTS.assign(y=COUNTS.y + 0.25), COUNTS),
    "one cell was no count": (COUNTS.assign(y=COUNTS.y.astype(float).replace(50, 50.5)), COUNTS),
    "a level disappears": (LEVELS.assign(y=LEVELS.y.where(LEVELS.index != 7, "r")), LEVELS),
}


def interrupted(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", CORRECTED)
def test_a_run_that_was_begun_with_another_table_is_refused(name, tmp_path, monkeypatch):
    """Its likelihoods were chosen from rows that are no longer there."""
    before, after = CORRECTED[name]
    path, folder = tmp_path / "table.csv", tmp_path / "run"
    command = ("fit", path, "-o", folder, "--num-steps", 20, "--quiet")
    with monkeypatch.context() as patch:
        patch.setattr("ppl_vae.experiment.run.fit", interrupted)
        before.to_csv(path, index=False)
        assert call(*command).exit_code == 130
    after.to_csv(path, index=False)
    said = one_error(call(*command), 2)
    assert f"{folder} holds a run of other rows, or of other likelihoods (likelihood" in said
    assert ".y" in said
    before.to_csv(path, index=False)
    assert call(*command).exit_code == 0


def test_a_finished_run_asked_for_another_evaluation_names_the_command(tmp_path):
    path, folder = tmp_path / "table.csv", tmp_path / "run"
    COUNTS.to_csv(path, index=False)
    assert call("fit", path, "-o", folder, "--num-steps", 20, "--quiet").exit_code == 0
    again = ("fit", folder / "config.toml", "-o", folder, "--quiet")
    assert call(*again).exit_code == 0
    config = folder / "config.toml"
    text = config.read_text()
    config.write_text(text.replace("num_particles = 1000", "num_particles = 70"))
    assert config.read_text() != text
    said = one_error(call(*again), 2)
    assert "is 70, not 1000 as in run.json. For another evaluation: ppl-vae evaluate" in said
