"""Files that appear whole or not at all, and what records say of the machine."""

from __future__ import annotations

import os
import stat
from importlib import metadata

import pytest

import surgecollapse
from surgecollapse.compare.plan import version
from surgecollapse.record.machine import cores, machine, processor
from surgecollapse.record.operations import stretch_operations
from surgecollapse.record.whole_files import write_whole


@pytest.mark.parametrize(("content", "kept"), [("α\n", b"\xce\xb1\n"), (b"\x00\xff", b"\x00\xff"), ("", b"")])
def test_content_is_written_as_it_is_in_a_folder_that_is_made(tmp_path, content, kept):
    path = tmp_path / "new" / "file"
    for _ in range(2):
        write_whole(path, content)
        assert path.read_bytes() == kept
    assert os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize("fault", ["fsync", "replace"])
def test_a_file_from_before_stays_whole_where_writing_fails(tmp_path, monkeypatch, fault):
    path = tmp_path / "file"
    write_whole(path, "old")

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(*((os, "fsync", full) if fault == "fsync" else (type(path), "replace", full)))
    with pytest.raises(OSError, match="no space"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o755], ids=oct)
def test_a_file_that_is_replaced_keeps_its_rights(tmp_path, mode):
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(mode)
    write_whole(path, "new")
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_nobody_else_reads_a_private_file_while_it_is_written(tmp_path, monkeypatch):
    path, seen = tmp_path / "file", []
    path.write_text("old")
    path.chmod(0o600)
    flush = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (seen.append(os.fstat(file).st_mode), flush(file)))
    write_whole(path, "new")
    assert [stat.S_IMODE(mode) for mode in seen] == [0o600]


def linked(tmp_path, there):
    target, path = tmp_path / "elsewhere" / "target", tmp_path / "here" / "file"
    target.parent.mkdir()
    path.parent.mkdir()
    if there:
        target.write_text("old")
        target.chmod(0o600)
    path.symlink_to(os.path.join("..", "elsewhere", "target"))
    return path, target


@pytest.mark.parametrize("there", [True, False], ids=["to a file", "to nothing yet"])
def test_a_link_that_the_user_names_is_kept_and_its_file_is_written(tmp_path, there):
    path, target = linked(tmp_path, there)
    write_whole(path, "new", through_links=True)
    assert path.is_symlink()
    assert target.read_text() == path.read_text() == "new"
    assert os.listdir(path.parent) == ["file"]
    assert os.listdir(target.parent) == ["target"]
    if there:
        assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_a_link_in_a_record_is_not_followed(tmp_path):
    path, target = linked(tmp_path, there=True)
    write_whole(path, "new")
    assert not path.is_symlink()
    assert (path.read_text(), target.read_text()) == ("new", "old")


def test_links_in_a_circle_lead_nowhere_and_are_replaced(tmp_path):
    path = tmp_path / "file"
    path.symlink_to(path)
    write_whole(path, "new")
    assert path.read_text() == "new"
    path.unlink()
    path.symlink_to(tmp_path / "other")
    (tmp_path / "other").symlink_to(path)
    write_whole(path, "new", through_links=True)
    assert sorted(os.listdir(tmp_path)) == ["file", "other"]


@pytest.mark.parametrize(
    ("listing", "name"),
    [
        ("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nmodel name\t: Other\n", "Some CPU @ 2 GHz"),
        ("CPU part\t: 0xd40\n", None),
        (None, None),
    ],
)
def test_the_processor_is_named_as_far_as_the_system_tells(tmp_path, listing, name):
    path = tmp_path / "cpuinfo"
    if listing is not None:
        path.write_text(listing)
    found = processor(path)
    assert found == name if name else found not in ("", "Some CPU @ 2 GHz")


def test_the_version_is_that_of_the_code_and_not_of_what_was_installed(monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda name: f"{name} of the installer")
    facts = machine()
    assert facts["surgecollapse"] == surgecollapse.__version__
    assert facts["torch"] == "torch of the installer"
    assert version() == ".".join(surgecollapse.__version__.split(".")[:2])


def test_the_machine_has_at_least_the_cores_that_may_be_used():
    facts = machine()
    assert 1 <= facts["cores_usable"] == cores() <= facts["cores"]


@pytest.mark.parametrize(
    ("shares", "dense", "operations"),
    [({}, 0, 330.0), ({}, 10, 330.0), ({"w": 0.5}, 0, 180.0), ({"w": 0.5}, 10, 230.0), ({"w": 0.0}, 10, 130.0)],
)
def test_operations_of_a_stretch_by_hand(shares, dense, operations):
    """Ten steps of 10 multiplications by w and one by a head that is not pruned; three passes a step."""
    assert stretch_operations({"w": 10, "head": 1}, shares, steps=10, dense_gradients=dense) == operations
