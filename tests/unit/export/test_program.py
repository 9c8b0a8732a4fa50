"""Models as programs: any batch size, the same outputs, one clear error for what cannot be written or read."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from surgecollapse.export import load_program, save_program


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(6, 4), nn.Linear(3, 4)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        total = self.left(a) + self.right(b)
        return total, total.softmax(-1)


@pytest.mark.parametrize("kind", [tuple, dict])
def test_program_computes_the_same_for_any_batch_size(tmp_path, kind):
    torch.manual_seed(0)
    model = Two().eval()
    a, b = torch.randn(5, 6), torch.randn(5, 3)
    written = save_program(model, (a, b) if kind is tuple else {"a": a, "b": b}, tmp_path / "net.pt2")
    assert written.max_difference < 1e-6
    assert written.bytes == (tmp_path / "net.pt2").stat().st_size
    program = load_program(tmp_path / "net.pt2")
    for rows in (1, 2, 9):
        a, b = torch.randn(rows, 6), torch.randn(rows, 3)
        given = program(a, b) if kind is tuple else program(a=a, b=b)
        for one, other in zip(given, model(a, b), strict=True):
            torch.testing.assert_close(one, other)


def test_examples_that_are_a_slice_do_not_bring_their_whole_into_the_file(tmp_path):
    samples = torch.zeros(100_000, 3)
    assert save_program(nn.Linear(3, 2), samples[:2], tmp_path / "net.pt2").bytes < 30_000


def test_a_single_sample_is_refused_since_it_would_fix_the_batch(tmp_path):
    with pytest.raises(ValueError, match=r"two or more, got \[1\]"):
        save_program(nn.Linear(3, 2), torch.ones(1, 3), tmp_path / "net.pt2")


def test_a_model_that_depends_on_values_is_refused(tmp_path):
    class Branches(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match="cannot be written as a program"):
        save_program(Branches(), torch.ones(3, 3), tmp_path / "net.pt2")
    assert not (tmp_path / "net.pt2").exists()


@pytest.mark.parametrize("checksum", [True, False])
def test_a_flipped_byte_of_a_weight_is_noticed(tmp_path, checksum):
    file = tmp_path / "net.pt2"
    layer = nn.Linear(64, 64)
    save_program(layer, torch.ones(2, 64), file)
    whole = file.read_bytes()
    place = whole.index(layer.weight.detach().numpy().tobytes()) + 100
    file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    if checksum:
        with pytest.raises(ValueError, match=r"not the file that net\.pt2\.sha256 was written for"):
            load_program(file)
        return
    (tmp_path / "net.pt2.sha256").unlink()
    with pytest.warns(UserWarning, match="execute code"), pytest.raises(ValueError, match="damaged"):
        load_program(file)


def test_another_program_is_not_read_for_the_one_that_was_written(tmp_path):
    for name in ("ours", "theirs"):
        save_program(nn.Linear(3, 2), torch.ones(2, 3), tmp_path / f"{name}.pt2")
    (tmp_path / "theirs.pt2").replace(tmp_path / "ours.pt2")
    with pytest.raises(ValueError, match="export it again"):
        load_program(tmp_path / "ours.pt2")


def test_the_checksum_is_that_of_sha256sum(tmp_path):
    import hashlib

    save_program(nn.Linear(3, 2), torch.ones(2, 3), tmp_path / "net.pt2")
    digest = hashlib.sha256((tmp_path / "net.pt2").read_bytes()).hexdigest()
    assert (tmp_path / "net.pt2.sha256").read_text() == f"{digest}  net.pt2\n"


def test_a_net_that_gives_nan_is_not_written(tmp_path):
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="4 NaN of 4 values"):
        save_program(model, torch.ones(2, 3), tmp_path / "net.pt2")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"text"])
def test_what_is_no_program_is_one_error(tmp_path, content):
    (tmp_path / "net.pt2").write_bytes(content)
    with pytest.warns(UserWarning, match="execute code"), pytest.raises(ValueError, match="damaged or no program"):
        load_program(tmp_path / "net.pt2")
