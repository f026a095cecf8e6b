"""A kill at any moment leaves the old or the new file; damage is detected."""

import errno
import hashlib
import json
import os

import pytest

from automm_hpo.errors import CorruptFile, DiskFull
from automm_hpo.files import check_files, free_bytes, manifest_of, read_json, room_needed, sha256, write_json


def test_json_round_trip(tmp_path):
    value = {"ä": [1, 2.5, None, True, "x\n"], "nested": {"a": {}}}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("value", [{"a": float("nan")}, {"a": float("inf")}, {"a": object()}])
def test_a_value_that_is_no_json_leaves_the_old_file(tmp_path, value):
    write_json(tmp_path / "a.json", {"old": 1})
    with pytest.raises((ValueError, TypeError)):
        write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == {"old": 1}


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_kill_before_the_rename_leaves_the_old_file(tmp_path, monkeypatch, step):
    write_json(tmp_path / "a.json", {"old": 1})

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, step, killed)
        write_json(tmp_path / "a.json", {"new": 2})
    assert read_json(tmp_path / "a.json") == {"old": 1}
    write_json(tmp_path / "a.json", {"new": 2})  # the leftover does no harm
    assert read_json(tmp_path / "a.json") == {"new": 2}


def test_a_full_disk_is_said_with_sizes_and_leaves_the_old_file(tmp_path, monkeypatch):
    write_json(tmp_path / "a.json", {"old": 1})

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull, match=rf"^no room in {tmp_path}: 2 MB needed, [\d.e+]+ MB free$"):
        write_json(tmp_path / "a.json", "x" * 2_000_000)
    assert read_json(tmp_path / "a.json") == {"old": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]  # a torn file would take disk space


def test_what_is_no_full_disk_stays_what_it_is(tmp_path):
    with pytest.raises(PermissionError), room_needed(tmp_path / "a", 1):
        raise PermissionError(errno.EACCES, "Permission denied")


def test_room_is_that_of_where_a_folder_would_be(tmp_path):
    assert free_bytes(tmp_path / "not" / "there") > 0
    assert free_bytes(tmp_path.__class__("/proc/nowhere")) is None  # this file system does not report its size


@pytest.mark.parametrize("content", [b"", b"\0" * 20, b'{"a": 1', b"\xff\xfe{}"], ids=["empty", "zeroed", "torn", "not utf-8"])
def test_damaged_json(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(CorruptFile, match=r"a.json is damaged"):
        read_json(tmp_path / "a.json")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.bin").write_bytes(os.urandom(100_000))
    (tmp_path / "b.json").write_text(json.dumps({}))
    return tmp_path


def test_sha256(folder):
    assert sha256(folder / "a.bin") == hashlib.sha256((folder / "a.bin").read_bytes()).hexdigest()


@pytest.mark.parametrize("damage", ["flip", "cut", "grow", "zero", "remove", "directory"])
def test_every_damage_is_found_and_named(folder, damage):
    manifest = manifest_of(folder, ["a.bin", "b.json"])
    places = {name: folder / name for name in manifest}
    check_files(places, manifest)
    path = folder / "a.bin"
    content = path.read_bytes()
    path.unlink()
    if damage == "directory":
        path.mkdir()
    elif damage != "remove":
        flipped = content[:50_000] + bytes([content[50_000] ^ 1]) + content[50_001:]
        path.write_bytes({"flip": flipped, "cut": content[:-1], "grow": content + b"\0", "zero": bytes(len(content))}[damage])
    with pytest.raises(CorruptFile, match=r"a.bin is (missing|damaged)"):
        check_files(places, manifest)
