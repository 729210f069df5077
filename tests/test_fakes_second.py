"""Systems of the second edition as outside distributions, each under 40 lines: trained, sampled, reported and loaded from a spec.

What other files carry: weights of particles in test_core_groups.py, resampling inpainting in test_core_wrapped.py, a kind with a
command in test_open_kinds.py, a driven solver in test_core_drive.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import diffcore as dc
from diffcore.cli import main
from diffcore.testing import Gaussian

F64 = torch.float64
FRESH = """
import torch, diffcore as dc
torch.save(dc.Pipeline.load("run").sample(4, seed=3).x, "fresh.pt")
"""
REST = """
diffcore: 1
loss: {type: denoising}
trainer: {type: standard, steps: 20, batch: 16}
sampling: {n: 8}
metrics: []
"""


def ran(site, folder: Path, spec: str, *texts: str) -> dc.Pipeline:
    """The pipeline of a spec that was run from the command line, sampled in a fresh process too: the same numbers."""
    lines = [line for text in texts for line in text.split("\n") if line.strip()]
    assert len(lines) < 40
    (folder / "spec.yaml").write_text(REST + spec)
    shown = CliRunner().invoke(main, ["run", str(folder / "spec.yaml"), "--out", str(folder / "run")], catch_exceptions=False)
    assert shown.exit_code == 0, shown.output
    assert (folder / "run" / "report.html").stat().st_size > 1000
    pipeline = dc.Pipeline.load(folder / "run")
    site.python("-c", FRESH, folder=folder)
    found, fresh = pipeline.sample(4, seed=3).x, torch.load(folder / "fresh.pt")
    for a, b in zip(dc.leaves(found), dc.leaves(fresh), strict=True):
        assert torch.equal(a, b)
    return pipeline


# --- 13. a graph: nodes and edges, symmetric noise on the edges, a network that does not know the order of the nodes ---------
GRAPH_HOOKS = """
import diffcore as dc
API_VERSION = 1

@dc.hookimpl
def diffcore_data():
    yield dc.Component("triangles", "fake_graphs.parts:Triangles", "three points, with an edge between near ones")

@dc.hookimpl
def diffcore_networks():
    yield dc.Component("equivariant", "fake_graphs.parts:Equivariant", "one round of messages")
"""
GRAPH_PARTS = """
import torch
from torch import nn
import diffcore as dc

@dc.component
class Triangles(dc.Data):
    '''x_i ~ N(0, I) in the plane; e_ij = 1 between points nearer than 1, else -1.'''
    event, size, classes = {"x": (3, 2), "e": (3, 3)}, None, {}
    def open(self):
        return self
    def batch(self, ids):
        x = dc.Draw(0, ids).normal((3, 2))
        return {"x": x, "e": torch.where(torch.cdist(x, x) < 1, 1.0, -1.0)}, {}

class Messages(nn.Module):
    def __init__(self):
        super().__init__()
        self.node, self.to_x, self.to_e = nn.Linear(5, 32), nn.Linear(32, 2), nn.Linear(33, 1)
    def forward(self, x, t):
        n, e = x["x"], x["e"]
        h = torch.tanh(self.node(torch.cat([n, e @ n, t[:, None, None].expand(-1, 3, 1)], -1)))
        pairs = torch.cat([h[:, :, None] + h[:, None], e[..., None]], -1)
        return {"x": self.to_x(h), "e": self.to_e(pairs)[..., 0]}

@dc.component
class Equivariant(dc.Network):
    '''h_i = tanh(W (x_i, sum_j e_ij x_j, t)).'''
    def build(self, event, cond, outputs=None):
        return Messages()
