"""Arrays of the user's own: types, labels, tokens, scale, and what a hostile or damaged file may ask for."""

from __future__ import annotations

import copy
import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffcore_data.array_file import ArrayFile
from diffcore_data.closed_form import Gaussian
from diffcore_data.packaged import Digits8x8
from diffcore_data.standardised import Standardised
from safetensors.torch import save_file

import diffcore as dc

RNG = np.random.default_rng(0)
UNIT = dc.Range(lo=0, hi=1)


def npz(path: Path, **arrays: Any) -> str:
    np.savez(path / "a.npz", **arrays)
    return str(path / "a.npz")


def all_of(data: dc.Data) -> torch.Tensor:
    source = data.open()
    assert source.size is not None
    return source.batch(torch.arange(source.size))[0]


# --- types ------------------------------------------------------------------------------------------------------------

FLOATS = [np.float16, np.float32, np.float64, np.longdouble, ">f4", "<f8"]
INTEGERS = ["u1", "i1", "<u2", ">u2", "i2", "u4", "i4", "u8", ">i8"]


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS, "?"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_type_of_numbers_keeps_its_values(tmp_path: Path, dtype: Any, order: Any):
    values = RNG.integers(0, 2, (7, 3, 2)).astype(dtype, order=order)
    raw = all_of(ArrayFile(path=npz(tmp_path, x=values), range=UNIT))
    assert raw.dtype == torch.float32
    np.testing.assert_array_equal(raw.numpy(), values.astype(np.float32))


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_without_a_range_are_tokens(tmp_path: Path, dtype: str):
    values = RNG.integers(0, 100, (7, 5)).astype(dtype)
    data = ArrayFile(path=npz(tmp_path, x=values), range=None)
    raw = all_of(data)
    assert raw.dtype == torch.int64
    np.testing.assert_array_equal(raw.numpy(), values)
    assert data.encode(raw) is raw
    assert data.decode(raw) is raw


def test_own_tokens_train(tmp_path: Path):
    path = npz(tmp_path, x=RNG.integers(0, 4, (64, 6)))
    spec = {
        "data": {"type": "array", "path": path, "range": None},
        "process": {"type": "masked", "values": 4},
        "network": {"type": "token-transformer", "width": 16, "depth": 1, "heads": 2},
        "prediction": "logits",
        "loss": {"type": "masked-elbo"},
        "trainer": {"type": "standard", "steps": 2, "batch": 8},
        "solver": {"type": "ancestral", "steps": 3},
    }
    pipeline = dc.assemble(spec)
    pipeline.train()
    raw = pipeline.sample(5).raw()
    assert isinstance(raw, torch.Tensor)
    assert raw.dtype == torch.int64
    assert set(raw.unique().tolist()) <= set(range(4))


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (np.zeros((5, 0)), r"of shape \(5, 0\); expected real numbers \(N, ...\), no axis of length 0"),
        (np.zeros((0, 3)), "no axis of length 0"),
        (np.zeros(3), r"'x' is float64 of shape \(3,\).*x\[:, None\]"),
        (np.float64(1), r"of shape \(\)"),
        (np.zeros((2, 3), complex), "'x' is complex128"),
        (np.array([["a"]]), r"holds <U1; expected an array of numbers; number the words: np\.unique"),
        (np.array([[{}]], object), "holds object; expected an array of numbers"),
        (np.zeros((2, 2), "M8[s]"), "holds datetime64"),
        (np.zeros(2, [("a", "f4")]), "expected an array of numbers"),
        (np.array([[0, 1e300]]), r"1 of 2 values beyond float32 \(3.4e\+38\), the first 1e\+300 in sample 0; scale it"),
        (np.array([[1e300], [np.nan]]), "beyond float32"),
        (np.array([[0], [np.nan], [np.inf]]), "NaN or infinite values: 2 of 3 values, the first in sample 1"),
        (np.array([[3e38, -3e38]]), "spans more than float32 holds"),
        (np.array([[1, -2]]), "values from -2, and integers without a range are tokens.*declare a 'range'"),
    ],
)
def test_values_that_are_no_samples_are_refused(tmp_path: Path, x: Any, says: str):
    with pytest.raises(dc.DataError, match=says):
        ArrayFile(path=npz(tmp_path, x=x), range=None).open()


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64])
def test_other_types_of_safetensors_are_refused(tmp_path: Path, dtype: torch.dtype):
    save_file({"x": torch.ones(2, 3).to(dtype)}, tmp_path / "a.safetensors")
    with pytest.raises(dc.DataError, match=r"'x' is (float8_e...|complex64).* of shape \(2, 3\); expected real numbers"):
        ArrayFile(path=str(tmp_path / "a.safetensors"), range=None).open()


