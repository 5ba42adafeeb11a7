"""Several processes give what one gives: the same evidence exactly, the same training where no
noise is drawn."""

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.multiprocessing as mp
from cases import EVENT, data_for, vae
from pyro.nn import PyroModule

import ppl_vae as pv
from ppl_vae import objectives
from ppl_vae.runtime.distributed import (
    add_up,
    check_share,
    from_main,
    gathered,
    num_processes,
    process_group,
    rank,
)

ROWS = 50  # in batches of 16: neither the batches nor the last one's rows divide by the processes


class Pointwise(PyroModule):
    """A guide and model without noise: z is a point, so that all processes together are one."""

    def __init__(self, is_guide):
        super().__init__()
        self.map, self.is_guide = (
            torch.nn.Linear(EVENT if is_guide else 2, 2 if is_guide else EVENT),
            is_guide,
        )

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            if self.is_guide:
                return pyro.sample("z", dist.Delta(self.map(x), event_dim=1))
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Bernoulli(logits=self.map(z)).to_event(1), obs=x)


def trained(folder, num_parts=1):
    torch.manual_seed(rank())  # other weights in each process: the main one's count
    programs = Pointwise(False), Pointwise(True)
    settings = {
        "num_epochs": 3,
        "batch_size": 16,
        "progress": False,
        "num_parts": num_parts,
        "clip_norm": 1.0,
    }
    training = pv.Training(checkpoint=folder / "checkpoint.pt" if folder else None, **settings)
    data = pv.Dataset(data_for("Bernoulli", ROWS)).split(valid=10)
    found = pv.fit(*programs, data, objective=objectives.TraceELBO(), training=training)
    weights = torch.cat(
        [p.detach().flatten() for program in programs for p in program.parameters()]
    )
    return weights, found.history["train"], found.history["valid"]


def evidence():
    torch.manual_seed(0)
    found = pv.log_evidence(
        *vae(), data_for("Bernoulli", 33), num_particles=50, chunk_size=100, progress=False
    )
    return found.log_evidence, found.pareto_k


def job(index, size, folder):
    import os

    os.environ |= {"RANK": str(index), "WORLD_SIZE": str(size), "LOCAL_RANK": str(index)}
    torch.set_num_threads(1)
    with process_group():
        assert (num_processes(), rank(), gathered(index), from_main(index)) == (
            size,
            index,
            list(range(size)),
            0,
        )
        ones = torch.ones(2)
        add_up([ones])
        assert ones.tolist() == [size, size]
        check_share(size)
        with pytest.raises(
            ValueError, match=f"^batch_size=1 is shared by {size} processes: .*, batch_size={size}$"
        ):
            check_share(1)
        result = {"trained": trained(folder), "resumed": trained(folder), "evidence": evidence()}
    torch.save(result, folder / f"{index}.pt")
    # One process in hundreds was aborted by threads of torch's while Python closed down.
    os._exit(0)


@pytest.mark.parametrize("size", [3])  # uneven shares
def test_processes_share_the_work_of_one(size, tmp_path, monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(29500 + size))
    mp.spawn(job, (size, tmp_path), nprocs=size)
    weights, train, valid = trained(None)
    log_evidence, pareto_k = evidence()
    for index in range(size):
        found = torch.load(tmp_path / f"{index}.pt", weights_only=False)
        for key in ("trained", "resumed"):
            assert torch.allclose(found[key][0], weights, rtol=1e-4, atol=1e-6)
            assert found[key][1] == pytest.approx(train, rel=1e-5)
            assert found[key][2] == pytest.approx(valid, rel=1e-5)
        assert (found["evidence"][0] == log_evidence).all()
        assert (found["evidence"][1] == pareto_k).all()


@pytest.mark.parametrize("num_parts", [2, 5, 100])
def test_a_batch_in_parts_has_the_same_gradient(num_parts):
    whole, parts = trained(None), trained(None, num_parts=num_parts)
    assert torch.allclose(parts[0], whole[0], rtol=1e-4, atol=1e-6)
    assert parts[1] == pytest.approx(whole[1], rel=1e-5)
