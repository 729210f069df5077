"""Whether texts are molecules, different ones, and new ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch

import diffcore as dc

CHUNK = 100_000


@dc.component
class MoleculeShares(dc.Metric):
    """Validity, uniqueness and novelty of samples written as SMILES.

        validity = |V| / n,    unique@k = |set(V_k)| / |V_k|,    novelty = |set(V) minus training set| / |set(V)|

    V is the list of canonical SMILES (RDKit's) of the samples that RDKit reads and sanitises, in the order of the samples, V_k
    its first k. Not valid are the empty text, and one with a blank inside (which RDKit would read up to the blank). The training
    set is the data of the spec as it is written there: in the published split 2 of 10,000 molecules are written differently
    by today's RDKit and are not recognised. The spread of x of m
    is the standard error sqrt(p (1 - p) / m) at p = (x + 1) / (m + 2), which is not 0 where all or none of them count.
    Where no sample is valid there is no other share. Raises `DataError` for samples that are no text, and without RDKit.
    """

    source: ClassVar[str] = "Polykovskiy et al. 2020, arXiv 1811.12823"

    k: int = dc.param(
        default=1000, ge=1, le=10_000_000, doc="how many valid molecules unique@k looks at; all where there are fewer"
    )

    def check(self, ev: dc.Evaluation) -> None:
        """Also refuses data that is no text, and asks for RDKit."""
        super().check(ev)
        if ev.data is None or ev.data.texts(ev.reference[:1]) is None:
            raise dc.DataError("molecules are judged as text: the metric 'molecules' needs data of SMILES, such as 'molecules'")
        rdkit()

    def measure(self, ev: dc.Evaluation) -> dict[str, dc.Measured]:
        """`validity`, `unique@k` and `novelty` in [0, 1]."""
        self.check(ev)
        assert ev.data is not None
        texts = ev.data.texts(ev.samples) or []
        valid = [smiles for text in texts if (smiles := canonical(text)) is not None]
        found = {"validity": _share(len(valid), len(texts), "RDKit")}
        if valid:
            first, different = valid[: self.k], set(valid)
            new = different.difference(*_training(ev.data, ev.reference_name))
            found[f"unique@{self.k}"] = _share(len(set(first)), len(first), "the valid samples")
            found["novelty"] = _share(len(new), len(different), ev.reference_name)
        return found


def canonical(text: str) -> str | None:
    """The canonical SMILES of a molecule; None where RDKit reads none. Raises `DataError` without RDKit."""
    chemistry, base = rdkit()
    if not text or len(text.split()) != 1 or text != text.strip():
        return None
    with base.BlockLogs():
        molecule = chemistry.MolFromSmiles(text)
    return None if molecule is None else chemistry.MolToSmiles(molecule)


def rdkit() -> tuple[Any, Any]:
    """The modules rdkit.Chem and rdkit.rdBase. Raises `DataError` where they are absent."""
    try:
        from rdkit import Chem, rdBase  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise dc.DataError(
            "the metric 'molecules' needs RDKit, which is not installed: fetch it once with "
            "`pip install 'diffcore-discrete[molecules]'`"
        ) from None
    return Chem, rdBase


def _training(data: dc.Data, name: str) -> Iterator[Sequence[str]]:
    """The texts of the set, part by part."""
    source = data.open()
    if source.size is None:
        raise dc.DataError(f"novelty needs a training set that ends; '{name}' has no end")
    for ids in torch.arange(source.size).split(CHUNK):
        yield data.texts(source.batch(ids)[0]) or ()


def _share(part: int, whole: int, against: str) -> dc.Measured:
    about = (part + 1) / (whole + 2)
    spread = (about * (1 - about) / whole) ** 0.5
    return dc.Measured(value=part / whole, n=whole, spread=spread, against=against, better="higher", within=(0.0, 1.0))
