"""Tables in text files, as people have them: separators, headers, dates, identifiers; and the
remedies in the words of the shell."""

import itertools
import json
import re
import shlex

import numpy as np
import pandas as pd
import pytest
import torch
from test_cli import call
from test_comparison import evidence_of

import ppl_vae as pv
from ppl_vae import likelihoods
from ppl_vae.cli.words import in_flags
from ppl_vae.data.tables.files import Roles, read_frame, told_missing
from ppl_vae.data.tables.schema import Schema
from ppl_vae.data.tables.text_files import Missing, with_codes
from ppl_vae.diagnostics.table_plot import _limits
from ppl_vae.errors import DataError
from ppl_vae.experiment.metrics import Estimates
from ppl_vae.experiment.rows.samples import _with_context_of
from ppl_vae.experiment.rows.sources import load_data, new_rows
from ppl_vae.experiment.tables import DataTable
from ppl_vae.report.answers import answers
from ppl_vae.report.diagnoses.baselines import proved
from ppl_vae.report.diagnoses.run import _num_repeated
from ppl_vae.training.warnings import constant_features, unobserved_features, warn_before


def written(folder, text):
    path = folder / "table.csv"
    path.write_text(text)
    return path


# --- headers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("h,h,g\n1,2,3\n", "table.csv has two columns 'h': rename one of them"),
        ("h;g;h\n1;2;3\n", "table.csv has two columns 'h': rename one of them"),
        ('"h","g","h"\n1,2,3\n', "table.csv has two columns 'h': rename one of them"),
        ("h,g\n", "table.csv has a header and no rows"),
        ("", "table.csv is empty"),
        ("\n \n\n", "table.csv is empty"),
    ],
)
def test_a_file_without_a_table_is_refused(tmp_path, text, said):
    with pytest.raises(ValueError, match=re.escape(said) + "$"):
        read_frame(written(tmp_path, text))


def test_a_renamed_column_is_a_column(tmp_path):
    assert list(read_frame(written(tmp_path, "h,h.1,,\n1,2,3,4\n"))) == [
        "h",
        "h.1",
        "Unnamed: 2",
        "Unnamed: 3",
    ]


# --- separators -----------------------------------------------------------------------------------

CELLS = ["a", "the, end", "x;y", 'say "so"', "two\nlines"]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("columns", [["h", "c"], ["h, cm", "c"], ["h", "c", "d"]])
def test_the_separator_is_that_of_the_header(tmp_path, separator, index, columns):
    frame = pd.DataFrame({name: CELLS for name in columns})
    path = written(tmp_path, frame.to_csv(sep=separator, index=index))
    found = read_frame(path)
    pd.testing.assert_frame_equal(found[columns], frame)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_names_of_rows_need_no_header(tmp_path, separator):
    text = "h,c\nx,1,2\ny,3,4\n".replace(",", separator)
    found = read_frame(written(tmp_path, text))
    assert found.index.tolist() == ["x", "y"]
    assert found.to_numpy().tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("text", ["a b\n1\n2\n", "a\n1;2\n3;4\n", '"a;b"\n1\n2\n'])
def test_one_column_stays_one_column(tmp_path, text):
    assert read_frame(written(tmp_path, text)).shape[1] == 1


# --- strings that are no categories ---------------------------------------------------------------

DAYS = pd.date_range("2007-11-09", periods=40, freq="11D")
FORMATS = [
    *("%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%d.%m.%Y", "%m/%d/%Y", "%m/%d/%y", "%d-%m-%y"),
    *("%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%SZ", "%d %B %Y", "%d-%b-%Y", "%B %d, %Y", "%b %Y"),
    *("%Y-%m", "%H:%M:%S", "%H:%M", "%Y-%m-%d %H:%M:%S.%f", "%Y-%m-%dT%H:%M:%S+01:00"),
]
NO_DATES = [
    *(["May", "June", "July"], ["mon", "tue"], ["10-19", "20-29", "30-39"], ["1:10", "1:80"]),
    *(["1.2.3", "1.2.10"], ["2007", "2008b"], ["q1 2007", "q2 2007"], ["a1-2", "b1-2"]),
    *(["March Street", "May Road"], ["192.168.1.1", "10.0.0.1"], ["A/B", "B/C"], ["555-1234"]),
    *(["1 to 5", "6 to 10"], ["12:75", "80:20"], ["Julius", "Augusta"], ["2007-2008", "2008-2009"]),
]


@pytest.mark.parametrize("role", ["x", "context"])
@pytest.mark.parametrize("often", [1, 10])
@pytest.mark.parametrize("written_as", FORMATS)
def test_dates_as_text_are_refused(written_as, often, role):
    stamps = DAYS + pd.to_timedelta(np.arange(40) * 3.5, "h")
    dates = [each.strftime(written_as) for each in stamps]
    frame = pd.DataFrame({"h": range(41 * often), "day": [*dates, "unknown"] * often})
    context = ["day"] if role == "context" else None
    said = f"column 'day' of {role} is '{dates[0]}' at row 0, a date or time as text: give a num"
    with pytest.raises(TypeError, match=re.escape(said)):
        pv.Dataset(frame, context=context)
    typed = frame.astype({"day": "category"})
    assert len(pv.Dataset(typed, context=context).levels["day"]) == frame["day"].nunique()


