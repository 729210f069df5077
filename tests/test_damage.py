"""Files of a run, damaged and signed again: each is refused in one line, or means what it says. Nothing is half believed."""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import diffcore as dc
from diffcore.cli.runs import print_rows
from diffcore.run import checkpoint, record, runs, weights
from diffcore.run.metadata import Paused, Trained, structured

SPEC: dict[str, Any] = {
    "diffcore": 1,
    "data": {"type": "two-moons"},
    "process": {"type": "flow"},
    "network": {"type": "mlp", "width": 3, "depth": 1},
    "loss": {"type": "denoising"},
    "trainer": {"type": "standard", "steps": 4, "batch": 4, "checkpoint_every": 2, "log_every": 1},
    "solver": {"type": "euler", "steps": 2},
    "sampling": {"n": 2},
    "metrics": [{"type": "cost"}],
    "evaluation": {"n": 4, "solvers": [{"type": "heun"}], "calls": [2]},
}
DEEP = 100_000
WRONG: tuple[Any, ...] = (
    None, True, -1, 1.5, float("nan"), float("inf"), 10**400, 2**64, "", "text", [], [[[]]], {}, {"a": 1},
)  # fmt: skip


@pytest.fixture(scope="module")
def registry():
    return dc.Registry.load()


@pytest.fixture(scope="module")
def made(registry, tmp_path_factory):
    """A run, trained and measured."""
    folder = tmp_path_factory.mktemp("made") / "run"
    runs.train(SPEC, folder, registry=registry)
    rows = dc.Pipeline.load(folder, registry=registry).evaluate()
    (folder / "evaluation.json").write_text(json.dumps(rows))
    return folder


@pytest.fixture
def run(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "run"))


def newest(run: Path) -> Path:
    return checkpoint.checkpoints(run / "checkpoints")[0]


def places(data: bytes) -> dict[str, range]:
    """The regions of a safetensors file."""
    header = 8 + int.from_bytes(data[:8], "little")
    signed = data.index(b'"diffcore"')
    return {
        "length": range(8),
        "header": range(8, signed),
        "metadata": range(signed, header),
        "tensors": range(header, len(data)),
    }


def mutations(data: bytes, seed: int) -> Iterator[bytes]:
    """Flipped bits, bytes put in their place, and ends cut off, over every region."""
    draw = random.Random(seed)
    for region in places(data).values():
        for _ in range(120):
            place, changed = draw.choice(region), bytearray(data)
            changed[place] ^= 1 << draw.randrange(8)
            yield bytes(changed)
            changed[place] = data[place] ^ draw.randrange(1, 256) if data[place] != 32 else 0
            yield bytes(changed)
        yield data[: draw.choice(region)]
    yield data + b"x"
    yield b""


@pytest.mark.parametrize("which", ["weights", "checkpoint"])
def test_no_damaged_file_is_believed(which, run):
    file = run / "weights.safetensors" if which == "weights" else newest(run)
    whole = file.read_bytes()
    for damaged in mutations(whole, 7):
        file.write_bytes(damaged)
        with pytest.raises(dc.CheckpointError) as caught:
            weights.read_file(file)
        assert str(file) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("region", ["length", "header", "metadata", "tensors"])
def test_wherever_the_newest_checkpoint_is_damaged_the_one_before_it_is_taken(region, run, made, registry, capsys):
    (run / "weights.safetensors").unlink()
    data = bytearray(newest(run).read_bytes())
    data[random.Random(3).choice(places(bytes(data))[region])] ^= 1
    newest(run).write_bytes(data)
    assert weights.read(run).meta.step == 2
    runs.train(SPEC, run, registry=registry)
    said = capsys.readouterr().err
    assert said.count("refused a checkpoint") == 1
    assert "going on from the one before it, step 2" in said
    wanted, found = (checkpoint.load(folder / "weights.safetensors")[0] for folder in (made, run))
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


def signed(file: Path, text: str, tensors: dict[str, torch.Tensor] | None = None) -> None:
    """A file with any metadata and the right digest."""
    tensors = tensors if tensors is not None else {"a": torch.zeros(2)}
    file.write_bytes(safetensors.torch.save(tensors, {"diffcore": text, "digest": checkpoint.digest(tensors, text)}))


def foreign(run: Path) -> dict[str, bytes]:
    """Whole files that are no checkpoint of step 9."""
    tensors, meta = checkpoint.load(newest(run))
    lacking = {name: value for name, value in tensors.items() if "/ema/" not in name}
    bent = {name: value.reshape(-1) if "/parameter/" in name else value for name, value in tensors.items()}
    file, found = run / "foreign", dict[str, bytes]()
    at_nine = {**meta, "step": 9}
    for name, text, held in (
        ("deep", "[" * DEEP + "]" * DEEP, None),
        ("deep map", '{"a":' * DEEP + "1" + "}" * DEEP, None),
        ("no map", "[1]", None),
        ("no JSON", "{", None),
        ("empty", "{}", None),
        ("of samples", '{"calls": 1, "nfe": 1.0}', None),
        ("no averages", json.dumps(at_nine), lacking),
        ("other shapes", json.dumps(at_nine), bent),
    ):
        signed(file, text, held)
        found[name] = file.read_bytes()
    return {**found, "weights": (run / "kept").read_bytes(), "renamed": newest(run).read_bytes()}


