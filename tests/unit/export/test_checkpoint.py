"""Sparse checkpoints: bit for bit, as small as promised, and one clear error for every file that cannot be used."""

from __future__ import annotations

import json
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import surgecollapse
from surgecollapse.export import load_masks, load_metadata, load_sparse, load_sparse_into, save_sparse
from surgecollapse.export.packing import bit_view, decode, encode

safetensors = pytest.importorskip("safetensors")
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn]
DTYPES += [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]


def assert_same_bits(a: torch.Tensor, b: torch.Tensor) -> None:
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    assert torch.equal(bit_view(a), bit_view(b))


def sparse(*shape: int, density: float = 0.1, seed: int = 0) -> torch.Tensor:
    draws = torch.Generator().manual_seed(seed)
    values, live = torch.randn(shape, generator=draws), torch.rand(shape, generator=draws) < density
    return torch.where(live, values, 0.0)  # a product would leave −0.0


@st.composite
def tensors(draw):
    """Tensors of any dtype, shape and bit pattern, sparse ones above all."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 40), max_size=3))
    size = int(torch.tensor(shape).prod()) if shape else 1
    draws = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    width = torch.empty((), dtype=dtype).element_size()
    high = 2 if dtype == torch.bool else 256
    raw = torch.randint(0, high, (size, width), dtype=torch.uint8, generator=draws)
    raw *= torch.rand(size, 1, generator=draws) < draw(st.sampled_from([0.0, 0.003, 0.05, 0.5, 1.0]))
    return raw.view(-1).view(dtype).view(shape)


@given(tensors())
def test_packing_any_bits_of_any_dtype_returns_them_and_is_never_larger_than_a_mask_or_dense(tensor):
    packed = encode(tensor)
    assert_same_bits(decode(packed.encoding, packed.parts, tensor.shape, tensor.dtype), tensor)
    size, width = tensor.numel(), tensor.element_size()
    live = int(torch.count_nonzero(bit_view(tensor)))
    assert packed.bytes <= min(size * width, live * width + (size + 7) // 8)


@settings(max_examples=25)
@given(st.dictionaries(st.text(min_size=1, max_size=8), tensors(), max_size=5))
def test_any_state_dict_comes_back_bitwise_in_its_order(tmp_path_factory, state):
    file = tmp_path_factory.mktemp("any") / "state.safetensors"
    save_sparse(state, file)
    back = load_sparse(file)
    assert list(back) == list(state)
    for name, tensor in state.items():
        assert_same_bits(back[name], tensor)


def test_negative_zero_and_nan_payloads_are_values():
    odd = torch.zeros(1000)
    odd[7], odd[500] = -0.0, torch.tensor([0x7FC12345], dtype=torch.int32).view(torch.float32)[0]
    packed = encode(odd)
    assert packed.encoding == "gaps"
    assert_same_bits(decode("gaps", packed.parts, odd.shape, odd.dtype), odd)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("density", [0.0, 0.01, 0.3, 1.0])
def test_without_signed_zeros_only_the_sign_of_zeros_changes(dtype, density):
    values = torch.where(sparse(50, 20, density=density) != 0, -3.0, -0.0).to(dtype)
    packed = encode(values, signed_zeros=False)
    back = decode(packed.encoding, packed.parts, values.shape, dtype)
    assert torch.equal(back.double(), values.double())
    assert not torch.signbit(back.double()[values.double() == 0]).any()


def test_zeros_of_a_product_with_a_mask_are_small_without_their_signs_or_with_the_mask(tmp_path):
    mask = sparse(200, 200) != 0
    weight = torch.randn(200, 200, generator=torch.Generator().manual_seed(1)) * mask
    exact = save_sparse({"w": weight}, tmp_path / "exact")
    assert_same_bits(load_sparse(tmp_path / "exact")["w"], weight)
    assert exact.bytes > 3 * exact.bound
    for options in ({"signed_zeros": False}, {"masks": {"w": mask}}):
        written = save_sparse({"w": weight}, tmp_path / "small", **options)
        assert written.bytes < 1.1 * written.bound
        assert torch.equal(load_sparse(tmp_path / "small")["w"], weight)


@pytest.mark.parametrize("zeros", [0, 1, 254, 255, 256, 257, 511, 512, 513, 5000])
def test_gaps_of_every_length_before_between_and_after(zeros):
    run = torch.zeros(zeros, dtype=torch.int64)
    one = torch.ones(1, dtype=torch.int64)
    tensor = torch.cat([run, one, run, 2 * one, run])
    packed = encode(tensor)
    assert_same_bits(decode(packed.encoding, packed.parts, tensor.shape, tensor.dtype), tensor)


def test_the_cheapest_of_the_three_forms_is_taken():
    # 4,096 floats: half live, 16384 dense, 8704 by mask, 10240 by gaps; every 64th live: 768, 320; all live: dense.
    half, few = torch.ones(4096), torch.zeros(4096)
    half[::2], few[::64] = 0, 1
    assert [encode(t).encoding for t in (half, few, torch.ones(4096))] == ["mask", "gaps", "dense"]
    assert [encode(t).bytes for t in (half, few, torch.ones(4096))] == [8704, 64 * 5, 16384]


@pytest.mark.parametrize("density", [0.5, 0.2, 0.1, 0.05, 0.02, 0.01])
def test_a_net_takes_at_most_a_tenth_more_than_nonzeros_and_one_bit_per_entry(tmp_path, density):
    state = {f"layers.{i}.weight": sparse(300, 200, density=density, seed=i) for i in range(4)}
    written = save_sparse(state, tmp_path / "net")
    nonzeros = sum(int(torch.count_nonzero(tensor)) for tensor in state.values())
    assert written.bound == 4 * nonzeros + 4 * 300 * 200 // 8
    assert written.bytes == (tmp_path / "net").stat().st_size <= 1.1 * written.bound
    assert written.dense == 4 * 4 * 300 * 200


def test_tied_tensors_are_stored_once_and_come_back_as_one(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.head = nn.Embedding(50, 20), nn.Linear(20, 50, bias=False)
            self.head.weight = self.tokens.weight

    model = Tied()
    written = save_sparse(model, tmp_path / "tied")
    assert written.dense == 4 * 50 * 20
    back = load_sparse(tmp_path / "tied")
    assert back["tokens.weight"] is back["head.weight"]
    assert torch.equal(load_sparse_into(Tied(), tmp_path / "tied").head.weight, model.head.weight)


def test_views_that_overlap_without_being_one_tensor_stay_apart(tmp_path):
    base = sparse(8, 8, density=0.5)
    state = {"base": base, "row": base[0], "transposed": base.t(), "every other": base[:, ::2]}
    save_sparse(state, tmp_path / "views")
    back = load_sparse(tmp_path / "views")
    back["base"].zero_()
    for name in ("row", "transposed", "every other"):
        assert_same_bits(back[name], state[name].contiguous())


def test_the_file_and_the_loaded_tensors_share_nothing(tmp_path):
    file = tmp_path / "net"
    save_sparse({"w": torch.ones(3)}, file)
    load_sparse(file)["w"].zero_()
    loaded = load_sparse(file)["w"]
    with file.open("r+b") as opened:
        opened.truncate(0)
    assert loaded.tolist() == [1, 1, 1]


def test_masks_of_a_controller_come_back_though_live_weights_are_zero(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with surgecollapse.attach(model, optimizer, sparsity=0.9, total_steps=4, policy="one_shot") as controller:
        for _ in range(4):
            optimizer.zero_grad()
            model(torch.randn(8, 16)).square().sum().backward()
            optimizer.step()
        controller.finalize()
        with torch.no_grad():
            model[0].weight.view(-1)[controller.masks["0.weight"].view(-1).nonzero()[0]] = 0.0
        save_sparse(model, tmp_path / "net", masks=controller.masks, metadata={"note": "é"})
        back = load_masks(tmp_path / "net")
        assert back.keys() == controller.masks.keys()
        assert all(torch.equal(back[name], mask) for name, mask in controller.masks.items())
    assert load_metadata(tmp_path / "net") == {"note": "é"}


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"v": torch.ones(2, dtype=torch.bool)}, "masks of v"),
        ({"w": torch.ones(3, dtype=torch.bool)}, "bool mask of shape \\(2,\\)"),
        ({"w": torch.ones(2)}, "bool mask"),
        ({"w": torch.tensor([True, False])}, "outside its mask"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(tmp_path, masks, message):
    with pytest.raises(ValueError, match=message):
        save_sparse({"w": torch.ones(2)}, tmp_path / "net", masks=masks)
    assert not (tmp_path / "net").exists()


@pytest.mark.parametrize(
    "entry", [3, torch.ones(2, dtype=torch.complex128), torch.ones(2, device="meta"), torch.eye(2).to_sparse()]
)
def test_what_cannot_be_stored_is_named(tmp_path, entry):
    with pytest.raises(ValueError, match="'odd'"):
        save_sparse({"odd": entry}, tmp_path / "net")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile touches torch.jit
def test_names_of_wrapped_models_lose_their_prefix(tmp_path):
    torch.manual_seed(0)
    net, other = nn.Linear(3, 2), nn.Linear(3, 2)
    save_sparse(nn.DataParallel(net), tmp_path / "net")
    assert list(load_sparse(tmp_path / "net")) == ["weight", "bias"]
    load_sparse_into(torch.compile(other), tmp_path / "net")
    assert torch.equal(other.weight, net.weight)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Linear(3, 2, bias=False), "no bias"),
        (nn.Sequential(nn.Linear(3, 2)), "lacks 0.weight"),
        (nn.Linear(2, 3), r"\(2, 3\) in the file and torch.float32 \(3, 2\)"),
        (nn.Linear(3, 2).half(), "torch.float16"),
    ],
)
def test_a_file_of_another_model_changes_nothing(tmp_path, model, message):
    save_sparse(nn.Linear(3, 2), tmp_path / "net")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_sparse_into(model, tmp_path / "net")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def saved(tmp_path):
    file = tmp_path / "net.safetensors"
    save_sparse({"w": sparse(40, 30), "b": torch.arange(5)}, file)
    return file


def rewritten(file, **changes):
    """The same file with other metadata, the checksum made to fit."""
    from safetensors import safe_open
    from safetensors.torch import save

    from surgecollapse.export.checkpoint import _SEAL, _UNSEALED, _digest, _sealed

    with safe_open(file, framework="pt") as opened:
        about, parts = opened.metadata(), {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118
    index = json.loads(about["index"])
    about |= {key: value for key, value in changes.items() if key in about}
    for key, value in changes.items():
        if key not in about:
            index["entries"][0][key] = value
    if "index" not in changes:
        about["index"] = json.dumps(index)
    about["sha256"] = _digest(about["index"], parts)
    file.write_bytes(_sealed(save(parts, metadata=about | {_SEAL: _UNSEALED})))


def test_every_flipped_byte_and_every_truncation_is_one_clear_error(tmp_path):
    file = saved(tmp_path)
    whole = file.read_bytes()
    for place in [*range(0, 700, 7), *range(700, len(whole), 41), len(whole) - 1]:
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x11]) + whole[place + 1 :])
        with pytest.raises(ValueError, match="is damaged or no sparse checkpoint"):
            load_sparse(file)
    for length in [0, 1, 7, 8, 9, 300, len(whole) // 2, len(whole) - 1]:
        file.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="is damaged or no sparse checkpoint"):
            load_sparse(file)


def test_every_single_bit_of_a_file_counts(tmp_path):
    file = tmp_path / "net"
    save_sparse({"w": torch.eye(3)}, file)
    whole = file.read_bytes()
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :])
        with pytest.raises(ValueError, match="is damaged or no sparse checkpoint"):
            load_sparse(file)


def test_a_file_of_version_0_1_0_has_no_checksum_of_the_whole_and_is_still_read(tmp_path):
    from safetensors import safe_open
    from safetensors.torch import save_file

    file = saved(tmp_path)
    with safe_open(file, framework="pt") as opened:
        about, parts = opened.metadata(), {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118
    del about["file_sha256"]
    save_file(parts, file, metadata=about | {"version": "1"})
    assert_same_bits(load_sparse(file)["w"], sparse(40, 30))
    save_file(parts, file, metadata=about)
    with pytest.raises(ValueError, match="no checksum of the whole file"):
        load_sparse(file)


@settings(max_examples=40)
@given(st.binary(max_size=64))
def test_any_bytes_are_an_error_and_no_crash(tmp_path_factory, content):
    file = tmp_path_factory.mktemp("any") / "file"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged or no sparse checkpoint"):
        load_sparse(file)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": "3"}, "version 3, this library reads up to 2"),
        ({"version": "0"}, "version 0"),
        ({"version": "two"}, "invalid literal"),
        ({"format": "other"}, "another format"),
        ({"shape": [2**40, 2**20]}, "bytes of mask|gaps that cover"),
        ({"shape": [0, 2**70]}, "mask|gaps"),
        ({"shape": [-40, -30]}, "shape"),
        ({"shape": [30, 60]}, "bytes of mask|gaps that cover"),
        ({"shape": 3}, "iterable"),
        ({"dtype": "float64"}, "values of torch.float32"),
        ({"dtype": "str"}, "damaged"),
        ({"encoding": "dense"}, "shape"),
        ({"encoding": "pickle"}, "no 'pickle'"),
        ({"same": "nothing"}, "no 'nothing'"),
        ({"name": "b"}, "comes twice"),
        ({"index": "[" * 100_000}, "damaged"),
        ({"index": "[]"}, "damaged"),
        ({"index": '{"entries": [], "metadata": {}}'}, "belong to no entry"),
    ],
)
def test_claims_that_the_contents_do_not_bear_out_are_refused_before_memory_is_taken(tmp_path, changes, message):
    file = saved(tmp_path)
    rewritten(file, **changes)
    with pytest.raises(ValueError, match=message):
        load_sparse(file)


def test_an_empty_tensor_of_impossible_shape_is_an_error(tmp_path):
    file = tmp_path / "net"
    save_sparse({"w": torch.zeros(0, 3)}, file)
    rewritten(file, shape=[0, 2**70], encoding="dense")
    with pytest.raises(ValueError, match="damaged"):
        load_sparse(file)


def test_a_header_that_claims_more_than_the_file_is_an_error(tmp_path):
    file = tmp_path / "net"
    header = json.dumps({"0.values": {"dtype": "F32", "shape": [2**50], "data_offsets": [0, 2**52]}}).encode()
    file.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(ValueError, match="damaged"):
        load_sparse(file)


def test_foreign_safetensors_are_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"w": torch.ones(2)}, tmp_path / "other")
    with pytest.raises(ValueError, match="another format"):
        load_sparse(tmp_path / "other")


def test_no_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_sparse(tmp_path / "nowhere")
    with pytest.raises(IsADirectoryError, match="folder"):
        load_sparse(tmp_path)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    file = saved(tmp_path)
    before = file.read_bytes()

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_sparse({"w": torch.ones(100)}, file)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]
