"""Decoding many images on threads: it reports progress, and stops at once when it must."""

import threading
import time
from concurrent.futures import CancelledError

import numpy as np
import pytest
import torch
from PIL import Image

from automm_hpo.data import decoding
from automm_hpo.data.decoding import BadImage, Course, OnDemand, decode_all, describe, find_dark
from automm_hpo.data.images import ImageGeometry
from automm_hpo.errors import BadImages, TimeLimitTooShort

GEOMETRY = ImageGeometry(8)


@pytest.fixture
def slow(monkeypatch):
    """Decoding takes 10 ms per image; the list collects what was decoded."""
    seen = []

    def decode(source, geometry):
        time.sleep(0.01)
        seen.append(source)
        return np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr(decoding, "decode_image", decode)
    return seen


@pytest.mark.parametrize("num_threads", [1, 3])
def test_whatever_the_watch_raises_ends_the_decoding_at_once(slow, num_threads):
    def watch(done, total):
        assert total == 1000
        raise KeyboardInterrupt

    started = time.time()
    with pytest.raises(KeyboardInterrupt):
        decode_all([["a.png"]] * 1000, GEOMETRY, num_threads=num_threads, watch=watch)
    assert time.time() - started < 2
    assert len(slow) < 200
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decoding")]


def test_what_keeping_raises_ends_it_too(slow):
    def keep(row, column, image):
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        decode_all([["a.png"]] * 1000, GEOMETRY, keep, 2)
    assert len(slow) <= 4


def test_the_watch_hears_how_far_it_is(slow):
    heard = []
    decode_all([["a.png"]] * 50, GEOMETRY, num_threads=1, watch=lambda done, total: heard.append((done, total)))
    assert heard
    assert {total for _, total in heard} == {50}
    assert [done for done, _ in heard] == sorted(done for done, _ in heard)
    assert 0 < heard[-1][0] < 50


@pytest.fixture
def course(monkeypatch):
    """(deadline, cancelled) -> (a course, its clock, the lines it reported)."""

    def make(deadline=None, cancelled=False):
        event, clock, lines = threading.Event(), [1000.0], []
        if cancelled:
            event.set()
        monkeypatch.setattr(decoding.time, "time", lambda: clock[0])
        return Course(lines.append, deadline, event), clock, lines

    return make


def test_a_long_decoding_tells_its_course_now_and_then(course):
    watch, clock, lines = course()
    for second in range(30):
        clock[0] = 1000.0 + second
        watch(400 * second, 60_000)
    assert lines == [
        "decoding images: 1,600 of 60,000, 146 s left",
        "decoding images: 6,000 of 60,000, 135 s left",
        "decoding images: 10,400 of 60,000, 124 s left",
    ]
    clock[0] += 60
    watch(0, 0)
    assert lines[-1] == "decoding images: another process has not finished them"


def test_a_time_limit_ends_it_and_says_how_far_it_was(course):
    watch, clock, lines = course(deadline=1010.0)
    clock[0] = 1001.0
    watch(10, 100)
    clock[0] = 1011.0
    with pytest.raises(TimeLimitTooShort, match=r"ran out while decoding the images \(20 of 100, the rest takes about 44 s more\); increase it$"):
        watch(20, 100)
    with pytest.raises(TimeLimitTooShort, match="about 1 s more"):  # rounded up, because 0 s would mean that nothing is left
        watch(99, 100)
    with pytest.raises(TimeLimitTooShort, match="another process"):
        watch(0, 0)
    assert not lines


def test_who_needs_it_no_more_cancels_it(course):
    with pytest.raises(CancelledError):
        course(cancelled=True)[0](1, 2)


def test_pictures_on_demand_are_the_pictures(tmp_path):
    paths = []
    for grey in range(5):
        paths.append(str(tmp_path / f"{grey}.png"))
        Image.new("L", (9, 9), 10 + grey).save(paths[-1])
    store = OnDemand(paths, GEOMETRY)
    assert store.shape == (6, 8, 8, 3)
    assert store.index_select(0, torch.tensor([5, 0, 1, 1]))[:, 3, 3, 0].tolist() == [14, 0, 10, 10]
    (tmp_path / "2.png").write_bytes(b"<html>")
    with pytest.raises(BadImages, match=r"1 image could be read when the fit began, and no longer can: .*2\.png: not an image"):
        store.index_select(0, torch.tensor([2, 3]))


def bad(rows, reason, path="/{}.png"):
    return [BadImage(row, 0, path.format(row), reason) for row in rows]


@pytest.mark.parametrize(
    "images, labels, expected",
    [
        (bad([3], "no such file"), None, "1 image cannot be read (row 3: /3.png): no such file."),
        (bad([3], "URLs are not fetched", "http://x/{}"), None, "1 image cannot be read (row 3: http://x/3): URLs are not fetched."),
        (bad([1, 0], "missing", ""), "ab", "2 images cannot be read (row 'b', row 'a'): missing."),
        (bad(range(192), "no", "array (3, 9, 9) uint8"), None, "192 images cannot be read (row 0, row 1, row 2, row 3, row 4, ...): no."),
        (
            bad([0], "an empty file") + bad([4, 7], "no such file"),
            None,
            "3 images cannot be read: 2 (row 4: /4.png, row 7: /7.png): no such file; 1 (row 0: /0.png): an empty file.",
        ),
    ],
    ids=["one", "url", "labels", "many", "two reasons"],
)
def test_bad_images_of_one_reason_are_told_together(images, labels, expected):
    assert describe(images, labels) == expected


def test_a_long_list_of_reasons_is_cut():
    text = describe([image for number in range(25) for image in bad([number], f"reason {number}")])
    assert text.startswith("25 images cannot be read: 1 (row 0: /0.png): reason 0; ")
    assert text.endswith("reason 9; and 15 more.")


@pytest.mark.parametrize("largest, dark", [([4_095] * 50, True), ([100] * 49 + [40_000], True), ([4_000, 9_000], False), ([0], False), ([], False)])
def test_16_bit_pictures_that_come_out_dark_are_told(largest, dark):
    line = find_dark([Image.fromarray(np.full((2, 2), value, np.uint16)) for value in largest] + [Image.new("L", (2, 2))], 100)
    assert bool(line) == dark
    if dark:
        assert line.startswith(f"16-bit images will be dark: they are divided by 257, and the largest value in 20 sampled images is {largest[0]:,} of 65,535")
