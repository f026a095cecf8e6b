"""Decoded once, found again; rows and targets stay together whatever is dropped."""

import base64
import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from automm_hpo.data import cache
from automm_hpo.data.cache import BadImage, build_cache, describe, join_caches, open_cache, store_cache
from automm_hpo.data.encoders import EncodedTable
from automm_hpo.data.images import Base64, ImageGeometry, decode_image
from automm_hpo.errors import BadImages

GEOMETRY = ImageGeometry(8)
NUM_ROWS = 150  # more than one task of a thread


@pytest.fixture
def paths(tmp_path) -> list[list[str]]:
    """(150, 1) paths; row i is grey i."""
    for row in range(NUM_ROWS):
        Image.new("L", (9, 9), row).save(tmp_path / f"{row}.png")
    return [[str(tmp_path / f"{row}.png")] for row in range(NUM_ROWS)]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


def greys(stored) -> list[int]:
    return stored.images[:, 0, 4, 4, 0].tolist()


TARGET = np.arange(NUM_ROWS) * 10
of_images = EncodedTable.of_images


@pytest.mark.parametrize("num_threads", [0, 1, 3])
def test_row_i_is_file_i(paths, folder, num_threads):
    lines: list[str] = []
    store_cache(folder, "train", of_images(paths, TARGET), GEOMETRY, num_threads=num_threads, report=lines.append)
    stored = open_cache(folder, "train")
    assert stored.images.shape == (NUM_ROWS, 1, 8, 8, 3)
    assert stored.images.dtype == torch.uint8
    assert greys(stored) == list(range(NUM_ROWS))
    assert stored.image_mask.all()
    assert (stored.target.numpy() == TARGET).all()
    assert not lines


def test_a_batch_has_channels_first(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    built, _ = build_cache(of_images([[str(tmp_path / "a.png")]] * 3, np.arange(3, dtype=np.float32)), GEOMETRY)
    batch = built.batch(torch.tensor([2, 0]))
    assert len(batch) == 2
    assert batch.images.shape == (2, 1, 3, 8, 8)
    assert (batch.images[0, 0].permute(1, 2, 0).numpy() == image).all()
    assert batch.target.tolist() == [2, 0]
    assert batch.target.dtype == torch.float32


def test_row_i_depends_on_row_i_only(paths, tmp_path):
    (tmp_path / "3.png").write_bytes(b"<html>")
    whole, bad = build_cache(of_images(paths[:10], TARGET[:10]), GEOMETRY)
    assert bad == [BadImage(3, 0, paths[3][0], bad[0].reason)]
    assert whole.image_mask[:, 0].tolist() == [row != 3 for row in range(10)]
    for row in (2, 4, 9):
        assert (whole.images[row, 0].numpy() == decode_image(paths[row][0], GEOMETRY)).all()
    assert not whole.images[3].any()


def test_no_rows_at_all():
    empty, bad = build_cache(of_images([], np.zeros(0, np.int64)), GEOMETRY)
    assert (len(empty), bad) == (0, [])


def test_an_unchanged_key_decodes_nothing(paths, folder, monkeypatch):
    store_cache(folder, "train", of_images(paths, TARGET), GEOMETRY)
    before = (folder / "train.npy").stat()
    monkeypatch.setattr(cache, "decode_image", None)  # would raise
    store_cache(folder, "train", of_images(paths, TARGET), GEOMETRY)
    after = (folder / "train.npy").stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)


@pytest.mark.parametrize("change", ["file", "time", "order", "target", "side", "interpolation", "decoder"])
def test_any_change_decodes_again(paths, folder, tmp_path, monkeypatch, change):
    store_cache(folder, "train", of_images(paths, TARGET), GEOMETRY)
    decoded = []
    monkeypatch.setattr(cache, "decode_image", lambda path, geometry: decoded.append(path) or decode_image(path, geometry))
    target, geometry, first = TARGET, GEOMETRY, 0
    if change == "file":
        Image.new("L", (90, 90), first := 99).save(tmp_path / "0.png")
    elif change == "time":
        os.utime(paths[0][0], ns=(1, 1))
    elif change == "order":
        paths, first = paths[::-1], NUM_ROWS - 1
    elif change == "target":
        target = TARGET + 1
    elif change == "decoder":
        monkeypatch.setattr(cache, "DECODER_VERSION", -1)
    else:
        geometry = ImageGeometry(6) if change == "side" else ImageGeometry(8, "nearest")
    store_cache(folder, "train", of_images(paths, target), geometry)
    assert len(decoded) == NUM_ROWS
    stored = open_cache(folder, "train")
    assert greys(stored)[0] == first
    assert stored.target[0] == target[0]
    assert stored.images.shape[2] == geometry.side


