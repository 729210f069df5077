"""The network, guidance, data sets, codec and metrics; a whole run; the spec of the README."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from diffcore_discrete import baselines, corpus
from diffcore_discrete.__main__ import main
from diffcore_discrete.analog_bits import AnalogBits, Bits, to_bits, to_tokens
from diffcore_discrete.binary_digits import BinaryDigits
from diffcore_discrete.bits import BitsPerCharacter, BitsPerDim
from diffcore_discrete.chain import Chain
from diffcore_discrete.logit_cfg import LogitCFG
from diffcore_discrete.masked import Masked
from diffcore_discrete.proof import JOINT, PROCESSES, all_states, point
from diffcore_discrete.shakespeare import Shakespeare
from diffcore_discrete.table import Rows
from diffcore_discrete.transformer import TokenTransformer, turned

import diffcore as dc

SMALL = TokenTransformer(width=16, depth=1, heads=2)


def built(shape=(6,), values=4, perturbed=True, **fields):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = TokenTransformer(width=16, depth=1, heads=2, **fields).build(shape, {"label": 3}, (*shape, values)).eval()
        for p in net.parameters() if perturbed else ():
            p.data.add_(0.1 * torch.randn_like(p))
    return net


@pytest.mark.parametrize(("shape", "group"), [((6,), 1), ((6,), 3), ((1, 4, 4), 4)])
def test_network_uses_every_input_and_treats_samples_alone(shape, group):
    net, x, t = (
        built(shape, group=group),
        torch.randint(0, 5, (4, *shape), generator=torch.Generator().manual_seed(1)),
        torch.rand(4),
    )
    label = torch.tensor([0, 1, 2, 3])
    base = net(x, t, label=label)
    assert base.shape == (4, *shape, 4)
    for other in (net((x + 1) % 5, t, label=label), net(x, t + 0.1, label=label), net(x, t, label=(label + 1) % 4)):
        assert float((other - base).detach().abs().flatten(1).amax(1).min()) > 1e-5
    assert (net(x[[2]], t[[2]], label=label[[2]]) - base[[2]]).abs().max() < 1e-5
    assert torch.equal(net(x, t), net(x, t, label=torch.full((4,), 3)))
    grads = torch.autograd.grad((base * torch.randn_like(base)).sum(), list(net.parameters()))
    assert all(g.isfinite().all() and g.abs().sum() > 0 for g in grads)


def test_every_answer_of_a_group_depends_on_every_token():
    net, x, t = built((6,), group=3), torch.zeros(1, 6, dtype=torch.int64), torch.tensor([0.5])
    base = net(x, t)
    for i in range(6):
        moved = x.clone()
        moved[0, i] = 2
        assert float((net(moved, t) - base).detach().abs().amax(-1).min()) > 1e-7, i


def test_untrained_network_says_one_in_v():
    out = built(perturbed=False)(torch.zeros(2, 6, dtype=torch.int64), torch.tensor([0.1, 0.9]))
    assert (out.softmax(-1) == 0.25).all()


def test_network_refusals():
    with pytest.raises(dc.IncompatibleError, match="take a process of tokens"):
        SMALL.build((6,), {}, None)
    with pytest.raises(dc.SpecError, match="must divide the 6 entries"):
        TokenTransformer(group=4).build((6,), {}, (6, 3))
    with pytest.raises(dc.SpecError, match="multiple of heads"):
        TokenTransformer(width=10, heads=4)
    with pytest.raises(dc.IncompatibleError, match="no condition 'colour'"):
        built()(torch.zeros(1, 6, dtype=torch.int64), torch.tensor([0.5]), colour=torch.zeros(1))


def conditional(process):
    """The exact network of a pair given the value of its first entry (3: not given)."""
    whole = Chain(JOINT)
    parts = [Chain(JOINT * (torch.arange(3) == k)[:, None]) for k in range(3)] + [whole]

    def net(x, t, label):
        logits = torch.stack([part.net(process)(x, t) for part in parts])
        return logits[label, torch.arange(len(x))]

    return dc.Denoiser(net, "logits", process, null={"label": 3})


@pytest.mark.parametrize("name", ["masked", "uniform", "gaussian"])
def test_logit_cfg_tilts_each_entry(name):
    """p* is p_c^w p_u^(1 - w), normalised; w = 1 and w = 0 are the branches, bit by bit, for one call."""
    process, x = PROCESSES[name], all_states(PROCESSES[name])[:5]
    label, t = torch.tensor([0, 1, 2, 0, 1]), 0.6
    model = conditional(process)
    given, free = model(x, t, label=label), model(x, t, label=torch.full((5,), 3))
    for w in (0.5, 2.0, 3.5):
        found = LogitCFG(weight=w).guide(model, x, t, label=label).probs
        want = given.probs.clamp_min(1e-300) ** w * free.probs.clamp_min(1e-300) ** (1 - w)
        want = want / want.sum(-1, keepdim=True)
        sure = (given.probs > 1e-250).all(-1) & (free.probs > 1e-250).all(-1)
        assert (found - want)[sure].abs().max() < 1e-10 if sure.any() else True
        assert found.isfinite().all()
    with dc.Meter() as meter:
        assert torch.equal(LogitCFG(weight=1.0).guide(model, x, t, label=label).logp, given.logp)
        assert torch.equal(LogitCFG(weight=0.0).guide(model, x, t, label=label).logp, free.logp)
    assert meter.calls == 2


def test_guided_samples_of_one_entry_follow_the_tilt():
    """Where the law is of one entry guidance is exact: frequencies of p_c^2 / p_u, 4.5 s.e."""
    process, n = Masked(), 6000
    p_c, p_u = torch.tensor([0.6, 0.3, 0.1]).double(), torch.tensor([0.2, 0.5, 0.3]).double()
    rows = torch.stack([p_c, p_u]).log()
    model = dc.Denoiser(lambda x, t, label: rows[label][:, None].expand(-1, 1, -1), "logits", process, null={"label": 1})
    field = dc.Field(model, [LogitCFG(weight=2.0)], cond={"label": torch.zeros(n).long()})
    solver = dc.Registry.load().make("solver", "ancestral", steps=8)
    x = dc.sample(field, solver, process.prior((1,), dc.Draw(0, range(n))), seed=1).x
    want = p_c**2 / p_u / (p_c**2 / p_u).sum()
    found = torch.bincount(x.flatten(), minlength=3) / n
    assert ((found - want).abs() < 4.5 * (want * (1 - want) / n).sqrt()).all()


def test_logit_cfg_needs_a_null_value():
    model = dc.Denoiser(lambda x, t, label: torch.zeros(*x.shape, 3), "logits", Masked())
    with pytest.raises(dc.IncompatibleError, match="no null value for label"):
        LogitCFG().guide(model, torch.zeros(1, 2).long(), 0.5, label=torch.zeros(1).long())


@pytest.mark.item("12.08")
def test_codec_is_injective_and_inverted():
    tokens = torch.arange(27).reshape(1, 27)
    code = to_bits(tokens, 5)
    assert torch.equal(to_tokens(code), tokens)
    assert len(code.reshape(27, 5).unique(dim=0)) == 27
    noisy = code + 0.9 * (2 * dc.Draw(0, [0]).uniform((27, 5)) - 1)
    assert torch.equal(to_tokens(AnalogBits().decode(noisy)), tokens)
    nine, _ = AnalogBits(data=_Wide(), bits=5).open().batch(torch.tensor([0]))
    assert nine.tolist() == [[[1.0, -1.0, -1.0, 1.0, -1.0]]]
    with pytest.raises(dc.DataError, match="raise bits"):
        AnalogBits(data=_Wide(), bits=3).open().batch(torch.tensor([0]))
    eight = Rows(torch.tensor([[8, 7]]))
    assert Bits(eight, 4).batch(torch.tensor([0]))[0][0, 0].tolist() == [-1.0, -1.0, -1.0, 1.0]
    with pytest.raises(dc.DataError, match="a token is 8, which has more than 3 bits"):
        Bits(eight, 3).batch(torch.tensor([0]))


@dc.component
class _Wide(dc.Data):
    """One token of value 9."""

    def open(self):
        from diffcore_discrete.table import Rows

        return Rows(torch.tensor([[9]]))


def test_splits_of_the_digits_are_disjoint_and_binary():
    parts = {split: BinaryDigits(split=split).open() for split in ("train", "test", "all")}
    assert (parts["train"].size, parts["test"].size, parts["all"].size) == (1618, 179, 1797)
    assert set(parts["all"].x.unique().tolist()) == {0, 1}
    assert torch.equal(parts["test"].x[0], parts["all"].x[9])
    share = float(parts["all"].x.double().mean())
    assert 0.2 < share < 0.45, share


def test_text_in_the_cache(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DIFFCORE_CACHE", str(tmp_path))
    with pytest.raises(dc.DataError, match="run `python -m diffcore_discrete fetch` once"):
        Shakespeare().open()
    (tmp_path / "wrong.tar.gz").write_bytes(b"not it")
    assert main(["fetch", "--from", str(tmp_path / "wrong.tar.gz")]) != 0
    assert "SHA-256" in capsys.readouterr().err
    assert not corpus.path().exists()
    text = " the quick brown fox" * 50
    corpus.store(text)
    train, test = Shakespeare(length=10).open(), Shakespeare(length=10, split="test").open()
    assert (train.size, test.size) == (900 - 9, 10)
    assert Shakespeare().texts(train.batch(torch.tensor([0, 3]))[0]) == [text[:10], text[3:13]]
    assert Shakespeare().texts(torch.tensor([[1, 27, 0]])) == ["a_ "]


def test_baselines_against_counts_by_hand():
    train, test = torch.tensor([[0, 1], [0, 1], [1, 0]]), torch.tensor([[0, 1]])
    place = [(2.5 / 4), (2.5 / 4)]
    assert abs(float(baselines.independent(train, test, 2)) + sum(torch.tensor(place).log2()) / 2) < 1e-6
    pair = [2.5 / 4, 2.5 / 3]
    assert abs(float(baselines.bigram(train, test, 2)) + sum(torch.tensor(pair).log2()) / 2) < 1e-6


def test_bigram_of_a_markov_chain_reaches_its_entropy_rate():
    p, n = 0.1, 4000
    flips = dc.Draw(0, range(n), block=n).uniform((20,)) < torch.tensor([0.5] + [p] * 19)
    x = flips.long().cumsum(1) % 2
    rate = -(p * torch.tensor(p).log2() + (1 - p) * torch.tensor(1 - p).log2())
    want = float((1 + 19 * rate) / 20)
    found = baselines.bigram(x[: n // 2], x[n // 2 :], 2)
    assert abs(float(found.mean()) - want) < 4.5 * float(found.std()) / (n // 2) ** 0.5 + 1e-3


def test_metric_of_the_exact_model_is_the_entropy():
    """512 steps: the entropy of the pair per entry in bits, 4.5 s.e. + .002, and it beats the baseline of the same name."""
    chain, process, n = Chain(JOINT), Masked(), 4000
    data = chain.sample(n, dc.Draw(0, range(n), block=n))
    ev = dc.Evaluation(samples=data, reference=data, field=chain.field(process), reference_name="pairs")
    found = BitsPerDim(most=n, repeats=4).measure(ev)
    value, base = found["bits/dim"], found["bits/dim (independent)"]
    want = chain.entropy / 2 / torch.log(torch.tensor(2.0))
    assert abs(value.value - float(want)) < 4.5 * (value.spread or 0) + 0.002
    assert value.value < base.value
    assert set(BitsPerCharacter().measure(ev)) == {"bits/char", "bits/char (bigram)"}
    pair = BitsPerCharacter(most=n, repeats=1, order=3, added=1e-6).measure(ev)["bits/char (3-gram)"]
    assert abs(pair.value - float(want)) < 4.5 * (pair.spread or 0), "pairs have no more to say than their own law"
    few = BitsPerCharacter(most=n, repeats=1, order=3, counted=1, added=1e-6).measure(ev)["bits/char (3-gram)"]
    assert few.value > 3 * pair.value, "counted on one sample"


def test_metric_refuses_what_is_no_process_of_tokens():
    with pytest.raises(dc.DataError, match="measures processes of tokens"):
        BitsPerDim().measure(dc.Evaluation(samples=torch.zeros(2, 1), reference=torch.zeros(2, 1)))


def test_held_out_split_is_the_one_that_was_not_trained_on():
    seen = {}

    class Spy(BitsPerDim):
        def _held_out(self, ev):
            seen["x0"], cond, name = super()._held_out(ev)
            seen["name"] = name
            return seen["x0"], cond, name

    process = Masked(values=2)
    model = dc.Denoiser(lambda x, t: torch.zeros(*x.shape, 2), "logits", process)
    field, reference = dc.Field(model), BinaryDigits().open().x[:10]
    ev = dc.Evaluation(samples=reference, reference=reference, field=field, data=BinaryDigits(), reference_name="binary-digits")
    found = Spy(repeats=1, steps=16).measure(ev)
    assert seen["name"] == "binary-digits, test split"
    held = BinaryDigits(split="test").open().x
    assert torch.equal(seen["x0"], held)
    Spy(repeats=1, steps=16, most=3).measure(ev)
    assert torch.equal(seen["x0"], held[[0, (len(held) - 1) // 2, -1]])
    assert abs(found["bits/dim"].value - 1) < 5 * (found["bits/dim"].spread or 0), "a blind model of two values costs one bit"


def test_spec_of_the_readme_trains_and_samples():
    text = re.search(r"```yaml\n(.*?)```", (Path(__file__).parents[1] / "README.md").read_text(), re.DOTALL)
    assert text
    pipeline = dc.assemble(text[1], overrides=["trainer.steps=3", "trainer.batch=8", "trainer.warmup=1"], device="cpu")
    pipeline.train()
    x = pipeline.sample(4).raw()
    assert x.shape == (4, 1, 8, 8)
    assert set(x.unique().tolist()) <= {0, 1}


def test_time_of_share_inverts_the_schedule():
    t = torch.linspace(0.01, 0.99, 30, dtype=torch.float64)
    for process in (Masked(), Masked(schedule="cosine")):
        assert (process.time_of_share(process.coeffs(t).alpha) - t).abs().max() < 1e-12
    assert point(Masked(), 1.0).alpha == 0


def test_turned_products_depend_on_distance_alone():
    q, k = (torch.randn(8, dtype=torch.float64, generator=torch.Generator().manual_seed(i)).expand(12, 8) for i in (0, 1))
    products = turned(q) @ turned(k).T
    for shift in range(-11, 12):
        line = products.diagonal(shift)
        assert float((line - line[0]).abs().max()) < 1e-5
    assert float((turned(q).norm(dim=1) - q.norm(dim=1)).abs().max()) < 1e-6
    assert float(products.diagonal().sub(q[0] @ k[0]).abs().max()) < 1e-5
    assert float((products[0, 1:] - products[0, 0]).abs().min()) > 1e-3, "distances are told apart"
    assert float((products[0, 1:] - products[1:, 0]).abs().min()) > 1e-3, "before and after are told apart"


def test_rotary_needs_pairs_of_channels():
    with pytest.raises(dc.SpecError, match="even number of channels per head; got 3"):
        TokenTransformer(width=12, heads=4, rotary=True)
    x, t = torch.tensor([[0, 1, 2, 3, 0, 1]]), torch.tensor([0.5])
    for rotary in (False, True):  # without embeddings of place nothing else tells the order of the tokens
        net = built((6,), rotary=rotary)
        net.place.data.zero_()
        turn = float((net(x.roll(1, 1), t) - net(x, t).roll(1, 1)).detach().abs().max())
        assert (turn > 1e-4) is rotary