def test_a_range_that_the_data_does_not_fill_is_noted_once(tmp_path: Path):
    path = npz(tmp_path, x=RNG.uniform(size=(8, 3)))
    for range_, said in ({"lo": 0, "hi": 1e30}, 1), ({"lo": 0, "hi": 1}, 0):
        notes = dc.assemble({**SPEC, "data": {"type": "array", "path": path, "range": range_}}).notes
        assert ["declare the range that the values have" in note for note in notes] == [True] * said


def test_other_names_are_listed(tmp_path: Path):
    with pytest.raises(dc.DataError, match=r"holds 'cond', 'y' beside 'x'; 'array' reads 'x' and 'label'"):
        ArrayFile(path=npz(tmp_path, x=np.zeros((2, 2)), cond=np.array([{}], object), y=np.zeros(2)), range=UNIT).open()
    with pytest.raises(dc.DataError, match="holds 'arr_0'; expected the samples as 'x'"):
        ArrayFile(path=npz(tmp_path, arr_0=np.zeros((2, 2))), range=UNIT).open()


# --- labels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [*INTEGERS, "?"])
def test_labels_of_every_integer_type(tmp_path: Path, dtype: str):
    label = np.array([1, 0, 1, 1]).astype(dtype)
    source = ArrayFile(path=npz(tmp_path, x=np.eye(4), label=label), range=UNIT).open()
    assert source.classes == {"label": 2}
    found = source.batch(torch.arange(4))[1]["label"]
    assert found.dtype == torch.int64
    assert found.tolist() == [1, 0, 1, 1]


@pytest.mark.parametrize(
    ("label", "says"),
    [
        ([0, 2, 2, 4], "distinct numbers in 'label': 3, from 0 to 4, and none is 1; a class without samples"),
        ([0, 2, 2, 0], "2, from 0 to 2, and none is 1"),
        ([1, 2, 3, 4], "4, from 1 to 4, and none is 0"),
        ([10**9] * 4, "1, from 1000000000 to 1000000000, and none is 0"),
        (np.array([0, 1, 2, 2**64 - 1], "u8"), "holds -1; expected integers from 0"),
        ([0, 1, 2, -1], "holds -1; expected integers from 0"),
        ([0.0, 1, 2, 3], r"'label' is float64 of shape \(4,\); expected 4 integers from 0"),
        ([[0], [1], [2], [3]], r"of shape \(4, 1\); expected 4 integers"),
        ([0, 1, 2], "expected 4 integers"),
        (np.eye(4, dtype=int), "expected 4 integers"),
    ],
)
def test_labels_that_are_no_classes_are_refused(tmp_path: Path, label: Any, says: str):
    with pytest.raises(dc.DataError, match=says):
        ArrayFile(path=npz(tmp_path, x=np.eye(4), label=np.asarray(label)), range=UNIT).open()


def test_classes_have_names(tmp_path: Path):
    path = npz(tmp_path, x=np.eye(4), label=np.array([0, 2, 0, 2]))
    data = ArrayFile(path=path, range=UNIT, classes=("cat", "cow", "dog", "hen"))
    assert data.open().classes == {"label": len(data.class_names)} == {"label": 4}
    with pytest.raises(dc.DataError, match=r"'label' goes to 2, and field 'classes' names 2: 0 to 1"):
        ArrayFile(path=path, range=UNIT, classes=("cat", "dog")).open()
    with pytest.raises(dc.DataError, match="holds no 'label', and field 'classes' names 1"):
        ArrayFile(path=npz(tmp_path, x=np.eye(4)), range=UNIT, classes=("cat",)).open()
    with pytest.raises(dc.SpecError, match="names a class twice"):
        ArrayFile(path=path, range=UNIT, classes=("cat", "cat"))


# --- scale ------------------------------------------------------------------------------------------------------------

FAR = np.stack([280 + 15 * RNG.normal(size=(500, 3, 2)), RNG.uniform(-1e-7, 3e-7, (500, 3, 2)), np.full((500, 3, 2), 1013.25)], 1)


