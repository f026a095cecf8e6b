"""A machine's store of decoded images: complete or absent, shared by processes, bounded in size."""

import errno
import os
import re
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from automm_hpo.data import decoding, pixels
from automm_hpo.data.decoding import OnDemand
from automm_hpo.data.images import ImageGeometry
from automm_hpo.data.pixels import ImageSet, machine_folder, most_bytes, open_store
from automm_hpo.errors import InvalidArgument, TimeLimitTooShort

COUNT, SIDE = 4, 8
BYTES = (1 + COUNT) * SIDE * SIDE * 3


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOMM_HPO_CACHE_DIR", str(tmp_path / "machine"))
    return tmp_path / "machine"


@pytest.fixture
def decoded(monkeypatch):
    """Decoding source "7" gives an image of sevens; the list collects what was decoded."""
    seen = []

    def decode(source, geometry):
        seen.append(source)
        return np.full((geometry.side, geometry.side, 3), int(source), np.uint8)

    monkeypatch.setattr(decoding, "decode_image", decode)
    return seen


def image_set(key="first", first=1, in_files=True) -> ImageSet:
    return ImageSet(key, ImageGeometry(SIDE), COUNT, in_files, lambda: [str(first + number) for number in range(COUNT)])


def opened(tmp_path, key="first", first=1, in_files=True, **options):
    return open_store(image_set(key, first, in_files), tmp_path / "own", lambda bad: True, **options)


def values(store):
    return store.images.index_select(0, torch.arange(1 + COUNT))[:, 3, 3, 1].tolist()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_it_is_decoded_once_and_its_first_picture_is_black(tmp_path, machine, decoded):
    first, second = opened(tmp_path), opened(tmp_path)
    assert values(first) == values(second) == [0, 1, 2, 3, 4]
    assert len(decoded) == COUNT
    assert names(machine) == ["first.json", "first.pixels", "lock"]
    assert stat.S_IMODE(machine.stat().st_mode) == 0o700
    assert not (tmp_path / "own").exists()


@pytest.mark.parametrize("damage", ["cut", "note", "no note", "only a part", "other size"])
def test_what_is_not_whole_is_decoded_again(tmp_path, machine, decoded, damage):
    opened(tmp_path)
    decoded.clear()
    pixel_file, note = machine / "first.pixels", machine / "first.json"
    if damage == "cut":
        pixel_file.write_bytes(pixel_file.read_bytes()[:-1])
    elif damage == "note":
        note.write_text("[[1,")
    elif damage == "no note":
        note.unlink()
    elif damage == "only a part":  # as after a kill
        pixel_file.rename(machine / "first.part")
        note.unlink()
    else:
        pixel_file.write_bytes(bytes(7))
    assert values(opened(tmp_path)) == [0, 1, 2, 3, 4]
    assert len(decoded) == COUNT
    assert names(machine) == ["first.json", "first.pixels", "lock"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, CancelledError, OSError])
def test_a_decoding_that_ends_before_its_first_picture_leaves_nothing(tmp_path, machine, decoded, monkeypatch, error):
    def decode(source, geometry):
        raise error

    with monkeypatch.context() as patch, pytest.raises(error):
        patch.setattr(decoding, "decode_image", decode)
        opened(tmp_path)
    assert names(machine) == ["lock"]
    assert values(opened(tmp_path)) == [0, 1, 2, 3, 4]


@pytest.fixture
def interrupted(tmp_path, decoded, monkeypatch):
    """Ends a decoding before its third image; returns the lines it reported."""

    def end(error=KeyboardInterrupt, **options):
        decode, lines = decoding.decode_image, []

        def decode_two(source, geometry):
            if len(decoded) == 2:
                raise error
            return decode(source, geometry)

        with monkeypatch.context() as patch, pytest.raises(error if isinstance(error, type) else type(error)):
            patch.setattr(decoding, "decode_image", decode_two)
            opened(tmp_path, num_threads=1, report=lines.append, **options)
        decoded.clear()
        return lines

    return end


