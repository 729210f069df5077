"""A text of the user's own: bytes or characters, windows and splits, and what is said of a text that does not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffcore_discrete.letters import one_line, to_texts, to_tokens
from diffcore_discrete.text_file import TextFile

import diffcore as dc

TEXT = "Ein Zauberlehrling, größer als α und 猫:\nhat der alte Hexenmeister ☃ sich doch einmal wegbegeben!\r\n" * 3
ALPHABET = "".join(sorted(set(TEXT)))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "a.txt").write_bytes(TEXT.encode())
    return tmp_path / "a.txt"


def every(data: TextFile) -> torch.Tensor:
    source = data.open()
    assert source.size is not None
    return source.batch(torch.arange(source.size))[0]


@pytest.mark.parametrize("split", ["all", "train", "test"])
@pytest.mark.parametrize("alphabet", [None, ALPHABET])
def test_windows_are_those_of_the_text(file: Path, split: str, alphabet: str | None):
    whole = list(TEXT.encode()) if alphabet is None else [alphabet.index(c) for c in TEXT]
    cut = len(whole) - len(whole) // 10
    part = {"all": whole, "train": whole[:cut], "test": whole[cut:]}[split]
    starts = range(0, len(part) - 7, 8 if split == "test" else 1)
    raw = every(TextFile(path=str(file), length=8, alphabet=alphabet, split=split))
    assert raw.dtype == torch.int64
    assert raw.tolist() == [part[i : i + 8] for i in starts]


def test_samples_are_shown_in_one_line(file: Path):
    data = TextFile(path=str(file), length=len(TEXT), alphabet=ALPHABET, split="all")
    assert data.texts(every(data)) == [TEXT.replace("\n", "⏎").replace("\r", "⏎")]
    data = TextFile(path=str(file), length=len(TEXT.encode()), split="all")
    assert data.texts(every(data)) == [TEXT.replace("\n", "⏎").replace("\r", "⏎")]
    assert data.texts(torch.tensor([[255, 65]])) == ["\N{REPLACEMENT CHARACTER}A"]
    assert data.texts(torch.tensor([[72, 256, 105], [0xC3, 0x41, 0]])) == ["H_i", "\N{REPLACEMENT CHARACTER}A·"]
    assert one_line("a\u2028\x0b\x00b") == "a⏎⏎·b"


def test_large_alphabets_and_back():
    alphabet = "".join(map(chr, range(0x4E00, 0x4E00 + 700)))
    text = alphabet[::-7]
    tokens = to_tokens(text, alphabet)
    assert tokens.tolist() == [alphabet.index(c) for c in text]
    assert to_texts(torch.tensor([[0, 699, 700]]), alphabet) == [alphabet[0] + alphabet[699] + "_"]


@pytest.mark.parametrize(
    ("content", "fields", "says"),
    [
        (b"abc \xff", {}, "cannot be read as utf-8 text .UnicodeDecodeError"),
        ("abc".encode("utf-16"), {}, "cannot be read as utf-8 text"),
        (b"", {}, "a.txt, split 'train', has 0 characters, fewer than 'length' = 64"),
        (b"short", {}, "has 5 characters, fewer than 'length' = 64; take a smaller length"),
        (b"x" * 100, {"split": "test"}, "split 'test', has 10 characters"),
        (b"abcabd" * 20, {"alphabet": "abc"}, r"a.txt: character 'd' at place 5 .*1 are missing: 'd'; add them to 'alphabet'"),
    ],
)
def test_other_texts_are_refused_in_one_line(tmp_path: Path, content: bytes, fields: dict[str, str], says: str):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(dc.DataError, match=says) as refusal:
        TextFile(path=str(tmp_path / "a.txt"), **fields).open()
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("alphabet", ["", "a", "aba"])
def test_an_alphabet_is_of_different_characters(alphabet: str):
    with pytest.raises(dc.SpecError, match="two or more different characters"):
        TextFile(path="a.txt", alphabet=alphabet)


def test_a_mark_of_the_byte_order_is_no_character(tmp_path: Path):
    (tmp_path / "a.txt").write_bytes("abab".encode("utf-8-sig"))
    assert every(TextFile(path=str(tmp_path / "a.txt"), length=4, alphabet="ab", split="all")).tolist() == [[0, 1, 0, 1]]


def test_a_damaged_text_is_read_or_refused_in_one_line(file: Path):
    whole, rng, refused = TEXT.encode(), np.random.default_rng(0), 0
    for _ in range(300):
        content = bytearray(whole)
        content[int(rng.integers(len(whole)))] ^= 1 << int(rng.integers(8))
        file.write_bytes(content)
        try:
            every(TextFile(path=str(file), alphabet=ALPHABET))
        except dc.DataError as error:
            refused += "\n" not in str(error)
    assert refused > 150


def test_own_text_trains(file: Path):
    spec = {
        "data": {"type": "text-file", "path": str(file), "length": 8},
        "process": {"type": "masked", "values": 256},
        "network": {"type": "token-transformer", "width": 16, "depth": 1, "heads": 2},
        "prediction": "logits",
        "loss": {"type": "masked-elbo"},
        "trainer": {"type": "standard", "steps": 2, "batch": 8},
        "solver": {"type": "ancestral", "steps": 3},
    }
    pipeline = dc.assemble(spec)
    pipeline.train()
    assert len(pipeline.spec.data.texts(pipeline.sample(3).raw()) or ()) == 3