def test_unbounded_numbers_are_seen_at_the_scale_of_the_process(tmp_path: Path):
    for values in (FAR, FAR[:, :, 0, 0]):
        data = ArrayFile(path=npz(tmp_path, x=values), range=None)
        raw = all_of(data)
        np.testing.assert_array_equal(raw.numpy(), values.astype(np.float32))
        seen = data.encode(raw)
        axes = [0, *range(2, values.ndim)]
        torch.testing.assert_close(seen.double().mean(axes), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-4)
        expected = torch.tensor([0.5, 0.5, 0], dtype=torch.float64)
        torch.testing.assert_close(seen.double().std(axes, unbiased=False), expected, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(data.decode(seen), raw, rtol=1e-6, atol=1e-13)
        noisy = data.decode(seen + torch.randn(seen.shape, generator=torch.Generator().manual_seed(0)))
        torch.testing.assert_close(noisy[:, 2], raw[:, 2], rtol=1e-4, atol=0)


@pytest.mark.parametrize("standardise", [True, False])
@pytest.mark.parametrize(("mean", "std", "sound"), [(1e9, 1, False), (1.7e9, 300, False), (1e7, 1, False), (1e3, 1, True)])
def test_values_that_float32_cannot_tell_apart_are_refused(
    tmp_path: Path, mean: float, std: float, sound: bool, standardise: bool
):
    x = np.stack([RNG.normal(size=100), mean + std * RNG.normal(size=100), np.full(100, mean)], 1)
    data = ArrayFile(path=npz(tmp_path, x=x), range=None, standardise=standardise)
    if sound:
        assert len(all_of(data)[:, 1].unique()) > 98
        return
    with pytest.raises(dc.DataError, match=r"\(channel 1\) have hardly a value in float32; shift or scale them"):
        data.open()


def test_one_value_that_makes_the_whole_deviation_is_said(tmp_path: Path, recwarn: pytest.WarningsRecorder):
    x = RNG.normal(size=(500, 2, 3))
    ArrayFile(path=npz(tmp_path, x=x), range=None).open()
    assert not recwarn.list
    x[321, 1, 2] = 1e6
    with pytest.warns(dc.DataWarning, match=r"one value of channel 1 lies 9\.99e\+05 from its mean.*leave it out"):
        ArrayFile(path=npz(tmp_path, x=x), range=None).open()


@pytest.mark.parametrize("suffix", [".npy", ".csv", ".txt"])
def test_files_of_other_kinds_are_refused_with_how_to_write_them_again(tmp_path: Path, suffix: str):
    with pytest.raises(dc.DataError, match=r"write it again: np\.savez\('x\.npz', x=np\.load"):
        ArrayFile(path=str(tmp_path / f"a{suffix}"), range=None).open()


def test_copies_know_the_scale(tmp_path: Path):
    data = ArrayFile(path=npz(tmp_path, x=FAR[:, :, 0, 0]), range=None)
    x = torch.randn(4, 3)
    with pytest.raises(dc.DataError, match="not known yet: open it"):
        data.decode(x)
    data.open()
    for copied in (copy.copy(data), copy.deepcopy(data), pickle.loads(pickle.dumps(data))):
        assert copied == data
        torch.testing.assert_close(copied.decode(x), data.decode(x), rtol=0, atol=0)
    wrapped = Standardised(of=data)
    wrapped.open()
    torch.testing.assert_close(copy.deepcopy(wrapped).decode(x), wrapped.decode(x), rtol=0, atol=0)


def test_values_are_used_as_they_are_where_that_is_asked(tmp_path: Path):
    data = ArrayFile(path=npz(tmp_path, x=FAR), range=None, standardise=False)
    raw = all_of(data)
    assert data.encode(raw) is raw
    assert data.parts() == {}


def test_a_declared_range_is_the_scale(tmp_path: Path):
    data = ArrayFile(path=npz(tmp_path, x=np.array([[0.0, 4.0]])), range=dc.Range(lo=0, hi=4))
    assert data.encode(all_of(data)).tolist() == [[-1, 1]]
    assert data.parts() == {}


SPEC = {
    "process": {"type": "flow"},
    "network": {"type": "mlp", "width": 8, "depth": 1},
    "prediction": "velocity",
    "loss": {"type": "denoising"},
    "trainer": {"type": "standard", "steps": 2, "batch": 8},
    "solver": {"type": "euler", "steps": 3},
}


@pytest.mark.parametrize("wrap", [False, True])
def test_the_scale_is_saved_with_the_weights(tmp_path: Path, wrap: bool):
    path = npz(tmp_path, x=FAR[:, :, 0, 0])
    array: dict[str, Any] = {"type": "array", "path": path, "range": None}
    data = {"type": "standardised", "of": array} if wrap else array
    pipeline = dc.assemble({**SPEC, "data": data})
    pipeline.train()
    made = pipeline.sample(6, seed=3).raw()
    pipeline.save(tmp_path)
    npz(tmp_path, x=RNG.normal(size=(20, 3)))
    assert isinstance(made, torch.Tensor)
    torch.testing.assert_close(dc.Pipeline.load(tmp_path).sample(6, seed=3).raw(), made, rtol=0, atol=0)
    Path(path).unlink()
    torch.testing.assert_close(dc.Pipeline.load(tmp_path).sample(6, seed=3).raw(), made, rtol=0, atol=0)


def test_samples_have_the_moments_of_data_far_from_the_origin(tmp_path: Path):
    """Noise of deviation 1, decoded, has the mean of the data and twice its deviation."""
    data = ArrayFile(path=npz(tmp_path, x=280 + 15 * RNG.normal(size=(4000, 2))), range=None)
    raw = all_of(data)
    noise = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
    made = data.decode(noise)
    torch.testing.assert_close(made.mean(0), raw.mean(0), rtol=0, atol=2)
    torch.testing.assert_close(made.std(0), 2 * raw.std(0), rtol=0.05, atol=0)


@pytest.mark.parametrize(
    ("of", "moments"),
    [(Gaussian(mean=(3.0, -40.0), cov=((4.0, 1.0), (1.0, 900.0))), 4096), (Digits8x8(), 1797), (Digits8x8(), 500)],
)
def test_any_set_can_be_standardised(of: dc.Data, moments: int):
    data = Standardised(of=of, moments=moments)
    source = data.open()
    assert (data.class_names, data.value_range) == (of.class_names, of.value_range)
    raw, _ = source.batch(torch.arange(1500))
    assert isinstance(raw, torch.Tensor)
    seen = data.encode(raw)
    axes = [0, *range(2, seen.ndim)]
    torch.testing.assert_close(seen.std(axes), torch.full_like(seen.std(axes), 0.5), rtol=0.06, atol=0)
    assert float(seen.mean(axes).abs().max()) < 0.05
    back = data.decode(seen)
    assert isinstance(back, torch.Tensor)
    torch.testing.assert_close(back, raw, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("moments", "used"), [(5000, 1797), (1797, 1797), (500, 500)])
def test_moments_are_those_of_samples_spread_over_the_set_each_once(moments: int, used: int):
    data = Standardised(of=Digits8x8(split="all"), moments=moments)
    source = data.open()
    raw, _ = source.batch(torch.linspace(0, 1796, used).long())
    assert isinstance(raw, torch.Tensor)
    seen = raw.double().mean() / 8 - 1  # of 0 to 16 as -1 to 1
    torch.testing.assert_close(data.parts()["standard"].mean.flatten(), seen[None].float(), rtol=1e-5, atol=0)


def test_moments_of_a_normal_distribution_are_its_own():
    data = Standardised(of=Gaussian(mean=(3.0, -40.0), cov=((4.0, 1.0), (1.0, 900.0))), moments=100_000)
    data.open()
    standard = data.parts()["standard"]
    torch.testing.assert_close(standard.mean, torch.tensor([3.0, -40.0]), rtol=0, atol=0.4)
    torch.testing.assert_close(standard.std, torch.tensor([2.0, 30.0]), rtol=0.02, atol=0)


def test_tokens_cannot_be_standardised(tmp_path: Path):
    array = ArrayFile(path=npz(tmp_path, x=np.arange(6).reshape(3, 2)), range=None)
    with pytest.raises(dc.DataError, match="needs real numbers; ArrayFile has others"):
        Standardised(of=array).open()


# --- hostile and damaged files ----------------------------------------------------------------------------------------


def record(header: str, body: bytes = bytes(32)) -> bytes:
    """An array in numpy's format, with any header."""
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body


def declared(shape: str, descr: str = "'<f8'") -> bytes:
    return record(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}")


def zipped(path: Path, content: bytes, method: int = zipfile.ZIP_STORED) -> str:
    with zipfile.ZipFile(path / "a.npz", "w", method) as archive:
        archive.writestr("x.npy", content)
    return str(path / "a.npz")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (declared("(5000000000,)"), r"its header declares float64 \(5000000000,\) where 32 bytes are"),
        (declared(f"({10**30}, 1)"), r"declares float64 \(10+, 1\) where 32 bytes are"),
        (declared(f"({10**400},)"), r"declares float64 \(10+\.\.\. where"),
        (declared("(-1, 4)"), r"declares float64 \(-1, 4\)"),
        (declared("(2, 2)", "'|O'"), "holds object; expected an array of numbers"),
        (declared("(2, 2)", "'<f99'"), "its header is none of an array"),
        (declared("(2, 2)", "[('a', '<f8')]"), "expected an array of numbers"),
        (declared("((2, 2), 2)"), "its header is none of an array"),
        (record("(" * 3000), "its header is none of an array"),
        (record("[" * 60000), "its header is none of an array"),
        (record("{}"), "its header is none of an array"),
        (record("\0" * 50), "its header is none of an array"),
        (declared("(2, 1)"), "it goes on after its last value"),
        (b"", "its header is none of an array"),
        (b"text", "its header is none of an array"),
    ],
)
def test_hostile_headers_are_refused_before_anything_is_allocated(tmp_path: Path, content: bytes, says: str):
    with pytest.raises(dc.DataError, match=says) as refusal:
        ArrayFile(path=zipped(tmp_path, content), range=None).open()
    assert "pickle" not in str(refusal.value)
    assert "\n" not in str(refusal.value)


