"""A study on a real cluster of processes, one of which is killed midway: nothing is lost, and the
numbers are those of one process."""

import os
import signal
import threading
import time

import joblib
import numpy as np
import pytest

from ppl_vae.evidence import Evidence
from ppl_vae.experiment import read_study, run_study

distributed = pytest.importorskip("distributed", reason="needs dask and distributed")

STUDY = """
[data]
name = "digits"
binarize = "static"

[encoder]
hidden_dims = [16]

[decoder]
hidden_dims = [16]

[training]
num_epochs = 20

[evaluation]
num_particles = 30
num_data = 12

[grid]
training.seed = [0, 1]
"""


def evidence_of(folder):
    """log p(x) of each row, by cell."""
    files = sorted(folder.glob("cells/*/evidence.npz"))
    return {file.parent.name: Evidence.load(file).log_evidence for file in files}


def kill_one(client, folder, killed):
    """Kill a worker that computes, once a cell has begun and before all are done."""
    while not any(folder.glob("cells/*/config.toml")):
        time.sleep(0.02)
    busy = [name for name, tasks in client.processing().items() if tasks]
    process = client.run(os.getpid, workers=busy[:1])
    killed.append(next(iter(process.values())))
    os.kill(killed[0], signal.SIGKILL)


@pytest.mark.filterwarnings("ignore")  # distributed's own, when a worker is gone
def test_a_study_survives_the_death_of_a_worker(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(STUDY)
    study = read_study(path)
    one = run_study(study, tmp_path / "one", progress=False)
    killed = []
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with (
        distributed.LocalCluster(**options, processes=True) as cluster,
        distributed.Client(cluster) as client,
    ):
        arguments = client, tmp_path / "many", killed
        thread = threading.Thread(target=kill_one, args=arguments, daemon=True)
        thread.start()
        with joblib.parallel_config(backend="dask"):
            many = run_study(study, tmp_path / "many", progress=False)
        thread.join(timeout=60)
    assert len(killed) == 1
    assert many.failures == {}
    expected, found = (evidence_of(tmp_path / name) for name in ("one", "many"))
    assert list(found) == list(expected)
    assert len(found) == 2
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-6, err_msg=name)
    np.testing.assert_allclose(many.table["log_evidence"], one.table["log_evidence"], rtol=1e-6)