def test_a_foreign_file_among_the_checkpoints_is_passed_over(run, registry, capsys):
    file = run / "checkpoints" / "step-00000009.safetensors"
    (run / "weights.safetensors").rename(run / "kept")
    for name, data in foreign(run).items():
        file.write_bytes(data)
        if name in ("no averages", "other shapes"):  # only who trains on misses them
            runs.train(SPEC, run, registry=registry)
            said = capsys.readouterr().err
            (run / "weights.safetensors").unlink()
        else:
            said = weights.read(run).note
        assert said.count(f"refused a checkpoint: {file}") == 1, name
    assert len(checkpoint.checkpoints(run / "checkpoints")) == 3


def nodes(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of everything in a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        yield from nodes(child, (*path, key))


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    changed = copy.copy(value)
    changed[path[0]] = put(value[path[0]], path[1:], new)
    return changed


def bent(value: Any) -> Iterator[Any]:
    """The value with something else, or nothing, at each of its places."""
    for path in nodes(value):
        for wrong in WRONG:
            yield put(value, path, wrong)
        *above, last = path or (None,)
        if isinstance(last, str):
            parent = put(value, (), copy.deepcopy(value))
            inner = parent
            for key in above:
                inner = inner[key]
            del inner[last]
            yield parent


def attempt(read: Callable[[], Any]) -> Any:
    """What was read, or the one line of the refusal."""
    try:
        return read()
    except dc.CheckpointError as error:
        said = str(error)
    assert "\n" not in said
    return said


@pytest.mark.parametrize("which", ["weights", "checkpoint"])
def test_signed_metadata_of_wrong_types_is_refused(which, run, registry):
    """What is taken for metadata has the types of metadata: it can be read back as what it was."""
    file = run / "weights.safetensors" if which == "weights" else newest(run)
    tensors, meta = checkpoint.load(file)
    small = {**meta, "spec": "name: x\n", "parts": {"solver": meta["parts"]["solver"]}, "fingerprint": meta["fingerprint"][:2]}
    refused = 0
    for changed in bent(small):
        if changed == small or not isinstance(changed, dict):
            continue
        kind = Paused if "numbers" in changed else Trained
        held = attempt(lambda changed=changed, kind=kind: structured(kind, changed, str(file)))
        if isinstance(held, str):
            assert held.startswith(f"{file} is damaged: ")
            refused += 1
            continue
        assert isinstance(held.step, int)
        assert all(isinstance(side, int) for _, leaf in (held.data.event.leaves() if held.data else ()) for side in leaf.shape)
        assert isinstance(held.values, dict)
    assert refused > 150
    for key, wrong in (
        ("calibrations", None),
        ("fingerprint", "x"),
        ("data", {"foo": 1}),
        ("spec", 3),
        ("step", "4"),
        ("parts", []),
    ):
        checkpoint.save(file, tensors, {**meta, key: wrong})
        with pytest.raises(dc.CheckpointError, match="is damaged"):
            dc.Pipeline.load(file, registry=registry)
    checkpoint.save(file, tensors, {**meta, "fingerprint": [0.0] * len(meta["fingerprint"])})
    with pytest.raises(dc.CheckpointError, match="other alpha and sigma"):
        dc.Pipeline.load(file, registry=registry)


READERS = {
    "evaluation.json": record.read_rows,
    "lock.json": record.read_lock,
    "metrics.jsonl": lambda run: record.read_metrics(run / "metrics.jsonl"),
}


@pytest.mark.parametrize("name", READERS)
def test_a_table_is_refused_or_can_be_shown(name, run, capsys):
    file, read = run / name, READERS[name]
    text = file.read_text()
    first = json.loads(text.splitlines()[0]) if name.endswith("l") else json.loads(text)
    if name == "lock.json":
        first["distributions"] = dict(list(first["distributions"].items())[:1])
    refused = 0
    for changed in bent(first):
        file.write_text(json.dumps(changed) + ("\n" + text if name.endswith("l") else ""))
        rows = attempt(lambda: read(run))
        if isinstance(rows, str):
            assert rows.startswith(f"{file} is damaged")
            refused += 1
        elif name == "evaluation.json":
            print_rows(rows)
    assert refused > 30
    for hostile in ("[" * DEEP + "]" * DEEP, "{" * DEEP, '{"a":' * DEEP + "1" + "}" * DEEP, "9" * 10_000, "\x00", "[1,", '"'):
        file.write_text(f"{hostile}\n{hostile}\n")
        with pytest.raises(dc.CheckpointError, match=f"{name} is damaged"):
            read(run)
    file.write_bytes(b"\xff\xfe\n\xff\n")
    with pytest.raises(dc.CheckpointError):
        read(run)


def test_a_log_that_is_damaged_is_said_before_training(run, registry):
    log = run / "metrics.jsonl"
    log.write_text(f"{{\n{log.read_text()}")
    before = (run / "spec.yaml").stat().st_mtime_ns
    with pytest.raises(dc.CheckpointError, match=r"metrics.jsonl is damaged: line 1 .*remove the file"):
        runs.train({**SPEC, "trainer": {**SPEC["trainer"], "steps": 6}}, run, registry=registry)
    assert (run / "spec.yaml").stat().st_mtime_ns == before
