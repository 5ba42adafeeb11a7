"""Guides with parameters for each row, and guides that Pyro writes: one table."""

import pyro
import pyro.distributions as dist
import torch
from kinds import ROWS, Kind, dataset, normal
from pyro import poutine
from pyro.contrib.easyguide import EasyGuide
from pyro.distributions import constraints
from pyro.infer.autoguide import AutoGuideList, AutoMultivariateNormal, AutoNormal


def means(x):
    """Rows with means of their own, around a centre that they share."""
    centre = pyro.sample("centre", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
    spread = pyro.sample("spread", dist.LogNormal(x.new_zeros(()), 0.5))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(centre, spread).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def by_row(x):
    """A parameter for each row, made when the guide first runs."""
    with pyro.plate("rows", len(x)):
        loc = pyro.param("loc", lambda: 0.1 * torch.randn(x.shape))
        scale = pyro.param("scale", lambda: x.new_ones(x.shape), constraints.positive)
        pyro.sample("z", dist.Normal(loc, scale).to_event(1))


def row_parameters():
    model = poutine.condition(means, {"centre": torch.zeros(2), "spread": torch.tensor(1.0)})
    return Kind(model, by_row, dataset(normal(ROWS, 2)), of_rows=False)


class Easy(EasyGuide):
    """One normal of all that the rows share, and one for each row."""

    def guide(self, x):
        shared = self.group(match="centre|spread")
        loc = pyro.param("shared", lambda: 0.1 * torch.randn(shared.event_shape))
        shared.sample("all_shared", dist.Normal(loc, 0.3).to_event(1))
        own = self.group(match="z")
        with self.plate("rows", len(x)):
            loc = pyro.param("own", lambda: 0.1 * torch.randn(len(x), *own.event_shape))
            own.sample("all_own", dist.Normal(loc, 0.7).to_event(1))


def easy():
    return Kind(means, Easy(means), dataset(normal(ROWS, 2)), of_rows=False)


def listed():
    """Pyro's automatic guides: a joint normal of what the rows share, normals of the rows."""
    guide = AutoGuideList(means)
    guide.append(AutoMultivariateNormal(poutine.block(means, expose=["centre", "spread"])))
    guide.append(AutoNormal(poutine.block(means, expose=["z"])))
    return Kind(means, guide, dataset(normal(ROWS, 2)), of_rows=False)


GUIDES = {each.__name__: each for each in (row_parameters, easy, listed)}