@pytest.mark.parametrize("damage, again", [("none", "34"), ("pixels", "1234"), ("checksums", "1234"), ("cut", "234"), ("longer", "34")])
def test_a_decoding_that_ended_early_goes_on_with_what_it_had(tmp_path, machine, decoded, interrupted, damage, again):
    assert interrupted() == ["kept 2 of 4 images that were decoded: the next call continues from there"]
    assert names(machine) == ["first.part", "lock"]
    part, size = machine / "first.part", BYTES // (1 + COUNT)
    content = part.read_bytes()
    if damage == "pixels":  # as after a power cut: the checksum was on the disk, its image was not
        part.write_bytes(content[: size + 5] + bytes(size) + content[2 * size + 5 :])
    elif damage == "checksums":
        part.write_bytes(content[:BYTES] + b"\1" * 16)
    elif damage == "cut":
        part.write_bytes(content[: BYTES + 5])
    elif damage == "longer":
        part.write_bytes(content + b"\1" * 16)
    lines = []
    assert values(opened(tmp_path, report=lines.append)) == [0, 1, 2, 3, 4]
    assert sorted(decoded) == list(again)
    kept = COUNT - len(decoded)
    assert lines == ([f"{kept} of 4 images were decoded before"] if kept else [])
    assert names(machine) == ["first.json", "first.pixels", "lock"]
    assert (machine / "first.pixels").stat().st_size == BYTES


def test_of_what_goes_on_the_bad_ones_have_their_own_places(tmp_path, decoded, interrupted, monkeypatch):
    interrupted()

    def refuse(source, geometry):
        raise decoding.UnreadableImage(f"{source} is bad")

    monkeypatch.setattr(decoding, "decode_image", refuse)
    assert opened(tmp_path).bad == {3: "3 is bad", 4: "4 is bad"}
    assert values(opened(tmp_path)) == [0, 1, 2, 0, 0]


def test_of_what_is_in_no_files_the_searchs_folder_keeps_it_and_nothing_is_promised(tmp_path, decoded, interrupted):
    assert interrupted(in_files=False) == []
    assert values(opened(tmp_path, in_files=False)) == [0, 1, 2, 3, 4]
    assert sorted(decoded) == ["3", "4"]


def test_a_disk_that_is_full_is_not_kept_so(machine, interrupted):
    assert interrupted(OSError(errno.ENOSPC, "full")) == []
    assert names(machine) == ["lock"]


def test_a_part_for_which_there_is_no_room_any_more_goes(tmp_path, machine, interrupted, monkeypatch):
    interrupted()
    monkeypatch.setenv("AUTOMM_HPO_CACHE_GB", "0")
    assert isinstance(opened(tmp_path).images, OnDemand)
    assert names(machine) == ["first.json", "lock"]


def test_what_a_part_takes_of_the_disk_is_room_for_it(tmp_path, decoded, interrupted, monkeypatch):
    interrupted()
    monkeypatch.setattr(pixels.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1e9))
    assert values(opened(tmp_path)) == [0, 1, 2, 3, 4]
    assert sorted(decoded) == ["3", "4"]


def test_of_several_that_want_it_one_decodes(tmp_path, decoded):
    together, lines = threading.Barrier(4), []

    def want(number):
        together.wait()
        return values(opened(tmp_path, report=lines.append))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(want, range(4))) == [[0, 1, 2, 3, 4]] * 4
    assert len(decoded) == COUNT
    assert set(lines) <= {"another process is decoding the same images: waiting for it"}


def test_what_another_has_just_finished_is_not_decoded_again(tmp_path, decoded, monkeypatch):
    claim = pixels._Entry.claim

    def claim_late(self, *args):
        monkeypatch.setattr(pixels._Entry, "claim", claim)
        opened(tmp_path)
        return claim(self, *args)

    monkeypatch.setattr(pixels._Entry, "claim", claim_late)
    assert values(opened(tmp_path)) == [0, 1, 2, 3, 4]
    assert len(decoded) == COUNT


