"""Other ways to complete a table m times: R's mice in one long-running process, scikit-learn's
IterativeImputer."""

import subprocess
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer

# Reads "rows columns m seed discrete methods" a line; x by columns from `given`, completed tables
# one after the other to `made`. Binary variables, named in `discrete`, are factors.
WORKER = """
suppressPackageStartupMessages(library(mice))
input <- file("stdin", "r")
while (length(line <- readLines(input, 1)) > 0) {
  parts <- strsplit(line, " ", fixed = TRUE)[[1]]
  n <- as.integer(parts[3]); p <- as.integer(parts[4]); m <- as.integer(parts[5])
  x <- as.data.frame(matrix(readBin(parts[1], "double", n * p), n, p))
  binary <- if (parts[7] == "-") integer(0) else as.integer(strsplit(parts[7], ",")[[1]])
  for (j in binary) x[[j]] <- factor(x[[j]], levels = c(0, 1))
  method <- if (parts[8] == "-") NULL else strsplit(parts[8], ",")[[1]]
  done <- tryCatch({
    made <- mice(x, m = m, method = method, seed = as.integer(parts[6]), printFlag = FALSE)
    all <- unlist(lapply(seq_len(m), function(i) {
      table <- complete(made, i)
      for (j in binary) table[[j]] <- as.numeric(as.character(table[[j]]))
      as.matrix(table)
    }))
    writeBin(as.double(all), parts[2])
    "done"
  }, error = function(e) paste("failed:", gsub("[\\r\\n]+", " ", conditionMessage(e))))
  cat(done, "\\n", sep = ""); flush(stdout())
}
"""


class Mice:
    """R's mice, started once and given one table after the other."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.given = Path(self.folder.name) / "given.bin"
        self.made = Path(self.folder.name) / "made.bin"
        script = Path(self.folder.name) / "worker.R"
        script.write_text(WORKER)
        self.process = subprocess.Popen(
            ["Rscript", str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(
        self,
        x: np.ndarray,
        num_imputations: int,
        seed: int,
        binary: Sequence[int] = (),
        methods: Sequence[str] | None = None,
    ) -> list[np.ndarray]:
        """Completed tables; `methods` has one of mice's for each column, None takes its own."""
        num_rows, num_columns = x.shape
        # R tells its NA from NaN, and mice takes both for missing.
        np.asfortranarray(x).ravel(order="F").tofile(self.given)
        named = ",".join(str(place + 1) for place in binary) or "-"
        asked = ",".join(methods) if methods else "-"
        sizes = f"{num_rows} {num_columns} {num_imputations} {seed + 1}"
        self.process.stdin.write(f"{self.given} {self.made} {sizes} {named} {asked}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        if answer != "done":
            raise RuntimeError(f"mice {answer or 'ended'}")
        values = np.fromfile(self.made).reshape(num_imputations, num_columns, num_rows)
        return list(values.transpose(0, 2, 1))


def iterative(x: np.ndarray, num_imputations: int, seed: int) -> list[np.ndarray]:
    """scikit-learn's IterativeImputer with draws from the posterior, m times."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it does not converge, since it draws
        return [
            IterativeImputer(sample_posterior=True, random_state=1000 * seed + i).fit_transform(x)
            for i in range(num_imputations)
        ]


def curved(x: np.ndarray, num_imputations: int, seed: int) -> list[np.ndarray]:
    """Proper imputation of the response of the nonlinear truth under its own regression.

    Coefficients and variance are drawn from their posterior under Jeffreys's prior."""
    rng = np.random.default_rng([seed, 3])
    design = np.stack([np.ones(len(x)), x[:, 0], x[:, 0] ** 2, x[:, 1]], axis=1)
    missing = np.isnan(x[:, 2])
    known, response = design[~missing], x[~missing, 2]
    inverse = np.linalg.inv(known.T @ known)
    centre = inverse @ known.T @ response
    squares = ((response - known @ centre) ** 2).sum()
    root = np.linalg.cholesky(inverse)
    tables = []
    for _ in range(num_imputations):
        sd = np.sqrt(squares / rng.chisquare(len(known) - 4))
        coefficients = centre + sd * root @ rng.normal(size=4)
        table = x.copy()
        noise = sd * rng.normal(size=missing.sum())
        table[missing, 2] = design[missing] @ coefficients + noise
        tables.append(table)
    return tables
