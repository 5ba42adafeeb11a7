"""A mixed table with holes: from a frame to held-out log p(x), a picture and drawn rows.

    python examples/mixed_table.py --output runs/mixed_table

Two hidden factors, wealth and health, make a column of each kind: real, positive, count, category,
ordered and Boolean; a tenth of the cells is missing. The recipe chooses a likelihood for each
column and the settings; its code is printed, to be copied and changed. log p(x) of rows that
training never saw stands beside that of plain models. The last cell does with the file what
`ppl-vae fit table.csv` and `ppl-vae report` do in the shell: report.html is one page of verdicts.

--quick takes fewer rows and steps, and writes no report.
"""

# %% The table

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

import ppl_vae as pv
from ppl_vae.diagnostics import baselines, plot_table
from ppl_vae.experiment import recipe_config, run_experiment
from ppl_vae.report import write_report

NUM_ROWS = 1500
NUM_STEPS = 3000
QUICK = (300, 300)


def simulate(num_rows, seed=0):
    """A frame whose columns depend on each other through two factors."""
    rng = np.random.default_rng(seed)
    wealth, health = rng.normal(size=(2, num_rows))
    noise = rng.normal(size=(num_rows, 3))
    frame = pd.DataFrame(
        {
            "mood": health + 0.5 * noise[:, 0],
            "income": np.exp(10 + 0.4 * wealth + 0.1 * noise[:, 1]),
            "visits": rng.poisson(np.exp(1 - 0.8 * health)),
            "town": np.where(rng.random(num_rows) < 0.2, "other", np.where(wealth > 0, "A", "B")),
            "grade": pd.cut(
                health + 0.4 * noise[:, 2], [-9, -1, 1, 9], labels=["low", "mid", "top"]
            ),
            "smokes": rng.random(num_rows) < 1 / (1 + np.exp(1 + 2 * health)),
        }
    )
    return frame.mask(rng.random(frame.shape) < 0.1)


# %% From the frame to log p(x), and to rows again


def analyse(frame, num_steps):
    """log p(x) of held-out rows beside plain models, and as many drawn rows as observed ones."""
    data = pv.Dataset(frame, name="mixed").split(valid=0, test=0.3, seed=0)
    recipe = pv.recipe(data, num_steps=num_steps, progress=False)
    print(recipe)
    print(recipe.model.likelihood)
    recipe.fit()
    evidence = pv.log_evidence(recipe.model, recipe.guide, data.test, progress=False)
    plain = baselines(recipe.data, recipe.model.likelihood)
    comparison = pv.compare_models({"VAE": evidence, **plain}, reference="VAE")
    print(comparison)
    with pv.seeded(0):
        drawn = recipe.model.sample(len(frame))
    return data, comparison, data.to_frame(drawn)


# %% Everything, with a picture of observed (grey) and drawn (blue) rows


def main(arguments=None):
    """Write table.csv, drawn.csv and mixed_table.png into the folder, and return what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/mixed_table"))
    parser.add_argument("--quick", action="store_true", help="fewer rows and steps")
    options = parser.parse_args(arguments)
    num_rows, num_steps = QUICK if options.quick else (NUM_ROWS, NUM_STEPS)
    options.output.mkdir(parents=True, exist_ok=True)
    frame = simulate(num_rows)
    frame.to_csv(options.output / "table.csv", index=False)
    data, comparison, drawn = analyse(frame, num_steps)
    drawn.to_csv(options.output / "drawn.csv", index=False)
    axes = plot_table(data, pv.Dataset(drawn, levels=data.levels).x)
    axes[0, 0].figure.savefig(options.output / "mixed_table.png", dpi=150)
    if not options.quick:
        config = recipe_config(options.output / "table.csv", [("data.test", 0.3)])
        run_experiment(config, options.output / "run")
        print(write_report(options.output / "run"))
    return comparison, frame, drawn


if __name__ == "__main__":
    main()
