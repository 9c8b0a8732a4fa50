"""Checkpoint files: a changed bit is always noticed, every kind of damage is one error, and the older file is taken."""

from __future__ import annotations

import pickle
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
import torch

from surgecollapse.lab.training import checkpoint as checkpoint_module
from surgecollapse.lab.training.checkpoint import (
    CheckpointError,
    latest_checkpoint,
    load_checkpoint,
    load_weights,
    must_fit,
    save_checkpoint,
)

OLD = Path(__file__).parents[3] / "data" / "run-0.1.0" / "checkpoints" / "step-25.pt"


def weights(step: int) -> dict[str, torch.Tensor]:
    return {"w": torch.full((40, 30), float(step)), "b": torch.arange(5) + step}


@pytest.fixture
def file(tmp_path):
    save_checkpoint(tmp_path / "step-2.pt", {"step": 2, "model": weights(2)})
    return tmp_path / "step-2.pt"


def flipped(content: bytes, place: int, bit: int) -> bytes:
    return content[:place] + bytes([content[place] ^ (1 << bit)]) + content[place + 1 :]


def test_every_single_bit_of_the_end_and_every_41st_of_the_rest_counts(file):
    content = file.read_bytes()
    directory = content.index(b"PK\x01\x02")
    assert len(content) - directory > 300
    for place in [*range(0, directory, 41), *range(directory, len(content))]:
        file.write_bytes(flipped(content, place, place % 8))
        with pytest.raises(CheckpointError, match=r"damaged or no checkpoint .* earlier checkpoint"):
            load_checkpoint(file)


def test_every_truncation_and_every_appended_byte_counts(file):
    content = file.read_bytes()
    for length in [0, 1, 21, 22, 85, len(content) // 2, len(content) - 85, len(content) - 1]:
        file.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match="damaged or no checkpoint"):
            load_checkpoint(file)
    file.write_bytes(content + b"\0")
    with pytest.raises(CheckpointError, match="damaged or no checkpoint"):
        load_checkpoint(file)


def test_torch_and_zipfile_read_the_file_as_any_other(file):
    for options in ({}, {"mmap": True}):
        assert torch.load(file, weights_only=True, **options)["step"] == 2
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        assert len(archive.comment) == len("surgecollapse sha256 ") + 64


def test_a_file_of_version_0_1_0_is_read_and_its_damage_never_gives_other_weights(tmp_path):
    good, content = load_checkpoint(OLD)["model"], OLD.read_bytes()
    directory = content.index(b"PK\x01\x02")
    damaged, refused = tmp_path / "step-25.pt", 0
    for place in [*range(0, directory, 97), *range(directory, len(content), 3)]:
        damaged.write_bytes(flipped(content, place, 4))
        try:
            found = load_checkpoint(damaged)["model"]
        except CheckpointError:
            refused += 1
            continue
        assert found.keys() == good.keys()
        assert all(torch.equal(found[name], value) for name, value in good.items())
    assert refused > 500