def one_array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, RNG.uniform(size=(6, 3)))
    return buffer.getvalue()


@pytest.mark.parametrize(("method", "number"), [(zipfile.ZIP_LZMA, 14), (zipfile.ZIP_BZIP2, 12)])
def test_other_compression_is_refused(tmp_path: Path, method: int, number: int):
    with pytest.raises(dc.DataError, match=f"compressed by method {number} of zip, which numpy does not write"):
        ArrayFile(path=zipped(tmp_path, one_array(), method), range=None).open()


def patched(path: str, local: int, central: int, value: bytes) -> None:
    """Other bytes in both headers of the only member."""
    content = bytearray(Path(path).read_bytes())
    for signature, at in ((b"PK\3\4", local), (b"PK\1\2", central)):
        start = content.rfind(signature) + at
        content[start : start + len(value)] = value
    Path(path).write_bytes(content)


def test_encrypted_and_unknown_members_are_refused(tmp_path: Path):
    path = zipped(tmp_path, one_array())
    patched(path, 6, 8, b"\1\0")
    with pytest.raises(dc.DataError, match=r"array 'x' of .*a.npz is encrypted"):
        ArrayFile(path=path, range=None).open()
    path = zipped(tmp_path, one_array())
    patched(path, 8, 10, b"\x63\0")
    with pytest.raises(dc.DataError, match=r"compressed by method 99|cannot be read as npz"):
        ArrayFile(path=path, range=None).open()


