"""Molecules as text: the set, the shares of valid, different and new ones, and the n-gram model beside them."""

from __future__ import annotations

import ast
import gzip
import importlib.util
import itertools
import math
import sys
import types
from pathlib import Path

import pytest
import torch
from diffcore_discrete import baselines, molecules
from diffcore_discrete.letters import to_texts, to_tokens
from diffcore_discrete.molecular import MoleculeShares, canonical
from diffcore_discrete.molecules import ALPHABET, Molecules

import diffcore as dc

KNOWN = ("CCO", "c1ccccc1", "C[CH]O", "CC(=O)O")
SAMPLES = ("OCC", "CCO", "C1CC", "CCN", "C(C)N", "", "CC O", " CCO", "CCCl", "c1ccccc1", "CC(C", "N#C")
"""Valid: OCC = CCO, CCO, CCN, C(C)N = CCN, CCCl, c1ccccc1, N#C; different: 5 of 7; known of these: CCO and c1ccccc1."""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package moses with four molecules for training, whose code must not run."""
    folder = tmp_path / "moses" / "dataset" / "data"
    folder.mkdir(parents=True)
    (tmp_path / "moses" / "__init__.py").write_text("raise ImportError('never run')")
    with gzip.open(folder / "train.csv.gz", "wt") as file:
        file.write("SMILES,SPLIT\n" + "".join(f"{smiles},train\n" for smiles in KNOWN))
    spec = types.SimpleNamespace(submodule_search_locations=[str(tmp_path / "moses")])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec if name == "moses" else None)
    return folder


def evaluation(texts, **fields):
    raw = to_tokens("".join(text.ljust(8) for text in texts), ALPHABET).reshape(-1, 8).long()
    return dc.Evaluation(samples=raw, reference=raw, data=Molecules(length=8), reference_name="molecules", **fields)


def test_molecules_are_read_from_the_installed_package(package):
    source = Molecules(length=8).open()
    assert Molecules().texts(source.batch(torch.arange(4))[0]) == list(KNOWN)
    assert Molecules(length=6).open().size == 2, "a header that fits is no molecule; longer ones are left out"
    assert Molecules(length=3).open().size == 1, "a header that does not fit takes no molecule with it"
    assert Molecules(length=8, most=2).open().size == 2
    with pytest.raises(dc.DataError, match="at most 2 characters; raise length"):
        Molecules(length=2).open()
    assert len(set(ALPHABET)) == len(ALPHABET) == 27


def test_a_missing_package_is_one_line(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(dc.DataError, match="pip install --no-deps molsets"):
        Molecules().open()


def test_text_to_tokens_and_back():
    assert to_tokens("az b").tolist() == [1, 26, 0, 2]
    assert to_texts(torch.tensor([[1, 26, 0], [2, 27, 0]])) == ["az ", "b_ "]
    assert to_tokens("").shape == (0,)
    with pytest.raises(dc.DataError, match="'é' at place 1 is none of the 27"):
        to_tokens("aéb")


def test_shares_are_those_counted_by_hand(package):
    pytest.importorskip("rdkit")
    found = MoleculeShares(k=4).measure(evaluation(SAMPLES))
    assert {name: (value.value, value.n) for name, value in found.items()} == {
        "validity": (7 / 12, 12),
        "unique@4": (2 / 4, 4),
        "novelty": (3 / 5, 5),
    }
    assert found["novelty"].spread == pytest.approx(math.sqrt(4 / 7 * 3 / 7 / 5))
    assert MoleculeShares().measure(evaluation(SAMPLES))["unique@1000"].value == 5 / 7
    assert set(MoleculeShares().measure(evaluation(("C1CC", "")))) == {"validity"}, "no share of nothing"


def test_a_blank_inside_is_no_molecule():
    chemistry = pytest.importorskip("rdkit.Chem")
    assert chemistry.MolFromSmiles("CC O") is not None, "RDKit reads up to the blank"
    assert [canonical(text) for text in ("CC O", " CC", "CC\t", "", "CC_")] == [None] * 5
    assert canonical("OCC") == "CCO"


def published(chemistry):
    """The functions of the package that define the shares, from its own files, without the imports that fail today."""
    spec = importlib.util.find_spec("moses")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("molsets is not installed")
    folder, scope = Path(spec.submodule_search_locations[0]), {"Chem": chemistry, "warnings": types.SimpleNamespace()}
    wanted = {"mapper", "get_mol", "canonic_smiles", "fraction_valid", "fraction_unique", "novelty", "remove_invalid"}
    for name in ("utils.py", "metrics/utils.py", "metrics/metrics.py"):
        tree = ast.parse((folder / name).read_text(encoding="utf-8"))
        tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in wanted]
        exec(compile(tree, name, "exec"), scope)
    return scope


def test_shares_are_those_of_the_published_code(monkeypatch):
    chemistry = pytest.importorskip("rdkit.Chem")
    quiet = pytest.importorskip("rdkit.rdBase").BlockLogs()
    moses, data = published(chemistry), Molecules(length=48, most=3000)
    train = data.texts(data.open().x)
    texts = [*train[:40], *train[:10], *(text[:-1] for text in train[40:400]), *(text[::-1] for text in train[400:500])]
    raw = to_tokens("".join(text.ljust(48) for text in texts), ALPHABET).reshape(-1, 48)
    found = MoleculeShares(k=60).measure(dc.Evaluation(samples=raw, reference=raw, data=data))
    valid = moses["remove_invalid"](texts)
    assert found["validity"].value == pytest.approx(moses["fraction_valid"](texts), abs=1e-12)
    assert found["unique@60"].value == moses["fraction_unique"](valid, 60)
    assert found["novelty"].value == moses["novelty"](valid, train)
    assert all(0.02 < value.value < 0.98 for value in found.values()), "all of them are asked"
    del quiet


def test_samples_must_be_text():
    with pytest.raises(dc.DataError, match="needs data of SMILES"):
        MoleculeShares().measure(dc.Evaluation(samples=torch.zeros(2, 3), reference=torch.zeros(2, 3)))


def test_without_rdkit_it_says_what_to_install(package, monkeypatch):
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(dc.DataError, match=r"pip install 'diffcore-discrete\[molecules\]'"):
        MoleculeShares().measure(evaluation(SAMPLES))


TRAIN = torch.tensor([[0, 1, 0, 1], [0, 1, 1, 2], [2, 0, 1, 0]])


def test_a_trigram_is_that_of_counts_by_hand():
    """After 0, 1: 0 twice, 1 once; after the beginning: 0 twice, 2 once; after the beginning and 0: 1 twice. Added: 1/2."""
    model = baselines.NGram.fit(TRAIN.split(2), 3, 3)
    want = -(math.log2(2.5 / 4.5) + math.log2(2.5 / 3.5) + math.log2(2.5 / 4.5)) / 3
    assert float(model.bits(torch.tensor([[0, 1, 0]]))[0]) == pytest.approx(want, abs=1e-12)
    unseen = -(math.log2(0.5 / 4.5) + math.log2(1 / 3)) / 2
    assert float(model.bits(torch.tensor([[1, 1]]))[0]) == pytest.approx(unseen, abs=1e-12)


@pytest.mark.parametrize("order", [1, 2, 4, 6])
def test_an_ngram_is_a_law_and_draws_from_it(order):
    """All 81 sequences have probabilities that sum to one; 20,000 draws have these shares within 4.5 s.e."""
    model, n = baselines.NGram.fit([TRAIN], order, 3), 20_000
    every = torch.tensor(list(itertools.product(range(3), repeat=4)))
    law = 2 ** (-4 * model.bits(every))
    assert abs(float(law.sum()) - 1) < 1e-12
    drawn = model.sample(4, dc.Draw(3, range(n), block=n))
    shares = torch.bincount((drawn * torch.tensor([27, 9, 3, 1])).sum(1), minlength=81) / n
    assert float(((shares - law).abs() / (law * (1 - law) / n).sqrt()).max()) < 4.5


def test_parts_of_a_set_count_like_the_whole():
    one, three = baselines.NGram.fit([TRAIN], 3, 3), baselines.NGram.fit(TRAIN.split(1), 3, 3)
    assert torch.equal(one.runs, three.runs)
    assert torch.equal(one.counts, three.counts)
    assert int(one.counts.sum()) == TRAIN.numel()


def test_a_set_is_read_once(package):
    molecules._read.cache_clear()
    for _ in range(3):
        Molecules(length=8).open()
    assert molecules._read.cache_info().misses == 1