def test_more_than_the_memory_can_be_mapped(tmp_path, machine):
    images = ImageSet("large", ImageGeometry(SIDE), 10**12 // (SIDE * SIDE * 3), True, list)
    machine.mkdir()
    with open(machine / "large.pixels", "wb") as file:
        file.truncate(images.nbytes)  # a sparse file
    (machine / "large.json").write_text("[]")
    store = open_store(images, tmp_path / "own", lambda bad: True)
    assert store.images.index_select(0, torch.tensor([images.count]))[0, 3, 3, 1] == 0


WANT = """
    import pathlib, sys, time
    import numpy as np, torch
    from automm_hpo.data import decoding
    from automm_hpo.data.images import ImageGeometry
    from automm_hpo.data.pixels import ImageSet, open_store

    def decode(source, geometry):
        print("decoding", flush=True)
        if sys.argv[1] == "for ever" and source == "3":
            time.sleep(1000)
        return np.full((8, 8, 3), int(source), np.uint8)

    decoding.decode_image = decode
    images = ImageSet("first", ImageGeometry(8), 4, True, lambda: list("1234"))
    print("ready", flush=True)
    sys.stdin.readline()
    store = open_store(images, pathlib.Path("own"), lambda bad: True, 1, report=lambda line: print(line, flush=True))
    print(store.images[:, 0, 0, 0].tolist(), flush=True)
    sys.stdin.readline()
"""


def test_who_waits_takes_over_from_a_process_that_was_killed(tmp_path, machine, decoded):
    command = [sys.executable, "-c", textwrap.dedent(WANT)]
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": tmp_path, "bufsize": 1}
    with subprocess.Popen([*command, "for ever"], **options) as one, subprocess.Popen([*command, "soon"], **options) as other:
        try:
            assert [process.stdout.readline() for process in (one, other)] == ["ready\n"] * 2
            one.stdin.write("\n")
            assert [one.stdout.readline() for _ in range(3)] == ["decoding\n"] * 3
            other.stdin.write("\n")
            assert other.stdout.readline() == "another process is decoding the same images: waiting for it\n"
            one.send_signal(signal.SIGKILL)
            told = ["2 of 4 images were decoded before\n", *["decoding\n"] * 2, "[0, 1, 2, 3, 4]\n"]
            assert [other.stdout.readline() for _ in told] == told
            assert values(opened(tmp_path)) == [0, 1, 2, 3, 4]
            assert not decoded
            pixels._remove_unused(machine / "first.pixels")  # kept, because the other process has it open
            assert (machine / "first.pixels").exists()
            other.stdin.write("\n")
            assert other.wait(20) == 0
        finally:
            one.kill()
            other.kill()


def test_a_time_limit_ends_the_waiting_for_another_process(tmp_path, machine, decoded):
    def out_of_time(done, total):
        assert (done, total) == (0, 0)
        raise TimeLimitTooShort("time_limit")

    machine.mkdir()
    with pixels._opened(machine / "first.part", os.O_RDWR | os.O_CREAT) as other:
        assert pixels._locked_alone(other)
        with pytest.raises(TimeLimitTooShort):
            opened(tmp_path, watch=out_of_time)
        assert names(machine) == ["first.part"]  # it still belongs to the other process
    assert values(opened(tmp_path)) == [0, 1, 2, 3, 4]
    assert names(machine) == ["first.json", "first.pixels", "lock"]


def test_the_longest_unused_make_room_and_those_in_use_stay(tmp_path, machine, decoded, monkeypatch):
    monkeypatch.setenv("AUTOMM_HPO_CACHE_GB", str(2.5 * BYTES / 1e9))
    in_use = opened(tmp_path, "oldest", 10)
    for age, key in ((20, "older"), (10, "old")):
        monkeypatch.setenv("AUTOMM_HPO_CACHE_GB", "1")
        opened(tmp_path, key, 20)
        os.utime(machine / f"{key}.pixels", (time.time() - age, time.time() - age))
    os.utime(machine / "oldest.pixels", (1, 1))
    (machine / "killed.part").write_bytes(bytes(BYTES))
    monkeypatch.setenv("AUTOMM_HPO_CACHE_GB", str(3 * BYTES / 1e9))
    opened(tmp_path, "new", 30)
    assert names(machine) == ["lock", "new.json", "new.pixels", "old.json", "old.pixels", "oldest.json", "oldest.pixels"]
    assert values(in_use) == [0, 10, 11, 12, 13]
    opened(tmp_path, "old")  # used again
    opened(tmp_path, "newest", 40)
    assert names(machine) == ["lock", "newest.json", "newest.pixels", "old.json", "old.pixels", "oldest.json", "oldest.pixels"]
    del in_use
    opened(tmp_path, "more", 50)
    assert names(machine) == ["lock", "more.json", "more.pixels", "newest.json", "newest.pixels", "old.json", "old.pixels"]


def test_a_set_that_no_eviction_could_make_fit_evicts_nothing(tmp_path, machine, decoded, monkeypatch):
    opened(tmp_path)
    monkeypatch.setenv("AUTOMM_HPO_CACHE_GB", str(0.9 * BYTES / 1e9))
    lines = []
    store = opened(tmp_path, "second", 20, report=lines.append)
    assert isinstance(store.images, OnDemand)
    assert values(store) == [0, 20, 21, 22, 23]
    assert names(machine) == ["first.json", "first.pixels", "lock", "second.json"]
    [line] = lines
    assert re.fullmatch(
        rf"no room for the decoded images, 0\.0 MB \(in {machine}: at most 0\.0 MB by AUTOMM_HPO_CACHE_GB, .* free\): images are decoded again for each batch",
        line,
    )
    monkeypatch.setenv("AUTOMM_HPO_CACHE_GB", "0")
    opened(tmp_path, "third", 20, report=lines.append)
    assert lines[1] == "keeping decoded images is switched off (AUTOMM_HPO_CACHE_GB=0): images are decoded again for each batch"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EOPNOTSUPP, None])