def test_zip_bombs_are_refused(tmp_path: Path):
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((80_000, 1000), np.uint8))
    with pytest.raises(dc.DataError, match=r"would grow from \d+ to 80000128 bytes, as a zip bomb does"):
        ArrayFile(path=str(tmp_path / "a.npz"), range=UNIT).open()


def test_what_is_large_may_be_compressed_a_hundred_times_and_what_is_small_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    flat, dotted = np.zeros((200, 1000), np.uint8), np.zeros((200, 1000), np.uint8)
    dotted[:, ::50] = np.random.default_rng(0).integers(0, 256, (200, 20))
    for name, x in (("flat", flat), ("dotted", dotted)):
        np.savez_compressed(tmp_path / f"{name}.npz", x=x)
        ratio = x.nbytes / (tmp_path / f"{name}.npz").stat().st_size
        assert (ratio > 120) == (name == "flat")
        assert ratio > 5
    monkeypatch.setattr("diffcore_data.npz.HARMLESS", flat.nbytes + 128)  # the header of an array is 128 bytes
    ArrayFile(path=str(tmp_path / "flat.npz"), range=UNIT).open()
    monkeypatch.setattr("diffcore_data.npz.HARMLESS", flat.nbytes + 127)
    ArrayFile(path=str(tmp_path / "dotted.npz"), range=None, standardise=False).open()
    with pytest.raises(dc.DataError, match="as a zip bomb does"):
        ArrayFile(path=str(tmp_path / "flat.npz"), range=UNIT).open()


