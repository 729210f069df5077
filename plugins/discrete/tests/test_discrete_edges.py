"""Tokens that show are certain, classes are counted from their labels, and the slowest value decides whether a chain forgets."""

import math
import subprocess
from types import SimpleNamespace

import pytest
import torch
from diffcore_discrete import corpus
from diffcore_discrete.analog_bits import AnalogBits, to_bits, to_tokens
from diffcore_discrete.binary_digits import BinaryDigits
from diffcore_discrete.bits import _training
from diffcore_discrete.d3pm import D3PM
from diffcore_discrete.d3pm_hybrid import D3PMHybrid
from diffcore_discrete.letters import to_tokens as places
from diffcore_discrete.masked import Masked
from diffcore_discrete.matrices import gaussian
from diffcore_discrete.table import Rows, windows
from diffcore_discrete.tokens import log_share

import diffcore as dc


@pytest.mark.parametrize("process", [Masked(values=4), D3PM(values=4, matrix="absorbing")], ids=lambda p: type(p).__name__)
def test_what_shows_is_certain(process):
    """Whatever the network says: one-hot where a token shows, a law of the values where it is masked."""
    x = torch.tensor([[0, 3, process.mask, 1], [process.mask, 2, 2, process.mask]])
    logits = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0))
    model = dc.Denoiser(lambda x, t: logits, "logits", process)
    probs = model(x, 0.6).probs
    shows = x != process.mask
    assert torch.equal(probs[shows], torch.nn.functional.one_hot(x[shows], 4).to(probs.dtype))
    torch.testing.assert_close(probs[~shows], logits[~shows].softmax(-1).to(probs.dtype))
    torch.testing.assert_close(probs.sum(-1), torch.ones(2, 4, dtype=probs.dtype))


def test_a_table_has_as_many_classes_as_labels():
    rows = Rows(torch.arange(12).reshape(4, 3), torch.tensor([2, 0, 1, 2]))
    assert rows.classes == {"label": 3}
    x, cond = rows.batch(torch.tensor([3, 1]))
    assert x.tolist() == [[9, 10, 11], [3, 4, 5]]
    assert cond["label"].tolist() == [2, 0]
    assert Rows(torch.zeros(2, 3)).classes == {}


def test_a_chain_in_which_one_value_mixes_late_is_refused():
    """Its best value is within the .05 of the stationary law, its worst is not: total variation worked out row by row."""
    fields = {"matrix": "gaussian", "values": 8, "levels": 40}

    def variation(last):
        chain = torch.linalg.multi_dot(list(gaussian(8, torch.linspace(0.01, last, 40, dtype=torch.float64))))
        return (chain - 1 / 8).abs().sum(-1) / 2

    tried = [(0.02 * k, variation(0.02 * k)) for k in range(1, 100)]
    uneven = next(last for last, found in tried if found.min() < 0.05 < found.max())
    even = next(last for last, found in tried if found.max() < 0.05)
    with pytest.raises(dc.SpecError, match="stationary law"):
        D3PM(**fields, beta=(0.01, uneven))
    assert D3PM(**fields, beta=(0.01, even)).beta == (0.01, even)


def test_the_archive_is_the_one_file_that_the_client_left(monkeypatch, tmp_path):
    """None, or several, is one line with what to do."""
    names = ["text.tar.gz"]

    def left(command, cwd, **_):
        for name in names:
            (cwd / name).touch()
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(corpus.subprocess, "run", left)
    assert corpus.download(tmp_path) == tmp_path / "text.tar.gz"
    names.append("other.zip")
    with pytest.raises(dc.DataError, match="run it where it works"):
        corpus.download(tmp_path)


def test_a_bit_at_zero_is_the_same_before_and_after_it_is_rounded():
    """D(sign x) = D(x) everywhere, and E(D(x)) = sign x: what is shown is what is counted."""
    x = torch.tensor([[0.0, 0.3, -0.2], [0.0, 0.0, 0.0], [-1.0, 0.0, 2.0]])
    rounded = AnalogBits(bits=3).decode(x)
    assert torch.equal(to_tokens(rounded), to_tokens(x))
    assert torch.equal(to_bits(to_tokens(x), 3), rounded)


def test_grey_of_half_the_range_is_ink():
    """16 levels and 0: token 1 from 8 on, which many pixels are."""
    from sklearn.datasets import load_digits

    grey = torch.from_numpy(load_digits().images).long()
    assert int((grey == 8).sum()) > 1000
    assert torch.equal(BinaryDigits(split="all").open().x[:, 0], (grey // 8 > 0).long())


@pytest.mark.parametrize("count", [255, 256, 257])
def test_alphabets_around_a_byte_know_their_places_and_what_is_missing(count):
    alphabet = "".join(chr(0x4E00 + k) for k in range(count))
    assert places(alphabet[::-1], alphabet).tolist() == list(range(count))[::-1]
    with pytest.raises(dc.DataError, match="character 'a' at place 1"):
        places(alphabet[0] + "a", alphabet)


def test_a_text_as_long_as_a_window_is_one_window():
    text = torch.arange(7)
    found = windows(text, 7, "all", "t")
    assert found.size == 1
    assert torch.equal(found.batch(torch.tensor([0]))[0][0], text)
    with pytest.raises(dc.DataError, match="7 characters, fewer than 'length' = 8"):
        windows(text, 8, "all", "t")


def test_the_share_that_is_kept_has_a_finite_logarithm_at_both_ends():
    """log(alpha / (1 - alpha)) for one number and for many; at 0 and 1 that of 1e-12 from them."""
    alpha = [0.0, 0.2, 0.5, 1.0]
    far = math.log(1e-12 / (1 - 1e-12))
    want = [far, math.log(0.25), 0.0, -far]
    assert log_share(SimpleNamespace(alpha=torch.tensor(alpha))).tolist() == pytest.approx(want, rel=1e-4, abs=1e-6)
    assert [log_share(SimpleNamespace(alpha=a)) for a in alpha] == pytest.approx(want, rel=1e-4)


@dc.component
class AtData(dc.TimeLaw):
    """t = 0."""

    def __call__(self, process, draw):
        return torch.zeros(len(draw.ids), dtype=torch.float64)


def test_the_first_level_of_a_chain_is_trained_at_times_before_it():
    assert D3PMHybrid(time_law=AtData()).times(D3PM(levels=8), dc.Draw(0, range(3))).tolist() == [1 / 8] * 3


@pytest.mark.parametrize(("most", "used"), [(5, 5), (10_000, 1618)])
def test_a_baseline_is_counted_on_samples_spread_over_the_set_each_once(most, used):
    x = BinaryDigits().open().x
    assert len(x) == 1618
    ev = dc.Evaluation(samples=x[:2], reference=x[:2], data=BinaryDigits())
    assert torch.equal(torch.cat([*_training(ev, most)]), x[torch.linspace(0, 1617, used).long()].flatten(1))