def test_a_full_disk_is_known_before_decoding(tmp_path, machine, decoded, monkeypatch, code):
    def fallocate(*_):
        raise OSError(code, os.strerror(code))

    if code is None:
        monkeypatch.setattr(pixels.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1e9))
    else:
        monkeypatch.setattr(os, "posix_fallocate", fallocate)
    store = opened(tmp_path)
    assert isinstance(store.images, OnDemand) == (code != errno.EOPNOTSUPP)
    assert values(store) == [0, 1, 2, 3, 4]
    assert "first.part" not in names(machine)
    if code == errno.ENOSPC:
        with pytest.raises(OSError, match=r"own has no room for the decoded images, 0\.0 MB"):
            opened(tmp_path, in_files=False)


def test_a_folder_that_cannot_be_written_gives_way_to_the_searchs_own(tmp_path, decoded, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("AUTOMM_HPO_CACHE_DIR", str(tmp_path / "file" / "inside"))
    lines = []
    store = opened(tmp_path, report=lines.append)
    assert values(store) == [0, 1, 2, 3, 4]
    assert lines == [f"{tmp_path}/file/inside cannot be written (Not a directory); the decoded images go to {tmp_path}/own"]
    assert names(tmp_path / "own") == ["first.json", "first.pixels", "lock"]
    assert values(opened(tmp_path, report=lines.append)) == [0, 1, 2, 3, 4]
    assert (len(lines), len(decoded)) == (1, COUNT)


def test_what_a_folder_holds_is_found_though_it_cannot_be_written(tmp_path, machine, decoded, monkeypatch):
    opened(tmp_path)

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "utime", refuse)
        patch.setattr(pixels._Entry, "claim", refuse)
        assert values(opened(tmp_path)) == [0, 1, 2, 3, 4]
    assert len(decoded) == COUNT


def test_where_the_machines_folder_is(monkeypatch, tmp_path):
    assert machine_folder() == tmp_path / "machine"
    monkeypatch.delenv("AUTOMM_HPO_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert machine_folder() == tmp_path / "xdg" / "automm_hpo"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert machine_folder() == tmp_path / "home" / ".cache" / "automm_hpo"


def test_a_cap_that_is_empty_is_none(monkeypatch):
    monkeypatch.setenv("AUTOMM_HPO_CACHE_GB", "")
    assert most_bytes() == 20e9


@pytest.mark.parametrize("text", ["much", "-1", "nan"])
def test_a_cap_that_is_no_number_is_refused(monkeypatch, text):
    monkeypatch.setenv("AUTOMM_HPO_CACHE_GB", text)
    with pytest.raises(InvalidArgument, match=f"AUTOMM_HPO_CACHE_GB='{text}' in the environment: expected a number of gigabytes"):
        most_bytes()