def test_what_does_not_fit_into_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("diffcore.learning.files.free_memory", lambda: 1000)
    with pytest.raises(dc.DataError, match=r"a.npz needs 1.73 kB of memory, and this machine has 1 kB to give"):
        ArrayFile(path=npz(tmp_path, x=np.zeros((200, 1))), range=UNIT).open()
    save_file({"x": torch.zeros(500, 1)}, tmp_path / "a.safetensors")
    with pytest.raises(dc.DataError, match=r"needs 2.07 kB of memory"):
        ArrayFile(path=str(tmp_path / "a.safetensors"), range=UNIT).open()


def test_two_arrays_of_one_name_are_refused(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for name in ("x.npy", "x"):
            archive.writestr(name, one_array())
    with pytest.raises(dc.DataError, match="holds two arrays of one name"):
        ArrayFile(path=str(tmp_path / "a.npz"), range=None).open()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"1,2,3\n4,5,6\n", r"is no .npz, whatever its name says: it begins with b'1,2,3\\n'"),
        (b"", "is no .npz"),
        (one_array(), r"is a single array \(.npy\).*np.savez\(path, x=array\)"),
        (b"PK\3\4 and no more", "cannot be read as npz"),
    ],
)
def test_files_that_only_have_the_name(tmp_path: Path, content: bytes, says: str):
    (tmp_path / "A.NPZ").write_bytes(content)
    with pytest.raises(dc.DataError, match=says) as refusal:
        ArrayFile(path=str(tmp_path / "A.NPZ"), range=None).open()
    assert "pickle" not in str(refusal.value)


@pytest.mark.parametrize("kind", ["stored", "compressed"])
def test_a_damaged_npz_gives_its_values_or_one_line(tmp_path: Path, kind: str, outcomes: Callable[..., Any]):
    x, label, file = RNG.uniform(size=(9, 4)).astype(np.float32), np.arange(9) % 3, tmp_path / "a.npz"
    (np.savez if kind == "stored" else np.savez_compressed)(file, x=x, label=label)
    found = list(outcomes(ArrayFile(path=str(file), range=UNIT).open, file, 1000))
    for table in (table for table in found if not isinstance(table, str)):
        np.testing.assert_array_equal(table.x.numpy(), x)
        assert table.label is None or table.label.tolist() == label.tolist()
    refused = sum(isinstance(each, str) for each in found)
    assert 500 < refused < 1000
    assert not any("pickle" in line for line in found if isinstance(line, str))


def test_a_damaged_safetensors_gives_values_or_one_line(tmp_path: Path, outcomes: Callable[..., Any]):
    file = tmp_path / "a.safetensors"
    save_file({"x": torch.rand(4, 3), "label": torch.arange(4) % 2}, file)
    data = ArrayFile(path=str(file), range=None, standardise=False)
    found = list(outcomes(data.open, file, 1000))
    assert 300 < sum(isinstance(each, str) for each in found) < 1000


# --- metrics of the data itself -------------------------------------------------------------------------------------------


def test_a_metric_of_the_data_takes_values_that_are_as_they_are(tmp_path: Path):
    metric: dc.Metric = dc.Registry.load().make("metric", "conservativity")
    x, spread = torch.rand(8, 2), npz(tmp_path, x=np.random.default_rng(0).random((8, 2)))

    def check(data: dc.Data) -> None:
        metric.check(dc.Evaluation(samples=x, reference=x, data=data))

    for plain in (ArrayFile(path=spread, range=UNIT), ArrayFile(path=spread, range=None, standardise=False)):
        check(plain)
    with pytest.raises(dc.DataError, match=r"ArrayFile is seen by the network through its mean .* data\.standardise: false"):
        check(ArrayFile(path=spread, range=None))
    with pytest.raises(dc.DataError, match=r"Standardised is seen by the network through its mean .* name Gaussian itself"):
        check(Standardised(of=Gaussian(mean=(0.0, 0.0), cov=((1.0, 0.0), (0.0, 1.0)))))