"""
GRAPH = """
data: {type: triangles}
process: {type: vp, noise: {type: by-part, parts: {x: {type: white}, e: {type: symmetric}}}}
network: {type: equivariant}
prediction: v
solver: {type: SOLVER, steps: 6}
"""


@pytest.mark.parametrize("solver", ["ddim", "ancestral"])
def test_fake_13_a_graph(solver, site, tmp_path: Path):
    """Edges stay symmetric bit by bit, whatever is drawn; nodes in another order give the samples in that order."""
    site.install("fake-graphs", GRAPH_HOOKS, parts=GRAPH_PARTS)
    pipeline = ran(site, tmp_path, GRAPH.replace("SOLVER", solver), GRAPH_HOOKS, GRAPH_PARTS)
    made = pipeline.sample(16, seed=1).x
    assert torch.equal(made["e"], made["e"].mT)
    assert float(made["e"].std()) > 0.1
    start = pipeline.process.prior(pipeline.source.event, dc.Draw(5, range(8)))
    assert torch.equal(start["e"], start["e"].mT)
    if solver == "ddim":
        order = torch.tensor([2, 0, 1])

        def turned(state):
            return {"x": state["x"][:, order], "e": state["e"][:, order][:, :, order]}

        whole, other = (dc.sample(pipeline.field(), pipeline.solver, x).x for x in (start, turned(start)))
        for name, leaf in turned(whole).items():
            torch.testing.assert_close(other[name], leaf, rtol=1e-5, atol=1e-5)


# --- 29. a process known only as a table, a network that is told indices, half-integer times ------------------------------------
TABLE_HOOKS = """
import diffcore as dc
API_VERSION = 1

@dc.hookimpl
def diffcore_processes():
    yield dc.Component("table", "fake_table.parts:Table", "alpha^2 per index")
"""
TABLE_PARTS = """
import torch
import diffcore as dc

@dc.component
class Table(dc.AffineProcess):
    '''alpha^2 of index k in a table of N, t = (k + 1) / N; log alpha^2 is straight between two.'''
    squares: tuple[float, ...] = dc.param(gt=0, lt=1, doc="alpha^2 of the indices 0 to N - 1")
    def coeffs(self, t):
        logs = torch.tensor((1.0, *self.squares), dtype=torch.float64, device=t.device).log()
        u = t.double() * len(self.squares)
        k = u.long().clamp(0, len(self.squares) - 1)
        slope = logs[k + 1] - logs[k]
        log = logs[k] + (u - k) * slope
        alpha, sigma, rate = (log / 2).exp(), (-torch.expm1(log)).sqrt(), slope * len(self.squares)
        return dc.Coeffs(t, *(v.to(t.dtype) for v in (alpha, sigma, alpha * rate / 2, -alpha**2 * rate / (2 * sigma))))
    def index(self, t):
        return t * len(self.squares) - 1
    def embed_time(self, t):
        return self.index(t)
"""
SQUARES = [round(float(v), 6) for v in torch.cos(torch.linspace(0.05, 1.5, 20)) ** 2]
TABLE = f"""
data: {{type: two-moons}}
process: {{type: table, squares: {SQUARES}}}
network: {{type: mlp, width: 16, depth: 1}}
prediction: eps
solver: {{type: ddim, steps: 20}}
"""


def test_fake_29_a_table_and_indices(site, tmp_path: Path):
    """A network that knows only indices, asked at half-integers: the flow map of a Gaussian, second order in the step."""
    site.install("fake-table", TABLE_HOOKS, parts=TABLE_PARTS)
    process = ran(site, tmp_path, TABLE, TABLE_HOOKS, TABLE_PARTS).process
    mean, std, told = torch.tensor([0.5, -1.0, 0.2], dtype=F64), torch.tensor([0.4, 0.9, 0.6], dtype=F64), []
    exact = Gaussian(mean.tolist(), std.tolist()).net(process, "eps")

    def net(x, index):
        told.append(float(index[0]))
        return exact(x, (index + 1) / len(SQUARES))

    field = dc.Field(dc.Denoiser(net, dc.Reading("eps", "index"), process))
    x, ends, errors = dc.Draw(1, range(5)).normal((3,), F64), (18.5, 2.5), []
    t, s = (process.coeffs(torch.tensor((k + 1) / len(SQUARES), dtype=F64)) for k in ends)
    spread = [(c.alpha**2 * std**2 + c.sigma**2).sqrt() for c in (t, s)]
    want = s.alpha * mean + spread[1] / spread[0] * (x - t.alpha * mean)
    for parts in (1, 2):
        grid = (torch.linspace(*ends, 32 * parts + 1, dtype=F64) + 1) / len(SQUARES)
        errors.append(float((dc.sample(field, dc.Registry.load().make("solver", "dpmpp-2m"), x, grid=grid).x - want).abs().max()))
    assert all(abs(4 * index - round(4 * index)) < 1e-9 for index in told)
    assert errors[1] < 2e-3
    assert errors[0] / errors[1] > 3.5