def test_a_build_cut_short_is_not_taken_for_the_one_before(paths, folder, monkeypatch):
    store_cache(folder, "train", of_images(paths, TARGET), GEOMETRY)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(cache, "decode_image", killed)
        store_cache(folder, "train", of_images(paths[::-1], TARGET), GEOMETRY)
    with pytest.raises(BadImages):  # nor is a refused one
        store_cache(folder, "train", of_images([["/nowhere.png"]] * NUM_ROWS, TARGET), GEOMETRY)
    store_cache(folder, "train", of_images(paths, TARGET), GEOMETRY)
    assert greys(open_cache(folder, "train")) == list(range(NUM_ROWS))


def test_raise_lists_the_files(paths, folder, tmp_path):
    (tmp_path / "3.png").write_bytes(b"")
    (tmp_path / "7.png").unlink()
    with pytest.raises(BadImages, match="'skip'") as raised:
        store_cache(folder, "train", of_images(paths, TARGET), GEOMETRY, "raise")
    for text in ("2 images", f"{paths[3][0]}: an empty file", f"{paths[7][0]}: no such file"):
        assert text in str(raised.value)


def test_skip_drops_exactly_those_rows(paths, folder, tmp_path):
    (tmp_path / "0.png").write_bytes(b"")
    (tmp_path / "77.png").write_bytes(b"<html>")
    paths[149] = [""]
    lines: list[str] = []
    store_cache(folder, "valid", of_images(paths, TARGET), GEOMETRY, "skip", report=lines.append)
    stored = open_cache(folder, "valid")
    kept = [row for row in range(NUM_ROWS) if row not in (0, 77, 149)]
    assert greys(stored) == kept
    assert stored.target.tolist() == [10 * row for row in kept]
    assert stored.image_mask.shape == (147, 1)
    assert stored.image_mask.all()
    assert len(lines) == 1
    for text in ("3 rows dropped from valid", paths[0][0], paths[77][0], "(no path): missing"):
        assert text in lines[0]


def test_skip_of_several_images_a_row(paths, folder):
    pairs = [[first, second] for (first,), (second,) in zip(paths, paths[::-1], strict=True)]
    pairs[5] = ["", "/nowhere.png"]
    lines: list[str] = []
    store_cache(folder, "train", of_images(pairs, TARGET), GEOMETRY, "skip", report=lines.append)
    stored = open_cache(folder, "train")
    assert stored.images[5, :, 0, 0, 0].tolist() == [6, NUM_ROWS - 7]
    assert lines[0].startswith("1 rows dropped from train: 2 images cannot be read: row 5: (no path): missing; row 5: /nowhere.png: no such file.")


def test_skip_of_everything_is_refused(folder):
    with pytest.raises(BadImages, match="no row of the valid split"):
        store_cache(folder, "valid", of_images([["/a.png"], ["/b.png"]], np.zeros(2)), GEOMETRY, "skip")


def test_a_long_list_is_cut():
    text = describe([BadImage(row, 0, f"{row}.png", "no such file") for row in range(25)])
    assert "25 images" in text
    assert "9.png: no such file; and 15 more" in text
    assert "10.png" not in text


@pytest.mark.parametrize("code, refused", [(errno.ENOSPC, True), (errno.EOPNOTSUPP, False)])
def test_a_full_disk_is_said_before_decoding(paths, folder, monkeypatch, code, refused):
    def fallocate(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "posix_fallocate", fallocate)
    if refused:
        with pytest.raises(OSError, match=r"cache has no room for the decoded images, 0\.0 GB: No space left"):
            store_cache(folder, "train", of_images(paths, TARGET), GEOMETRY)
        assert not list(folder.iterdir())
    else:
        store_cache(folder, "train", of_images(paths, TARGET), GEOMETRY)
        assert greys(open_cache(folder, "train")) == list(range(NUM_ROWS))


def test_splits_are_joined_in_order(paths, folder):
    for name, rows in (("train", slice(0, 100)), ("valid", slice(100, None))):
        store_cache(folder, name, of_images(paths[rows], TARGET[rows]), GEOMETRY)
    joined = join_caches([open_cache(folder, name) for name in ("train", "valid")], folder / "all.npy")
    assert greys(joined) == list(range(NUM_ROWS))
    assert joined.target.tolist() == TARGET.tolist()
    assert joined.image_mask.shape == (NUM_ROWS, 1)
    assert greys(joined.head(3)) == [0, 1, 2]
    assert len(joined.head(10_000)) == NUM_ROWS


# ------------------------------------------------------------------------------------------------------ other than image files