@pytest.mark.parametrize("levels", NO_DATES, ids=" ".join)
def test_categories_are_no_dates(levels):
    data = pv.Dataset(pd.DataFrame({"level": levels * 5}))
    assert data.levels["level"] == tuple(sorted(levels))


@pytest.mark.parametrize(
    "values", [["1,5", "2,25"], ["-1,5", "2"], [",5", "7", "3"], ["1,178.6", "2.5"]]
)
def test_numbers_with_a_comma_are_refused(values):
    point = next(each for each in values if "," in each)
    said = f"is '{point}' at row 0, a number with a comma: write a point for a decimal comma"
    with pytest.raises(ValueError, match=re.escape(said)):
        pv.Dataset(pd.DataFrame({"h": values * 4}))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_a_text_file_in_another_encoding_names_the_right_one(encoding, tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1,2\n", encoding=encoding)
    with pytest.raises(DataError, match="a.csv has zero bytes, as UTF-16 has: save it .* UTF-8"):
        read_frame(tmp_path / "a.csv")


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_comment_is_no_header(separator, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(f"# made in May\na{separator}b\n1{separator}2\n")
    with pytest.raises(DataError, match="begins with '# made in May', no header: remove this line"):
        read_frame(path)
    path.write_text(f"#a{separator}b\n1{separator}2\n")
    assert list(read_frame(path)) == ["#a", "b"]


@pytest.mark.parametrize("values", [["1, 2", "1"], ["1,2,3", "1,2"], ["a,5", "1,5"]])
def test_lists_are_categories(values):
    assert len(pv.Dataset(pd.DataFrame({"h": values * 4})).levels["h"]) == 2


@pytest.mark.parametrize(
    ("num_levels", "num_rows", "is_taken"),
    [
        (10, 10, True),
        (11, 22, False),
        (11, 23, True),
        (1_000, 2_001, True),
        (10_000, 20_000, False),
        (1_001, 20_000, False),
    ],
)
def test_a_category_has_rows_for_its_levels(num_levels, num_rows, is_taken):
    strings = [f"t{i % num_levels}" for i in range(num_rows)]
    frame = pd.DataFrame({"t": strings})
    if is_taken:
        assert len(pv.Dataset(frame).levels["t"]) == num_levels
        return
    said = f"{num_levels:,} different strings in {num_rows:,} rows, (like an id|and a category)"
    with pytest.raises(ValueError, match=said):
        pv.Dataset(frame)
    assert len(pv.Dataset(frame.astype("category")).levels["t"]) == num_levels


# --- categories by name ---------------------------------------------------------------------------


def test_a_file_says_what_is_a_category(tmp_path):
    path = written(tmp_path, "h,region,name\n" + "1.5,10,p1\n2.5,9,p2\n0.5,,p3\n" * 5)
    table = DataTable(name=str(path), categories=("region", "name"), valid=0, test=0)
    data = load_data(table)
    assert data.kinds == ("positive", "category", "category")
    assert data.levels == {"region": ("9", "10"), "name": ("p1", "p2", "p3")}
    context = load_data(table.model_copy(update={"context": ("name",)}))
    assert context.context_names == ("name[p1]", "name[p2]", "name[p3]")
    with pytest.raises(KeyError, match="no column 'town' for categories"):
        Roles(categories=("town",)).fields(read_frame(path), path)


# --- remedies in the words of the shell -----------------------------------------------------------

NAMES = ["t", "Individual ID", "it's", "a,b", 'say "so"', "back\\slash"]
WRONG = {
    "identifier": [f"p{i}" for i in range(30)],
    "levels": [f"p{i % 1500}" for i in range(30 * 150)],
    "times": list(pd.date_range("2020", periods=30)),
    "dates": [f"2020-01-{i:02}" for i in range(1, 31)],
    "commas": [f"{i},5" for i in range(30)],
    "text": [str(i) for i in range(30)],
    "mixed": ["a", 1] * 15,
}


@pytest.mark.parametrize(
    ("name", "wrong", "role"), [*itertools.product(NAMES, WRONG, ["x", "context"])]
)
def test_every_remedy_is_an_option(name, wrong, role):
    frame = pd.DataFrame({name: WRONG[wrong]})
    frame["h"] = range(len(frame))
    with pytest.raises((TypeError, ValueError)) as caught:
        pv.Dataset(frame, context=[name] if role == "context" else None)
    said = in_flags(str(caught.value))
    assert in_flags(said) == said
    assert not re.search(r"frame\.|\.dt\.|astype|drop it|index", said)
    remedies = re.findall(r"\((--(?:drop|categories|set) .*?)\)(?=,|$)", said)
    assert remedies or role == "context"
    for option in remedies:
        flag, value = shlex.split(option)
        if "," in name:
            assert value in (f'data.drop=["{name}"]', f'data.categories=["{name}"]')
        else:
            assert (flag, value) in (("--drop", name), ("--categories", name))
    assert ("leave it out of --context" in said) == (
        role == "context" and wrong not in ("commas", "text")
    )


@pytest.mark.parametrize("name", ["k", "Individual ID", "a,b"])
def test_columns_without_information_are_dropped_by_an_option(name):
    for said in (constant_features([name], 4), unobserved_features([name], 4)):
        told = in_flags(said)
        option = re.search(r"leave it out \((.*)\)$", told)[1]
        assert shlex.split(option)[1].endswith(f'["{name}"]' if "," in name else name)
        assert in_flags(told) == told
    for unnamed in ("3", "(0, 1)"):
        assert in_flags(constant_features([unnamed], 4)).endswith("; leave it out")


# --- what fit tells -------------------------------------------------------------------------------


def told(x, caplog, **options):
    """What is said before training on a frame."""
    data = pv.Dataset(x, **options)
    model = pv.Model(pv.priors.StandardNormal(1), pv.likelihoods.Columns.of(data), start=data)
    caplog.clear()
    with caplog.at_level("WARNING"):
        warn_before(model, data)
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("repeats", [1, 2, 3])
@pytest.mark.parametrize("context", [None, ["c"]])
def test_rows_in_both_parts_are_counted(caplog, repeats, context):
    rng = np.random.default_rng(0)
    once = pd.DataFrame({"h": rng.normal(size=200), "c": rng.poisson(2, 200)})
    once.loc[::5, "h"] = np.nan
    x = pd.concat([once] * repeats)
    data = pv.Dataset(x).split(valid=0, test=0.3)
    keys = x.fillna(-99).apply(tuple, axis=1).to_numpy()
    seen = set(keys[data.splits["train"]])
    equal = sum(key in seen and key[0] != -99 for key in keys[data.splits["test"]])
    found = told(x, caplog, context=context, splits=data.splits)
    said = [f"{equal} of {len(data.test)} test rows equal a training row"]
    assert [each.partition(":")[0] for each in found] == said * (repeats > 1)


def test_discrete_rows_may_be_equal(caplog):
    x = pd.DataFrame({"a": [0, 1] * 100, "b": ["u", "v"] * 100})
    splits = {"train": range(100), "test": range(100, 200)}
    assert told(x, caplog, splits=splits) == []


@pytest.mark.parametrize(("num_levels", "said"), [(1, "is 't0' in all"), (30, "has 30 levels in")])
def test_levels_without_information_are_told(caplog, num_levels, said):
    x = pd.DataFrame({"t": [f"t{i % num_levels}" for i in range(120)], "h": np.arange(120) % 7})
    [found] = told(x, caplog)
    assert found.startswith(f"column 't' of x {said}")
    assert "--drop t" in in_flags(found)


@pytest.fixture(scope="module")
def constant(tmp_path_factory):
    """A run of a table with a column that does not vary."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("constant")
    frame = pd.DataFrame({"h": rng.normal(size=120), "c": rng.poisson(2, 120), "k": 7.0})
    frame["site"] = rng.choice(["A", "B"], 120)
    frame.to_csv(folder / "const.csv", index=False)
    short = ["--num-steps", 20, "--set", "evaluation.num_particles=50", "--context", "site"]
    return folder / "run", call("fit", folder / "const.csv", "-o", folder / "run", *short)


def test_fit_tells_what_the_columns_are_and_that_a_floor_sets_log_p(constant):
    folder, result = constant
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stderr.splitlines()]
    assert lines[:6] == [
        ["columns:"],
        ["column", "kind", "likelihood", "why"],
        ["h", "real", "StudentT"],
        ["c", "count", "NegativeBinomial"],
        ["k", "positive", "StudentT"],
        ["site", "category,", "2", "levels", "covariate", "given"],
    ]
    assert all(line[0] == "warning:" for line in lines[6:])
    assert "log p(x) is set by the scale floor of 'k'" in result.stdout
    assert "standard errors are valid" not in result.stdout
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["at_floor"] == ["k"]
    assert [each["column"] for each in metrics["columns"]] == ["h", "c", "k", "site"]
    assert "not usable" in (folder / "README.md").read_text()


def test_a_floor_is_not_usable_and_proves_nothing():
    metrics = Estimates(share_estimate=1.0, share_bad_k=0.0, at_floor=["k"])
    found = answers([], metrics)[0]
    assert (found.verdict, found.says) == ("fail", "set by the scale floor of 'k': not usable.")
    evidence = {name: evidence_of(np.full(50, 9.0 * (name == "vae"))) for name in ("vae", "plain")}
    comparison = pv.compare_models(evidence, reference="vae")
    assert proved(comparison).number == pytest.approx(9)
    assert proved(comparison, ["k"]).number == 0


@pytest.mark.parametrize("scale", [1.0, "global", "feature", "decoder"])
@pytest.mark.parametrize("family", [likelihoods.Gaussian, likelihoods.StudentT])
def test_the_share_at_the_floor_is_that_of_the_rows(family, scale):
    likelihood = family(2, scale=scale, floor=0.1)
    likelihood.build((3,))
    features = torch.linspace(-1, 1, 12).reshape(4, 3)
    assert likelihood.at_floor(features).tolist() == [0.0, 0.0]
    with torch.no_grad():
        if scale == "decoder":
            for parameter in likelihood.link.parameters():
                parameter.fill_(0.0)
            likelihood.link.linear.bias.fill_(-20.0)
        elif scale != 1.0:
            likelihood.raw_scale.fill_(-20.0)
    share = 0.0 if scale == 1.0 else 1.0
    assert likelihood.at_floor(features).tolist() == [share, share]
    assert bool(likelihood.concerns(features)) == (share == 1.0)


@pytest.mark.parametrize("separator", [",", ";"])
def test_separators_at_the_ends_of_rows_are_refused(tmp_path, separator):
    lines = ["a,b,c", *(f"{i},{i + 1},{i + 2}," for i in range(30))]
    path = written(tmp_path, "\n".join(lines).replace(",", separator))
    with pytest.raises(ValueError, match="rows that end with"):
        read_frame(path)


def test_a_column_is_not_its_own_covariate(tmp_path):
    path = written(tmp_path, "a,b\n" + "\n".join(f"{i}.5,{i % 7}" for i in range(60)))
    roles = Roles(columns=("a", "b"), context=("a",))
    with pytest.raises(ValueError, match="'a' of .* is modelled and a covariate of itself"):
        roles.fields(read_frame(path), path)


# --- what is missing ------------------------------------------------------------------------------

NAMED = ["NA", "None", "null", "NULL", "N/A", "n/a", "nan", "NaN", "<NA>"]


@pytest.mark.parametrize("name", [*NAMED, ""])
@pytest.mark.parametrize("spaces", ["", " ", "  "])
@pytest.mark.parametrize("is_text", [True, False])
def test_one_list_says_which_cells_are_missing(tmp_path, name, spaces, is_text):
    cells = ["u", f"{spaces}{name}{spaces}", "w"] if is_text else ["1.5", f"{name}{spaces}", "7"]
    path = written(tmp_path, "h,t\n" + "".join(f"{i},{each}\n" for i, each in enumerate(cells)))
    found = read_frame(path)["t"]
    assert found.isna().tolist() == [False, True, False]
    assert (found.dtype.kind == "f") == (not is_text)
    kept = read_frame(path, Missing(keep_default_na=False))["t"]
    assert kept.isna().tolist() == [False, name == "", False]
    again = read_frame(path, Missing((name,), keep_default_na=False))["t"]
    assert again.isna().tolist() == [False, True, False]


@pytest.mark.parametrize("mark", ["-", "?", ".", "-999", "unknown"])
@pytest.mark.parametrize("spaces", ["", " "])
def test_further_texts_may_be_missing(tmp_path, mark, spaces):
    path = written(
        tmp_path, "h,t\n" + "".join(f"{i},{i}.5\n" for i in range(9)) + f"9,{spaces}{mark}\n"
    )
    found = Roles(na_values=(mark,)).read(path)["x"]["t"]
    assert found.dtype == float
    assert found.isna().tolist() == [False] * 9 + [True]


@pytest.mark.parametrize("given", ["-", ["-"], ("?", "-")])
def test_read_takes_texts_of_missing_cells(tmp_path, given):
    path = written(tmp_path, "h,t\n1.5,NA\n-,v\n2.5,v\n")
    data = pv.read(path, na_values=given, keep_default_na=False)
    assert data.mask.tolist() == [[True, True], [False, True], [True, True]]
    assert data.levels == {"t": ("NA", "v")}
    texts = (given,) if isinstance(given, str) else tuple(given)
    assert data.schema.missing == Missing(texts, keep_default_na=False)


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".parquet", ".zarr"])
@pytest.mark.parametrize("given", [{"na_values": ["-"]}, {"keep_default_na": False}])
def test_texts_of_missing_cells_are_for_text_files(tmp_path, suffix, given):
    (tmp_path / f"x{suffix}").touch()
    with pytest.raises(ValueError, match=rf"x\{suffix} says itself what is missing"):
        pv.read(tmp_path / f"x{suffix}", **given)


@pytest.mark.parametrize("given", [3, None, [-999], [None]])
def test_texts_of_missing_cells_are_texts(tmp_path, given):
    path = written(tmp_path, "h\n1\n")
    with pytest.raises(ValueError, match="na_values is .*; it must be texts, as in"):
        pv.read(path, na_values=given)


@pytest.mark.parametrize("kind", ["int64", "uint64", "Int64", "object"])
@pytest.mark.parametrize(
    ("numbers", "first"),
    [
        ([2**53, 2**53 + 1, 2**53 + 2, 7], 2**53),
        ([3, 10**18 + 1, 10**18, 10**18 + 1], 10**18 + 1),
        ([2**53, 2**53 + 2, 2**60, 2**60], None),
        ([2**53 - 1, 2**53, 0, 1], None),
    ],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_integers_that_float64_does_not_tell_apart_are_named(caplog, kind, numbers, first, sign):
    if sign < 0 and kind == "uint64":
        pytest.skip("unsigned")
    column = pd.Series([sign * each for each in numbers], dtype=kind)
    frame = pd.DataFrame({"code": column, "v": [1.0, 2.0, 3.0, 4.0]})
    pv.Dataset(frame, dtype=torch.float64)
    said = [text for text in caplog.messages if "above 2^53" in text]
    assert len(said) == (first is not None)
    assert all(
        f"'code' of x has integers above 2^53, of which 2 are not told apart as numbers "
        f"(the first is {sign * (first or 0)})" in text
        for text in said
    )
    caplog.clear()
    pv.Dataset(frame.astype({"code": "category"}))
    assert not [text for text in caplog.messages if "above 2^53" in text]


def test_levels_that_were_read_as_missing_are_told(tmp_path):
    path = written(tmp_path, "t,h\n" + "u,NA\nNA,1\nNone,2\nNA,3\n,4\nv,5\n")
    said = "missing in 't': 'NA' (2 cells), 'None' (1 cell); keep_default_na = false would make "
    assert told_missing(path, Roles()) == said + "these levels"
    assert told_missing(path, Roles(keep_default_na=False)) is None


def test_a_parquet_says_itself_what_is_missing(tmp_path):
    pd.DataFrame({"t": ["NA", None, "v"]}).to_parquet(tmp_path / "t.parquet")
    assert Roles().read(tmp_path / "t.parquet")["x"]["t"].tolist()[::2] == ["NA", "v"]
    with pytest.raises(ValueError, match="na_values and keep_default_na are for .csv"):
        Roles(na_values=("v",)).read(tmp_path / "t.parquet")


def test_a_run_reads_new_rows_with_what_was_missing_in_training(tmp_path):
    rows = "".join(f"{i % 5},{'NA' if i % 3 else 'u'}\n" for i in range(60))
    path = written(tmp_path, "h,t\n" + rows)
    data = load_data(DataTable(name=str(path), keep_default_na=False, na_values=("?",)))
    assert data.levels["t"] == ("NA", "u")
    schema = Schema.from_json(json.loads(json.dumps(data.schema.to_json())))
    assert schema == data.schema
    path.write_text("h,t\n?,NA\n1,?\n")
    x = new_rows(path, schema).x
    assert x.isnan().tolist() == [[True, False], [False, True]]
    assert x[0, 1] == 0
    older = {k: v for k, v in data.schema.to_json().items() if "na" not in k.split("_")}
    assert Schema.from_json(older).missing == Missing()


# --- rows with other cells than the header --------------------------------------------------------


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("number", [1, 2, 4, 5])
@pytest.mark.parametrize("line", [2, 3, 40])
def test_rows_with_other_numbers_of_cells_are_refused(tmp_path, separator, number, line):
    lines = [["a", "b", "c"], *([f"{i}", "1", "2"] for i in range(50))]
    lines[line - 1] = ["7"] * number
    path = written(tmp_path, "".join(separator.join(each) + "\n" for each in lines))
    with pytest.raises(
        ValueError, match=r"line \d+ of .*table.csv has \d cells?, not \d: write all"
    ):
        read_frame(path)


@pytest.mark.parametrize(("text", "num_rows"), [("a\n1\n2\n\n\n", 2), ("a,b\n1,2\n\n3,4\n", 2)])
def test_blank_lines_are_no_rows(tmp_path, text, num_rows):
    assert len(read_frame(written(tmp_path, text))) == num_rows


def test_a_blank_line_may_be_a_missing_value_of_one_column(tmp_path):
    with pytest.raises(ValueError, match="line 3 of .* is blank, and its rows have one column"):
        read_frame(written(tmp_path, "a\n1\n\n2\n"))


# --- spaces ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("cells", [["1", " 2", "3 "], [" NA", "1.5", "2"], ["True ", " False", ""]])
def test_spaces_around_cells_do_not_count(tmp_path, cells):
    path = written(tmp_path, "a, b\n" + "".join(f"1,{each}\n" for each in cells))
    bare = written(tmp_path, "a,b\n" + "".join(f"1,{each.strip()}\n" for each in cells))
    path.write_text("a, b\n" + "".join(f"1,{each}\n" for each in cells))
    found = read_frame(path)
    bare.write_text("a,b\n" + "".join(f"1,{each.strip()}\n" for each in cells))
    pd.testing.assert_frame_equal(found, read_frame(bare))


@pytest.mark.parametrize("separator", ["|", " "])
@pytest.mark.parametrize("number", [2, 3])
def test_columns_that_something_else_separates_are_refused(tmp_path, separator, number):
    lines = [separator.join(cells) for cells in ("abc"[:number], "123"[:number])]
    with pytest.raises(ValueError, match=f"{number} columns that .* separates: write a comma"):
        read_frame(written(tmp_path, "\n".join(lines)))
    quoted = "\n".join(f'"{line}"' for line in lines)
    assert read_frame(written(tmp_path, quoted)).shape == (1, 1)


def test_carriage_returns_alone_are_refused(tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes(b"a,b\r1,2\r3,4\r")
    with pytest.raises(ValueError, match="end with a carriage return alone"):
        read_frame(path)


@pytest.mark.parametrize(
    "mark",
    [
        "{}%",
        "€{}",
        "$ {}",
        "{}°",
        "({})",
        "<{}",
        "\u2212{}",
        "0x{}F",
        "{} 000",
        "{}'000",
        "~{}",
        "{}d5",
        "-{}.5D-12",
    ],
)
def test_numbers_with_marks_are_told(mark):
    """Categories by type, plain numbers as text, ranges and codes of letters are not."""
    texts = [mark.format(number) for number in (5, 10, 15)] * 6
    with pytest.warns(UserWarning, match="holds numbers with other characters"):
        pv.Dataset(pd.DataFrame({"a": texts}))
    pv.Dataset(pd.DataFrame({"a": pd.Categorical(texts)}))
    pv.Dataset(pd.DataFrame({"a": texts}), levels={"a": sorted(set(texts))})


@pytest.mark.parametrize("levels", [("5", "10"), ("1-5", "6-10"), ("1st", "2nd"), ("A1", "B2")])
def test_other_levels_with_digits_are_not_told(levels):
    pv.Dataset(pd.DataFrame({"a": levels * 6}))


@pytest.mark.parametrize(("one", "two"), [("Male", "male"), ("\u00e9", "e\u0301"), ("ﬁ", "fi")])
def test_levels_that_differ_in_case_are_told(one, two):
    said = f"levels '{one}' and '{two}', which differ in case or encoding alone"
    with pytest.warns(UserWarning, match=said) as found:
        data = pv.Dataset(pd.DataFrame({"sex": [one, two, "other"] * 4}))
    assert len(data.levels["sex"]) == 3
    assert "frame[" not in in_flags(str(found[0].message))


def test_names_that_differ_in_spaces_are_one_name(tmp_path):
    with pytest.raises(ValueError, match="two columns 'a'"):
        read_frame(written(tmp_path, "a, a\n1,2\n"))


def test_levels_that_differ_in_spaces_are_refused():
    frame = pd.DataFrame({"sex": ["male", " male", "female"] * 5})
    with pytest.raises(ValueError, match="levels 'male' and ' male', which differ in spaces alone"):
        pv.Dataset(frame)


# --- a few texts among numbers --------------------------------------------------------------------


@pytest.mark.parametrize(
    "texts", [["kg"], ["-"], ["?"] * 3, ["-", "?"], ["<0.5"] * 20, ["n.a."] * 45]
)
@pytest.mark.parametrize("num_values", [8, 49])
def test_texts_among_numbers_are_named(texts, num_values):
    numbers = [f"{i % num_values}.5" for i in range(98 - len(texts))]
    column = [*texts[:1], *numbers, *texts[1:]]
    frame = pd.DataFrame({"h": column, "g": range(len(column))})
    said = f"'h' of x is {texts[0]!r} in {texts.count(texts[0])} row"
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        pv.Dataset(frame)
    assert f"a number in {len(numbers)} others; the first is row 0" in str(caught.value)
    assert ("of units?" in str(caught.value)) == (len(texts) == 1)
    flags = in_flags(str(caught.value))
    assert f"--na-values={shlex.quote(texts[0])}" in flags
    assert "--categories h" in flags
    assert len(pv.Dataset(frame.astype({"h": "category"})).levels["h"]) == len(set(column))


@pytest.mark.parametrize("levels", [["a", "1"], ["a", "b", "1", "2"], ["1 kg", "2 kg", "3"]])
def test_half_texts_are_a_category(levels):
    assert len(pv.Dataset(pd.DataFrame({"t": levels * 6})).levels["t"]) == len(levels)


@pytest.mark.parametrize(
    ("levels", "is_taken"), [(["1", "2"], True), ([*map(str, range(11))], False)]
)
def test_codes_as_text_are_categories_and_numbers_are_not(levels, is_taken):
    frame = pd.DataFrame({"t": levels * 5})
    if is_taken:
        assert pv.Dataset(frame).levels["t"] == tuple(levels)
        return
    with pytest.raises(ValueError, match="holds numbers as text"):
        pv.Dataset(frame)
    codes = frame.assign(t=frame["t"].str.zfill(3))
    assert len(pv.Dataset(codes).levels["t"]) == len(levels)


# --- levels by their names ------------------------------------------------------------------------

CODES = [10**8 + 1, 10**8 + 2, 2**53 + 1, 2**53 + 2]


@pytest.mark.parametrize("kind", ["int64", "str", "Int64"])
@pytest.mark.parametrize("role", ["x", "context"])
def test_codes_of_many_digits_are_told_apart(tmp_path, kind, role):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"h": rng.normal(size=40), "code": CODES * 10})
    frame.to_csv(tmp_path / "t.csv", index=False)
    context = ("code",) if role == "context" else ()
    table = DataTable(name=str(tmp_path / "t.csv"), categories=("code",), context=context)
    data = load_data(table)
    assert data.levels["code"] == tuple(map(str, CODES))
    expected = np.tile(np.arange(4), 10)

    def codes(rows):
        return rows.context.argmax(1).tolist() if context else rows.x[:, 1].tolist()

    assert codes(data) == expected.tolist()
    new = frame.astype({"code": kind})
    assert codes(new_rows(new, data.schema)) == expected.tolist()
    assert codes(new_rows(tmp_path / "t.csv", data.schema)) == expected.tolist()
    given = pv.Dataset(new, context=["code"] if context else None, levels=data.levels)
    assert codes(given) == expected.tolist()


def test_numbers_that_float32_holds_twice_are_refused_as_levels():
    frame = pd.DataFrame({"code": CODES[:2] * 3, "h": np.arange(6.0)})
    known = {"code": list(map(str, CODES[:2]))}
    assert pv.Dataset(frame).with_levels(known).x[:, 0].tolist() == [0, 1] * 3
    context = pv.Dataset(frame[["h"]], context=frame[["code"]])
    with pytest.raises(ValueError, match="levels of 16,777,216 or more are not told apart"):
        context.with_levels(known)


@pytest.mark.parametrize(
    ("cells", "levels"),
    [
        (["007", "7"], ("007", "7")),
        (["1.0", "2.0"], ("1", "2")),
        (["10", "9"], ("9", "10")),
        (["1.10", "1.1"], ("1.1", "1.10")),
        (["True", "False"], ("False", "True")),
    ],
)
def test_levels_of_a_file_are_as_written(tmp_path, cells, levels):
    path = written(tmp_path, "h,t\n" + "".join(f"{i},{cells[i % 2]}\n" for i in range(60)))
    data = load_data(DataTable(name=str(path), categories=("t",)))
    assert data.levels["t"] == levels
    again = new_rows(path, data.schema)
    assert again.levels == data.levels
    assert torch.equal(again.x, data.x)


# --- pandas by its index --------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["context", "labels", "weights", "args"])
@pytest.mark.parametrize("index", [[2, 1, 0], [0, 1, 7], ["a", "b", "c"], [0.0, 1.0, 2.0], [0, 1]])
def test_rows_of_pandas_have_the_index_of_x(what, index):
    x = pd.DataFrame({"a": [1.0, 2.0, 3.0]})
    other = pd.Series(np.arange(1.0, 1.0 + len(index)), index=index)
    given = {what: {"c": other} if what == "args" else other}
    if index == [0.0, 1.0, 2.0]:
        assert len(pv.Dataset(x, **given)) == 3
        return
    with pytest.raises(ValueError, match="reindex one like|x has 3"):
        pv.Dataset(x, **given)
    if len(index) == 3:
        assert len(pv.Dataset(x.to_numpy(), **given)) == 3


def test_a_missing_label_of_rows_is_one():
    index = [np.nan, 1.0, 2.0]
    x = pd.DataFrame({"a": [1.0, 2.0, 3.0]}, index=index)
    assert len(pv.Dataset(x, weights=pd.Series([1.0, 2.0, 3.0], index=index))) == 3


@pytest.mark.parametrize("kind", [list, tuple])
def test_a_list_with_an_entry_for_each_row_is_ambiguous(kind):
    x = np.zeros((3, 2))
    with pytest.raises(ValueError, match="entry for each of the 3 rows of x: give an array"):
        pv.Dataset(x, args={"lengths": kind([1, 2, 3])})
    data = pv.Dataset(x, args={"lengths": np.array([1, 2, 3]), "sizes": kind([4, 5])})
    assert data.args["lengths"].tolist() == [1, 2, 3]
    assert data.constants == {"sizes": kind([4, 5])}


@pytest.mark.parametrize("named", [True, False])
def test_pictures_and_tables_name_the_column_of_labels(named):
    rows = pd.DataFrame({"h": np.arange(4.0), "site": list("abab")})
    labels = "site" if named else list("abab")
    data = pv.Dataset(rows if named else rows[["h"]], labels=labels)
    assert data.label_name == data[:2].label_name == ("site" if named else "label")


@pytest.mark.parametrize(
    ("header", "is_told"), [("1.5,2", True), ("2001,2002", False), ("1.5,h", False), (",1.5", True)]
)
def test_a_row_instead_of_a_header_is_told(tmp_path, header, is_told):
    path = written(tmp_path, f"{header}\n1,2\n3,4\n")
    if not is_told:
        assert len(read_frame(path)) == 2
        return
    with pytest.warns(UserWarning, match="the header of .* holds numbers .*: if it is a row"):
        read_frame(path)


@pytest.mark.parametrize("value", [0.0, 7.0, -1e9, 1e-12])
@pytest.mark.parametrize("spread", [0.0, 1e-3, 1.0])
def test_limits_of_a_picture_hold_a_column_that_does_not_vary(value, spread):
    column = value + spread * max(abs(value), 1e-9) * np.linspace(-1, 1, 50)
    low, high = _limits(column, discrete=False)
    bins = np.linspace(low, high, 25)
    assert (np.diff(bins) > 0).all()
    assert low < np.median(column) < high
    assert high - low < 1.5 * np.ptp(column) or spread == 0


@pytest.mark.parametrize("repeats", [1, 2, 3])
def test_repeated_rows_are_counted(repeats):
    once = pd.DataFrame({"h": [0.0, 1.0, np.nan, 0.1], "c": [0, 1, 2, 3]})
    data = pv.Dataset(pd.concat([once] * repeats))
    assert _num_repeated(data) == 4 * (repeats - 1)
    assert _num_repeated(pv.Dataset(pd.DataFrame({"h": [0.0, -0.0, 1e-300]}))) == 1


def test_covariates_of_samples_have_the_levels_of_training(tmp_path):
    path = tmp_path / "context.csv"
    path.write_text("region\n007\n7\n007\n")
    levels = pd.DataFrame({"region": pd.Categorical(["007", "7"])})
    data = pv.Dataset(np.zeros((2, 1)), context=levels)
    rows = _with_context_of(path, data, Roles(context=("region",)))
    assert rows.context_frame()["region"].tolist() == ["007", "7", "007"]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("1.1 1.10 1.1", ["1.1", "1.10", "1.1"]),  # site and number of a patient
        ("01 1 2", ["01", "1", "2"]),
        ("9 10 9", [9, 10, 9]),
        ("a b a", ["a", "b", "a"]),
    ],
)
def test_codes_that_numbers_would_merge_are_kept_apart(tmp_path, written, expected):
    path = tmp_path / "new.csv"
    path.write_text("\n".join(["subject", *written.split()]) + "\n")
    assert Roles(label="subject").read(path)["labels"].tolist() == expected
    frame = with_codes(read_frame(path), read_frame(path, as_text=["subject"]), ["subject"])
    assert frame["subject"].tolist() == expected


def test_a_test_file_has_the_codes_of_the_training_file(tmp_path):
    """Levels and labels that look like numbers there are those of training."""
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    first.write_text("x,code,site\n" + "1.5,7,01\n2.5,A1,1\n0.5,A2,02\n" * 4)
    second.write_text("x,code,site\n1.0,7,1\n2.0,7,2\n")
    table = DataTable(
        name=str(first), test=str(second), label="site", categories=("code",), valid=0.25
    )
    data = load_data(table)
    assert data.levels["code"] == ("7", "A1", "A2")
    assert data.test.x[:, 1].tolist() == [0, 0]
    assert data.test.labels.tolist() == ["1", "2"]
    assert set(data.labels) == {"01", "1", "02", "2"}
    free = table.model_copy(update={"categories": ()})
    assert load_data(free).levels == data.levels


# --- numbers below those of floating point --------------------------------------------------------

TINY = ["1e-400", "-3.5E-324000", "0." + "0" * 330 + "7", "1e-324"]


@pytest.mark.parametrize("number", TINY)
@pytest.mark.parametrize("head", ["a,p\n1,", " a , p \nr1,1,", "a;p\n2;"])
def test_a_number_that_would_become_0_is_refused(head, number, tmp_path):
    path = tmp_path / "tiny.csv"
    rest = head.split("\n")[1]
    path.write_text(f"{head}0.5\n{rest.replace('r1', 'r2')}{number}\n")
    with pytest.raises(DataError, match=rf"column 'p' of .*tiny.csv has {number[:40]}.* is 0 in"):
        read_frame(path)


@pytest.mark.parametrize("number", ["0e-400", "0.0", "-0", "1e-300", "5e-324", "." + "0" * 400])
def test_zeros_and_the_smallest_floats_are_read(number, tmp_path):
    path = tmp_path / "small.csv"
    path.write_text(f"a,p\nu,0.5\nv,{number}\n")
    assert read_frame(path)["p"].tolist() == [0.5, float(number)]


def test_a_text_that_looks_like_a_tiny_number_is_one(tmp_path):
    path = tmp_path / "texts.csv"
    path.write_text("a,p\nlot 1e-400,0\nlot 2e-400,1\n")
    assert read_frame(path)["a"].tolist() == ["lot 1e-400", "lot 2e-400"]
