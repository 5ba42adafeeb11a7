"""Good files with bytes changed, cut, doubled or replaced, before every reader."""

import json
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from test_properties import files as small_files

import ppl_vae as pv
from ppl_vae import likelihoods, posteriors, priors
from ppl_vae.errors import PplVaeError
from ppl_vae.experiment import load_run, read_study
from soak.children import forked, guarded
from soak.kills import prepare

DOCUMENTED = (PplVaeError, ValueError, TypeError, OSError, KeyError)
LONGEST = 1_200
SLOW = 10  # seconds
Reader = Callable[[Path], object]


def readers(folder: Path) -> dict[str, tuple[Path, Reader]]:
    """A good file of each kind, and what reads it."""
    found: dict[str, tuple[Path, Reader]] = dict(small_files())
    prepare(folder)
    run = folder / "run"
    for name in ("config.toml", "run.json", "weights.safetensors", "metrics.json"):
        found[f"run/{name}"] = (run / name, lambda path: load_run(path.parent))
    found["run/evidence.npz"] = (run / "evidence.npz", pv.Evidence.load)
    found["run/checkpoint.pt"] = (run / "checkpoint.pt", resumed)
    found["study.toml"] = (folder / "study.toml", read_study)
    packed, unpack = compressed(folder)
    found["compressed rows"] = (packed, unpack)
    return found


def resumed(path: Path) -> object:
    """A training that goes on from the file."""
    torch.manual_seed(0)
    model = pv.Model(priors.StandardNormal(1), likelihoods.Gaussian(2))
    guide = pv.Guide(posteriors.MeanFieldNormal(1), 2)
    training = pv.Training(num_epochs=1, checkpoint=path, progress=False)
    return pv.fit(model, guide, torch.zeros(10, 2), training=training)


def compressed(folder: Path) -> tuple[Path, Reader]:
    """A file of compressed rows, and what unpacks it."""
    torch.manual_seed(0)
    model = pv.Model(priors.StandardNormal(2), likelihoods.Bernoulli(6)).eval()
    guide = pv.Guide(posteriors.MeanFieldNormal(2), 6).eval()
    rows = torch.bernoulli(torch.full((12, 6), 0.4))
    path = folder / "rows.pplvae"
    path.write_bytes(pv.compress(model, guide, rows, progress=False))
    return path, lambda path: pv.decompress(model, guide, path.read_bytes(), progress=False)


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """One to four changes of the content."""
    found = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        at = int(rng.integers(0, len(found) + 1))
        piece = rng.bytes(int(rng.integers(1, 10)))
        match rng.integers(0, 6):
            case 0:
                found[at : at + len(piece)] = piece
            case 1:
                del found[at:]
            case 2:
                found[at:at] = piece
            case 3:
                found[at:at] = found[at : at + 40] * 5
            case 4 if at < len(found):
                found[at] ^= 1 << int(rng.integers(0, 8))
            case 5:
                del found[at : at + int(rng.integers(1, 40))]
    return bytes(found)


def soak(num_files: int, folder: Path, seed: int = 0) -> dict[str, Any]:
    """So many damaged files, equally before each reader, in processes that may not execute."""
    total: dict[str, Any] = {"files": 0, "refused": 0, "read": 0, "faults": []}
    known = readers(folder)
    each = -(-num_files // len(known))
    for number, (kind, (good, read)) in enumerate(known.items()):
        told = folder / "told.json"
        told.unlink(missing_ok=True)
        rng = np.random.default_rng([seed, number])
        job = partial(_read_many, kind, good, read, each, rng, told)
        ended = forked(guarded(job), folder / "log", limit=3600)
        if ended.code != 0:
            total["faults"].append(
                (kind, f"the process ended with {ended.code}", ended.text[-500:])
            )
            continue
        found = json.loads(told.read_text("utf-8"))
        for key in ("files", "refused", "read", "faults"):
            total[key] += found[key]
    return total


def _read_many(
    kind: str, good: Path, read: Reader, number: int, rng: np.random.Generator, told: Path
) -> None:
    found: dict[str, Any] = {"files": 0, "refused": 0, "read": 0, "faults": []}
    content = good.read_bytes()
    place = Path(tempfile.mkdtemp()) / good.parent.name
    shutil.copytree(good.parent, place, ignore=lambda *_: [] if "run" in kind else {good.name})
    path = place / good.name
    warnings.simplefilter("ignore")
    for _ in range(number):
        path.write_bytes(damaged(content, rng))
        found["files"] += 1
        fault = _fault(read, path, found)
        if fault:
            found["faults"].append((kind, fault))
    told.write_text(json.dumps(found), encoding="utf-8")


def _fault(read: Reader, path: Path, found: dict[str, Any]) -> str:
    started = time.monotonic()
    try:
        read(path)
        found["read"] += 1
    except DOCUMENTED as error:
        found["refused"] += 1
        said = str(error)
        if "\n" in said or len(said) > LONGEST:
            return f"not one line: {said[:300]}"
    except Exception as error:
        return f"undocumented {type(error).__name__}: {str(error)[:300]}"
    if time.monotonic() - started > SLOW:
        return f"took {time.monotonic() - started:.0f} s"
    return ""
