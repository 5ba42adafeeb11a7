"""Large products of recorded graphs by oneDNN: the same numbers, there and only there where it
pays."""

import pytest
import torch
from torch import nn

from ppl_vae.runtime.recording import compiled, products, recorded

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN"
)

OURS = torch.ops.ppl_vae.matmul.default
measured = products.onednn_is_faster
ROUNDING = 1e-5  # of the norm: sums of some hundred float32 products, in another order


@pytest.fixture(autouse=True)
def whatever_the_machine(monkeypatch):
    monkeypatch.setattr(products, "onednn_is_faster", lambda: True)


def drawn(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def calls(graph):
    return [node.target for node in graph.graph.nodes].count(OURS)


def error(found, one, other):
    """Of a product, as a share of its norm; the truth is float64's."""
    exact = one.double() @ other.double()
    return ((found - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("shape", [(128, 784, 400), (1, 3, 2), (2500, 20, 100)])
@pytest.mark.parametrize("turned", [(False, False), (True, False), (False, True), (True, True)])
def test_it_is_the_product_whatever_the_strides(shape, turned):
    rows, inner, columns = shape
    one = drawn(inner, rows).T if turned[0] else drawn(rows, inner)
    other = drawn(columns, inner).T if turned[1] else drawn(inner, columns)
    found = products.matmul(one, other)
    assert found.shape == (rows, columns)
    assert found.is_contiguous()
    assert error(found, one, other) < ROUNDING


def test_rows_with_gaps_between_them_are_copied_first():
    """oneDNN takes thousands of times as long for columns cut from a wider matrix."""
    wide, whole = drawn(30, 20), drawn(30, 8)
    for cut in (wide[:, :8], wide[:, :8].T):
        assert products.packed(cut).is_contiguous()
        assert torch.equal(products.packed(cut), cut)
    for matrix in (whole, whole.T, wide[3:9]):
        assert products.packed(matrix) is matrix
    assert error(products.matmul(wide[:, :8].T, whole), wide[:, :8].T, whole) < ROUNDING


@pytest.mark.parametrize("compile", [False, True])
def test_an_affine_map_and_its_gradient(compile):
    """Both are recorded: three products with the bias added, and the graph on other numbers is
    torch's own result."""
    layer, x = nn.Linear(300, 200), drawn(100, 300)
    names, values = zip(*layer.named_parameters(), strict=True)

    def loss_and_gradient(values, x):
        values = [value.detach().requires_grad_() for value in values]
        loss = (
            torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))
            .square()
            .mean()
        )
        return [loss.detach(), *torch.autograd.grad(loss, values)]

    inputs = [[value.detach() for value in values], x.requires_grad_()]
    graph = recorded(loss_and_gradient, *inputs)
    assert calls(graph) == 2  # forwards and for the weights; the input's gradient is not asked for
    run, others = (
        (compiled(graph, *inputs) if compile else graph),
        [[v + 0.1 for v in inputs[0]], x.detach() - 0.1],
    )
    for found, expected in zip(run(*others), loss_and_gradient(*others), strict=True):
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("one", "other", "num_calls"),
    [
        (drawn(128, 784), drawn(784, 400), 1),
        (drawn(128, 400), drawn(400, 40), 0),  # too few multiplications to pay
        (drawn(128, 784).double(), drawn(784, 400).double(), 0),  # oneDNN knows no float64
        (
            drawn(128, 784).bfloat16(),
            drawn(784, 400).bfloat16(),
            0,
        ),  # torch itself takes oneDNN for these
    ],
)
def test_only_large_products_of_float32_are_replaced(one, other, num_calls):
    graph = recorded(torch.mm, one, other)
    assert calls(graph) == num_calls
    assert torch.allclose(graph(one, other), one @ other, rtol=1e-4, atol=1e-4)


def test_scaled_sums_stay_with_torch():
    bias, one, other = drawn(400), drawn(128, 784), drawn(784, 400)
    graph = recorded(lambda *inputs: torch.addmm(*inputs, alpha=0.5), bias, one, other)
    assert calls(graph) == 0
    assert torch.equal(graph(bias, one, other), torch.addmm(bias, one, other, alpha=0.5))


def test_nothing_is_replaced_where_it_does_not_pay(monkeypatch):
    monkeypatch.setattr(products, "onednn_is_faster", lambda: False)
    assert products.replacements() == {}


@pytest.mark.parametrize(
    ("ours", "theirs", "is_faster"), [(1.0, 2.0, True), (1.0, 1.1, False), (2.0, 1.0, False)]
)
def test_the_machine_decides(ours, theirs, is_faster, monkeypatch):
    asked = []
    seconds = {products.matmul: ours, torch.mm: theirs}
    monkeypatch.setattr(
        products, "_seconds", lambda product: asked.append(product) or seconds[product]
    )
    measured.cache_clear()
    assert [measured() for _ in range(2)] == [is_faster, is_faster]
    assert len(asked) == 16  # eight times each, and not again at the second call
    measured.cache_clear()


def test_a_torch_without_onednn(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    measured.cache_clear()
    assert not measured()
    measured.cache_clear()


def test_the_probe_knows_no_default_type():
    """A process that computes in float64 and has not asked the machine yet."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    measured.cache_clear()
    try:
        assert measured() in (True, False)
    finally:
        torch.set_default_dtype(before)
        measured.cache_clear()
