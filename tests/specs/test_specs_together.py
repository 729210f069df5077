"""Every fault of every phase in one go: of texts, of names, of values, of data, of parts that do not fit, of sizes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import diffcore as dc
from diffcore.cli import main
from diffcore.run import sizes
from diffcore.specs import SpecErrors

REGISTRY = dc.Registry.load()

BAD = """\
diffcore: 1
data: {type: array, range: null, path: nowhere.npz}
process: {type: flow}
network: {type: mlp, width: 16, depth: one}
prediction: eps
loss: {type: mean-flow}
flow_map: {type: mean-flow}
guidance: [{type: cfg}]
solver: {type: huen, steps: 5}
sampling: {n: 8, cond: {colour: 2}}
metrics: [{type: class-accuracy}]
evaluation: {calls: [5, 10]}
"""


def faults(text: str, tmp_path: Path, *overrides: str) -> list[tuple[str, str]]:
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(dc.DiffcoreError) as caught:
        dc.assemble(tmp_path / "s.yaml", registry=REGISTRY, overrides=overrides)
    assert isinstance(caught.value, SpecErrors)
    return [(f"{fault.line}:{fault.column}", fault.path) for fault in caught.value.faults]


def test_a_misspelt_part_hides_no_misfit(tmp_path: Path):
    text = """\
diffcore: 1
data: {type: two-moons}
process: {type: flow}
network: {type: mlp}
prediction: eps
loss: {type: denoising}
solver: {type: huen}
"""
    assert faults(text, tmp_path) == [("5:13", "prediction"), ("7:16", "solver.type")]


def test_faults_of_all_phases_come_at_once(tmp_path: Path):
    assert faults(BAD, tmp_path) == [
        ("2:40", "data.path"),
        ("4:40", "network.depth"),
        *[("5:13", "prediction")] * 3,  # the process has none such, the loss and the flow map need another
        ("9:16", "solver.type"),
        ("12:21", "evaluation.calls"),
    ]


def test_with_its_data_there_the_faults_about_it_come_too(tmp_path: Path):
    text = BAD.replace("{type: array, range: null, path: nowhere.npz}", "{type: two-moons}")
    assert [path for _, path in faults(text, tmp_path)] == [
        "network.depth",
        *["prediction"] * 3,
        "guidance.0",
        "solver.type",
        "sampling.cond",
        "metrics.0",
        "evaluation.calls",
    ]


def test_what_depends_on_a_part_with_a_fault_is_not_asked(tmp_path: Path):
    """A flow map that is misspelt is still a flow map: its solver does not lack one."""
    text = """\
diffcore: 1
data: {type: two-moons}
process: {type: flow}
network: {type: mlp, second_time: true}
loss: {type: mean-flow}
flow_map: {type: direct}
solver: {type: flow-map}
"""
    assert faults(text, tmp_path) == [("6:18", "flow_map.type")]
    assert faults(text.replace("{type: flow}", "{type: flwo}"), tmp_path, "prediction=[1]") == [
        ("None:None", "prediction"), ("3:17", "process.type"), ("6:18", "flow_map.type"),
    ]  # fmt: skip


def test_data_that_cannot_be_opened_has_its_place_and_its_type(tmp_path: Path):
    text = """\
diffcore: 1
data:
  type: array
  range: null
  path: nowhere.npz
process: {type: flow}
network: {type: mlp}
loss: {type: denoising}
solver: {type: heun}
"""
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(dc.DataError, match=r"s\.yaml:5:9: data\.path: nowhere\.npz: no such file") as caught:
        dc.assemble(tmp_path / "s.yaml", registry=REGISTRY)
    assert not isinstance(caught.value, dc.IncompatibleError)
    shown = CliRunner().invoke(main, ["check", str(tmp_path / "s.yaml"), "--json"])
    [fault] = json.loads(shown.stdout)["faults"]
    assert (fault["line"], fault["column"], fault["path"]) == (5, 9, "data.path")


SOUND = {
    "diffcore": 1,
    "data": {"type": "two-moons"},
    "process": {"type": "flow"},
    "network": {"type": "mlp", "width": 16, "depth": 1},
    "loss": {"type": "denoising"},
    "solver": {"type": "euler"},
}


@pytest.mark.parametrize(
    ("override", "path", "needs"),
    [
        ("trainer.batch=10000000", "trainer.batch", 10**7 * 2 * 4 * sizes.AT_ONCE),
        ("sampling.batch=9000000", "sampling.batch", 9 * 10**6 * 2 * 4 * sizes.AT_ONCE),
        ("sampling.n=90000000", "sampling.n", 9 * 10**7 * 2 * 4 * sizes.HELD),
        ("evaluation.n=1000000", "evaluation.n", 10**6 * 2 * 4 * sizes.HELD),
    ],
)
def test_samples_that_no_memory_holds_are_refused_by_their_number(override, path, needs, monkeypatch):
    monkeypatch.setattr(sizes, "memory", lambda device: needs)
    dc.assemble(SOUND, registry=REGISTRY, overrides=[override])
    monkeypatch.setattr(sizes, "memory", lambda device: needs - 1)
    with pytest.raises(dc.SpecError, match=rf"{path}: .*samples of \(2,\) take at least"):
        dc.assemble(SOUND, registry=REGISTRY, overrides=[override])


def test_sampling_more_than_memory_holds_is_refused_before_it_begins():
    pipeline = dc.assemble(SOUND, registry=REGISTRY)
    with pytest.raises(dc.SpecError, match="take at most"):
        pipeline.sample(2**40)


@pytest.mark.parametrize("fields", [{"width": 65536, "depth": 3}, {"width": 16384, "depth": 1000}])
def test_a_network_that_no_memory_holds_is_refused_before_it_is_made(fields, monkeypatch):
    monkeypatch.setattr(sizes, "memory", lambda device: 2**33)
    with pytest.raises(dc.SpecError, match=r"network: the network takes more than the 1\.72 GB that this machine has for it"):
        dc.assemble({**SOUND, "network": {"type": "mlp", **fields}}, registry=REGISTRY)


def test_a_large_network_that_fits_is_the_one_that_is_built_without_counting(monkeypatch):
    """The network is built twice where it is large; its numbers are those of the seed all the same, none is left unwritten."""
    plain = dc.assemble(SOUND, registry=REGISTRY)
    monkeypatch.setattr(sizes, "SMALL", 1000)
    counted = dc.assemble(SOUND, registry=REGISTRY)
    for name, parameter in plain.net.state_dict().items():
        assert torch.equal(parameter, counted.net.state_dict()[name])


def test_memory_of_this_machine_is_a_number_of_bytes(monkeypatch, tmp_path):
    whole = sizes.memory(torch.device("cpu"))
    assert 2**28 < whole < 2**60
    (tmp_path / "memory.max").write_text("1000000\n")
    monkeypatch.setattr(sizes, "_LIMIT", tmp_path / "memory.max")
    assert sizes.memory(torch.device("cpu")) == 10**6
    (tmp_path / "memory.max").write_text("max\n")
    assert sizes.memory(torch.device("cpu")) >= whole