@pytest.mark.parametrize(
    "error",
    [
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        KeyError("storages"),
        IndexError("pop from empty list"),
        zlib.error("invalid distance"),
        struct.error("unpack requires 4 bytes"),
        pickle.UnpicklingError("no"),
        AttributeError("no"),
        AssertionError(),
        EOFError(),
        ImportError("no"),
        MemoryError(),
        NotImplementedError("compression"),
        OverflowError("no"),
        RecursionError("no"),
        RuntimeError("PytorchStreamReader failed"),
        TypeError("no"),
        ValueError("no"),
        ZeroDivisionError("no"),
        OSError(5, "Input/output error"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_reader_raises_is_one_error_and_the_older_checkpoint_is_taken(file, monkeypatch, error):
    save_checkpoint(file.with_name("step-1.pt"), {"step": 1, "model": weights(1)})
    real = torch.load

    def fails(source, **options):
        if source.name == str(file):
            raise error
        return real(source, **options)

    monkeypatch.setattr(checkpoint_module.torch, "load", fails)
    with pytest.raises(CheckpointError, match=r"step-2\.pt is damaged") as caught:
        load_checkpoint(file)
    assert "\n" not in str(caught.value)
    notes = []
    assert latest_checkpoint(file.parent, notes.append)["step"] == 1
    assert "took step-1.pt" in notes[0]


@pytest.mark.parametrize("version", [None, "1", [1]])
def test_a_version_that_is_none_is_damage(tmp_path, version):
    torch.save({"kind": checkpoint_module._KIND, "version": version}, tmp_path / "step-1.pt")
    with pytest.raises(CheckpointError, match="it has the version"):
        load_checkpoint(tmp_path / "step-1.pt")


def rewritten(source: Path, target: Path, **options) -> Path:
    """The same parts in another archive, without a checksum of the whole."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", **options) as new:
        for part in old.infolist():
            new.writestr(part.filename, old.read(part))
    return target


def test_compressed_parts_are_refused_before_they_take_memory(tmp_path):
    target = rewritten(OLD, tmp_path / "step-1.pt", compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="not stored as torch does"):
        load_checkpoint(target)
    bomb = tmp_path / "step-2.pt"
    with zipfile.ZipFile(bomb, "w", compression=zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(50_000_000))
    assert bomb.stat().st_size < 100_000
    with pytest.raises(CheckpointError, match="not stored as torch does"):
        load_checkpoint(bomb)


def test_an_entry_that_claims_to_be_a_folder_is_refused(tmp_path):
    target = tmp_path / "step-1.pt"
    with zipfile.ZipFile(OLD) as old, zipfile.ZipFile(target, "w") as new:
        for part in old.infolist():
            copy = zipfile.ZipInfo(part.filename)
            copy.external_attr = 0x10 if part.filename.endswith("data/0") else 0
            new.writestr(copy, old.read(part))
    with pytest.raises(CheckpointError, match="not stored as torch does"):
        load_checkpoint(target)


def test_a_checksum_of_another_file_is_refused(tmp_path, file):
    save_checkpoint(tmp_path / "step-3.pt", {"step": 3, "model": weights(3)})
    own, other = file.read_bytes(), (tmp_path / "step-3.pt").read_bytes()
    assert len(own) == len(other)
    file.write_bytes(own[:-64] + other[-64:])
    with pytest.raises(CheckpointError, match="do not have the checksum"):
        load_checkpoint(file)


@pytest.mark.parametrize("error", [IndexError("3"), KeyError("model"), OverflowError("no"), TypeError("no")], ids=repr)
def test_whatever_goes_wrong_while_a_whole_checkpoint_is_taken_over_is_one_error(tmp_path, error):
    with pytest.raises(CheckpointError, match="does not fit the run"), must_fit(tmp_path):
        raise error


def test_a_run_folder_that_was_deleted_is_not_made_anew_for_a_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError):
        save_checkpoint(tmp_path / "gone" / "checkpoints" / "step-1.pt", {"step": 1})
    assert list(tmp_path.iterdir()) == []


# weights alone, as analyses and runs of one's own loop read them


def saved(path: Path, form: str) -> Path:
    """A file with the same weights in each of the forms that are read."""
    if form == "checkpoint":
        save_checkpoint(path, {"step": 2, "model": weights(2)})
    else:
        torch.save(weights(2) if form == "state dict" else {"model": weights(2)}, path)
    return path


@pytest.mark.parametrize("form", ["checkpoint", "state dict", "under a name"])
def test_weights_with_a_changed_bit_are_never_read_in_silence(tmp_path, form):
    file = saved(tmp_path / "step-2.pt", form)
    content = file.read_bytes()
    directory, good, refused = content.index(b"PK\x01\x02"), load_weights(file), 0
    places = [*range(0, directory, 53), *range(directory, len(content), 2)]
    for place in places:
        file.write_bytes(flipped(content, place, place % 8))
        try:
            found = load_weights(file)
        except CheckpointError:
            refused += 1
            continue
        assert form != "checkpoint"
        assert all(torch.equal(found[name], value) for name, value in good.items())
    assert refused > len(places) / 2


def test_weights_in_the_form_of_older_versions_of_torch_are_read(tmp_path):
    torch.save(weights(2), tmp_path / "step-2.pt", _use_new_zipfile_serialization=False)
    assert torch.equal(load_weights(tmp_path / "step-2.pt")["w"], weights(2)["w"])


def test_the_weights_of_a_run_that_averages_them_are_the_averages(tmp_path):
    state = {"step": 2, "model": weights(2), "averaged": {"average": {"w": weights(7)["w"]}, "count": 3}}
    save_checkpoint(tmp_path / "step-2.pt", state)
    found = load_weights(tmp_path / "step-2.pt")
    assert torch.equal(found["w"], weights(7)["w"])
    assert torch.equal(found["b"], weights(2)["b"])


@pytest.mark.parametrize("read", [load_checkpoint, load_weights])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("step-30.pt", "use the earlier checkpoint step-20.pt, or"),
        ("step-20.pt", "use the earlier checkpoint step-9.pt, or"),
        ("step-9.pt", "there is no earlier checkpoint"),
        ("best.pt", "use the earlier checkpoint step-30.pt, or"),
    ],
)
def test_a_damaged_checkpoint_names_the_one_before_it(tmp_path, read, name, words):
    for step in (9, 20, 30):
        save_checkpoint(tmp_path / f"step-{step}.pt", {"step": step, "model": weights(step)})
    content = (tmp_path / "step-9.pt").read_bytes()
    (tmp_path / name).write_bytes(flipped(content, len(content) // 2, 3))
    with pytest.raises(CheckpointError, match=words):
        read(tmp_path / name)
