"""Discrete diffusion for diffcore: tokens that are masked, resampled or moved along a Markov chain, and the way back."""

from __future__ import annotations

from collections.abc import Iterator

import diffcore as dc

API_VERSION = 1


@dc.hookimpl
def diffcore_processes() -> Iterator[dc.Component]:
    """Forward chains of tokens."""
    yield dc.Component(
        "masked", "diffcore_discrete.masked:Masked", "tokens turn into a mask (Sahoo et al. 2024; Shi et al. 2024)"
    )
    yield dc.Component(
        "uniform-tokens", "diffcore_discrete.uniform:UniformTokens", "tokens are resampled uniformly (Lou, Meng and Ermon 2024)"
    )
    yield dc.Component("d3pm", "diffcore_discrete.d3pm:D3PM", "discrete time, transition matrices (Austin et al. 2021)")


@dc.hookimpl
def diffcore_networks() -> Iterator[dc.Component]:
    """Networks on tokens."""
    yield dc.Component(
        "token-transformer", "diffcore_discrete.transformer:TokenTransformer", "a transformer on tokens (Peebles and Xie 2023)"
    )


@dc.hookimpl
def diffcore_losses() -> Iterator[dc.Component]:
    """Objectives of tokens."""
    yield dc.Component("masked-elbo", "diffcore_discrete.masked_elbo:MaskedELBO", "weighted cross-entropy (Sahoo et al. 2024)")
    yield dc.Component("d3pm-hybrid", "diffcore_discrete.d3pm_hybrid:D3PMHybrid", "bound and cross-entropy (Austin et al. 2021)")
    yield dc.Component(
        "score-entropy", "diffcore_discrete.score_entropy:ScoreEntropy", "ratios of probabilities (Lou et al. 2024)"
    )
    yield dc.Component(
        "discrete-flow-matching", "diffcore_discrete.flow_matching:DiscreteFlowMatching", "cross-entropy (Gat et al. 2024)"
    )


@dc.hookimpl
def diffcore_guidance() -> Iterator[dc.Component]:
    """Guidance of categorical posteriors."""
    yield dc.Component("logit-cfg", "diffcore_discrete.logit_cfg:LogitCFG", "classifier-free, on logits (Schiff et al. 2025)")


@dc.hookimpl
def diffcore_solvers() -> Iterator[dc.Component]:
    """Samplers of jump processes; `ancestral` works as well."""
    yield dc.Component("tau-leaping", "diffcore_discrete.tau_leaping:TauLeaping", "frozen jump rates (Campbell et al. 2022)")
    yield dc.Component("exact-jumps", "diffcore_discrete.exact_jumps:ExactJumps", "one token at its time (Zheng et al. 2025)")


@dc.hookimpl
def diffcore_data() -> Iterator[dc.Component]:
    """Data of tokens."""
    yield dc.Component("binary-digits", "diffcore_discrete.binary_digits:BinaryDigits", "1,797 digits, 8 x 8, black and white")
    yield dc.Component("shakespeare", "diffcore_discrete.shakespeare:Shakespeare", "windows of characters, fetched once")
    yield dc.Component("text-file", "diffcore_discrete.text_file:TextFile", "your own text, as bytes or characters")
    yield dc.Component(
        "molecules", "diffcore_discrete.molecules:Molecules", "SMILES of MOSES, if installed (Polykovskiy et al. 2020)"
    )
    yield dc.Component("analog-bits", "diffcore_discrete.analog_bits:AnalogBits", "tokens as +-1 bits (Chen et al. 2023)")


@dc.hookimpl
def diffcore_metrics() -> Iterator[dc.Component]:
    """Bounds on the likelihood, and what molecules are worth."""
    yield dc.Component("bits-per-dim", "diffcore_discrete.bits:BitsPerDim", "likelihood bound against independent dimensions")
    yield dc.Component(
        "bits-per-character", "diffcore_discrete.bits:BitsPerCharacter", "likelihood bound against an n-gram model"
    )
    yield dc.Component(
        "molecules", "diffcore_discrete.molecular:MoleculeShares", "valid, unique and new SMILES (Polykovskiy et al. 2020)"
    )