def mixed(num_rows=6, images=()) -> EncodedTable:
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 5, num_rows)
    return EncodedTable(
        list(images) or [[] for _ in range(num_rows)],
        np.arange(num_rows),
        rng.normal(size=(num_rows, 3)).astype(np.float32),
        rng.integers(0, 4, (num_rows, 2)),
        rng.random(num_rows).astype(np.float32),
        {"some/tokenizer": rng.integers(0, 9, (num_rows, 6)).astype(np.int32), "/other": np.ones((num_rows, 2), np.int32)},
        {"some/tokenizer": counts, "/other": np.ones(num_rows, np.int64)},
    )


def assert_same(stored, table, rows=slice(None)):
    for name in ("target", "numeric", "categorical", "weight"):
        np.testing.assert_array_equal(getattr(stored, name).numpy(), getattr(table, name)[rows])
    for name in table.tokens:
        np.testing.assert_array_equal(stored.tokens[name].numpy(), table.tokens[name][rows])
        np.testing.assert_array_equal(stored.token_counts[name].numpy(), table.token_counts[name][rows])


def test_a_table_without_images_starts_no_thread(folder, monkeypatch):
    monkeypatch.setattr(cache, "ThreadPoolExecutor", None)  # would raise
    store_cache(folder, "train", mixed(), None)
    stored = open_cache(folder, "train")
    assert_same(stored, mixed())
    assert stored.images.shape == (6, 0, 0, 0, 3)
    assert not (folder / "train.npy").exists()
    assert len(join_caches([stored, stored], folder / "all.npy")) == 12


@pytest.mark.parametrize("field", ["numeric", "categorical", "weight", "target", "tokens"])
def test_any_change_of_a_column_is_seen(folder, field):
    store_cache(folder, "train", mixed(), None)
    changed = mixed()
    array = changed.tokens["/other"] if field == "tokens" else getattr(changed, field)
    array[0] = array[0] + 1
    store_cache(folder, "train", changed, None)
    assert_same(open_cache(folder, "train"), changed)


def test_skipped_rows_are_dropped_from_every_column(paths, folder):
    paths[2] = ["/nowhere.png"]
    table = mixed(6, paths[:6])
    store_cache(folder, "train", table, GEOMETRY, "skip")
    assert_same(open_cache(folder, "train"), table, [0, 1, 3, 4, 5])


def test_with_zero_a_cell_may_be_empty_and_a_bad_file_may_not(paths, folder):
    paths[2] = [""]
    store_cache(folder, "train", mixed(6, paths[:6]), GEOMETRY, "zero")
    stored = open_cache(folder, "train")
    assert stored.image_mask[:, 0].tolist() == [True, True, False, True, True, True]
    assert not stored.images[2].any()
    with pytest.raises(BadImages, match=r"1 images.*no such file"):
        store_cache(folder, "train", mixed(6, [*paths[:5], ["/nowhere.png"]]), GEOMETRY, "zero")


def pictures(kind, paths):
    content = [Path(path).read_bytes() for (path,) in paths]
    if kind == "base64":
        return [[Base64(base64.b64encode(each).decode())] for each in content]
    return [[each] for each in content] if kind == "bytes" else [[np.full((9, 9), row, np.uint8)] for row in range(len(paths))]


@pytest.mark.parametrize("kind", ["bytes", "base64", "arrays"])
def test_pictures_in_memory_are_cached_like_files(paths, folder, kind):
    store_cache(folder, "train", mixed(NUM_ROWS, pictures(kind, paths)), GEOMETRY)
    assert greys(open_cache(folder, "train")) == list(range(NUM_ROWS))
    assert not (folder / "train.sources.json").exists()


@pytest.mark.parametrize("kind", ["files", "bytes", "none"])
def test_a_machine_may_have_a_cache_of_its_own(paths, folder, tmp_path, monkeypatch, kind):
    paths[3] = [""]
    in_memory = [*pictures("bytes", paths[:3]), [""], *pictures("bytes", paths[4:])]
    images = {"files": paths, "bytes": in_memory, "none": ()}[kind]
    geometry = None if kind == "none" else GEOMETRY
    store_cache(folder, "train", mixed(NUM_ROWS, images), geometry, "zero")
    shared = open_cache(folder, "train")
    monkeypatch.setenv("AUTOMM_HPO_CACHE_DIR", str(tmp_path / "own"))
    if kind == "files":
        (folder / "train.npy").unlink()  # decoded again, not copied
    own = open_cache(folder, "train")
    assert torch.equal(own.images, shared.images)
    assert torch.equal(own.image_mask, shared.image_mask)
    assert_same(own, mixed(NUM_ROWS))
    for file in folder.glob("train.tokens*"):
        file.unlink()
    assert_same(open_cache(folder, "train"), mixed(NUM_ROWS))
