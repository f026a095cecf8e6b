"""Images are decoded once and found again; rows and targets stay together whatever is dropped."""

import base64
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from automm_hpo.data import decoding, pixels
from automm_hpo.data.batch import join_rows
from automm_hpo.data.cache import build_cache, open_cache, store_caches
from automm_hpo.data.decoding import BadImage
from automm_hpo.data.encoders import EncodedTable
from automm_hpo.data.images import Base64, ImageGeometry, decode_image
from automm_hpo.errors import BadImages

GEOMETRY = ImageGeometry(8)
NUM_ROWS = 150


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """The machine's folder of decoded images, private to one test."""
    monkeypatch.setenv("AUTOMM_HPO_CACHE_DIR", str(tmp_path / "machine"))
    return tmp_path / "machine"


@pytest.fixture
def paths(tmp_path) -> list[list[str]]:
    """(150, 1) paths; image i is filled with grey i."""
    for row in range(NUM_ROWS):
        Image.new("L", (9, 9), row).save(tmp_path / f"{row}.png")
    return [[str(tmp_path / f"{row}.png")] for row in range(NUM_ROWS)]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


def store_cache(folder, name, table, geometry, strategy="raise", **options):
    return store_caches(folder, {name: table}, geometry, strategy, **options)


def greys(stored) -> list[int]:
    return stored.batch(slice(None)).images[:, 0, 0, 4, 4].tolist()


@pytest.fixture
def decoded(monkeypatch):
    """The sources of the images that are decoded from now on."""
    seen = []
    monkeypatch.setattr(decoding, "decode_image", lambda source, geometry: seen.append(source) or decode_image(source, geometry))
    return seen


TARGET = np.arange(NUM_ROWS) * 10
of_images = EncodedTable.of_images


@pytest.mark.parametrize("num_threads", [0, 1, 3])
def test_row_i_is_file_i(paths, folder, num_threads):
    lines: list[str] = []
    store_cache(folder, "train", of_images(paths, TARGET), GEOMETRY, num_threads=num_threads, report=lines.append)
    stored = open_cache(folder, "train")
    assert stored.images.shape == (NUM_ROWS, 1, 8, 8, 3)
    assert stored.batch(slice(None)).images.dtype == torch.uint8
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


@pytest.mark.parametrize("change", ["nothing", "order", "target", "numbers", "split", "twice"])
def test_the_same_images_are_decoded_once_for_all_searches(paths, tmp_path, decoded, change):
    store_cache(tmp_path / "first", "train", of_images(paths, TARGET), GEOMETRY)
    decoded.clear()
    tables = {"train": of_images(paths, TARGET)}
    if change in ("order", "twice"):
        rows = range(NUM_ROWS)[::-1] if change == "order" else [*range(NUM_ROWS), 5]
        tables = {"train": of_images([paths[row] for row in rows], TARGET[rows])}
    elif change == "target":
        tables = {"train": of_images(paths, TARGET + 1)}
    elif change == "numbers":
        tables = {"train": mixed(NUM_ROWS, paths)}
    elif change == "split":
        tables = {"train": of_images(paths[50:], TARGET[50:]), "valid": of_images(paths[:50], TARGET[:50])}
    store_caches(tmp_path / "second", tables, GEOMETRY)
    stored = open_cache(tmp_path / "second", "train")
    assert not decoded
    assert stored.target.tolist() == tables["train"].target.tolist()
    assert greys(stored) == [paths.index(row) for row in tables["train"].images]


@pytest.mark.parametrize("change", ["file", "time", "content of the same time", "side", "interpolation", "decoder"])
def test_what_changes_the_pixels_decodes_again(paths, folder, tmp_path, monkeypatch, decoded, change):
    store_cache(folder, "train", of_images(paths, TARGET), GEOMETRY)
    decoded.clear()
    geometry, first = GEOMETRY, 0
    if change == "file":
        Image.new("L", (90, 90), first := 99).save(tmp_path / "0.png")
    elif change == "content of the same time":
        status = os.stat(paths[5][0])
        Path(paths[5][0]).write_bytes(Path(paths[6][0]).read_bytes())
        os.utime(paths[5][0], ns=(status.st_atime_ns, status.st_mtime_ns))
        assert os.stat(paths[5][0]).st_size == status.st_size
    elif change == "time":
        os.utime(paths[0][0], ns=(1, 1))
    elif change == "decoder":
        monkeypatch.setattr(pixels, "DECODER_VERSION", -1)
    else:
        geometry = ImageGeometry(6) if change == "side" else ImageGeometry(8, "nearest")
    store_cache(folder, "train", of_images(paths, TARGET), geometry)
    assert len(decoded) == NUM_ROWS
    stored = open_cache(folder, "train")
    assert greys(stored)[:6] == [first, 1, 2, 3, 4, 6 if change == "content of the same time" else 5]
    assert stored.images.shape[2] == geometry.side


def test_a_search_that_was_refused_leaves_nothing_to_mistake(paths, folder):
    store_cache(folder, "train", of_images(paths, TARGET), GEOMETRY)
    with pytest.raises(BadImages):
        store_cache(folder, "train", of_images([["/nowhere.png"]] * NUM_ROWS, TARGET), GEOMETRY)
    store_cache(folder, "train", of_images(paths, TARGET), GEOMETRY)
    assert greys(open_cache(folder, "train")) == list(range(NUM_ROWS))


def test_16_bit_pictures_that_come_out_dark_are_told_at_each_fit(tmp_path, folder):
    Image.fromarray(np.full((9, 9), 4_000, np.uint16)).save(tmp_path / "a.png")
    lines: list[str] = []
    for _ in range(2):
        store_cache(folder, "train", of_images([[str(tmp_path / "a.png")]], TARGET[:1]), GEOMETRY, report=lines.append)
    assert greys(open_cache(folder, "train")) == [4_000 // 257]
    assert [line.split(":")[0] for line in lines] == ["16-bit images will be dark"] * 2


def test_a_file_that_can_be_read_now_is_seen_though_nothing_shows_it_changed(paths, folder, monkeypatch):
    def refuse(source, geometry):
        if source == paths[3][0]:
            raise decoding.UnreadableImage("PermissionError")
        return decode_image(source, geometry)

    with monkeypatch.context() as patch, pytest.raises(BadImages, match="PermissionError"):
        patch.setattr(decoding, "decode_image", refuse)
        store_cache(folder, "train", of_images(paths, TARGET), GEOMETRY)
    store_cache(folder, "train", of_images(paths, TARGET), GEOMETRY)
    assert greys(open_cache(folder, "train")) == list(range(NUM_ROWS))


def test_bad_images_of_both_splits_are_listed_by_the_callers_labels(paths, folder):
    tables = {"train": of_images([*paths[:5], ["/a.png"]], TARGET[:6]), "valid": of_images([["/b.png"]], TARGET[:1])}
    with pytest.raises(BadImages, match=r"train: 1 image .*\(row 'f': /a.png\).*\nvalid: 1 image .*\(row 'x': /b.png\)"):
        store_caches(folder, tables, GEOMETRY, labels={"train": list("abcdef"), "valid": ["x"]})


def test_raise_lists_the_files(paths, folder, tmp_path):
    (tmp_path / "3.png").write_bytes(b"")
    (tmp_path / "7.png").unlink()
    with pytest.raises(BadImages, match="'skip'") as raised:
        store_cache(folder, "train", of_images(paths, TARGET), GEOMETRY, "raise")
    for text in ("2 images", f"{paths[3][0]}): an empty file", f"{paths[7][0]}): no such file"):
        assert text in str(raised.value)


def test_skip_drops_exactly_those_rows(paths, folder, tmp_path):
    (tmp_path / "0.png").write_bytes(b"")
    (tmp_path / "77.png").write_bytes(b"<html>")
    paths[149] = [""]
    lines = store_cache(folder, "valid", of_images(paths, TARGET), GEOMETRY, "skip")
    stored = open_cache(folder, "valid")
    kept = [row for row in range(NUM_ROWS) if row not in (0, 77, 149)]
    assert greys(stored) == kept
    assert stored.target.tolist() == [10 * row for row in kept]
    assert stored.image_mask.shape == (147, 1)
    assert stored.image_mask.all()
    assert len(lines) == 1
    for text in ("3 of 150 rows dropped from valid", paths[0][0], paths[77][0], "(row 149): missing"):
        assert text in lines[0]


def test_skip_of_several_images_a_row(paths, folder):
    pairs = [[first, second] for (first,), (second,) in zip(paths, paths[::-1], strict=True)]
    pairs[5] = ["", "/nowhere.png"]
    [line] = store_cache(folder, "train", of_images(pairs, TARGET), GEOMETRY, "skip")
    stored = open_cache(folder, "train")
    assert stored.batch(slice(5, 6)).images[0, :, 0, 0, 0].tolist() == [6, NUM_ROWS - 7]
    assert line.startswith("1 of 150 rows dropped from train: 2 images cannot be read: 1 (row 5): missing; 1 (row 5: /nowhere.png): no such file.")


def test_skip_of_everything_is_refused(folder):
    with pytest.raises(BadImages, match="no row of the valid split"):
        store_cache(folder, "valid", of_images([["/a.png"], ["/b.png"]], np.zeros(2)), GEOMETRY, "skip")


def test_splits_are_joined_in_order_and_share_their_pixels(paths, folder):
    tables = {name: of_images(paths[rows], TARGET[rows]) for name, rows in (("train", slice(0, 100)), ("valid", slice(100, None)))}
    store_caches(folder, tables, GEOMETRY)
    joined = join_rows([open_cache(folder, name) for name in tables])
    assert greys(joined) == list(range(NUM_ROWS))
    assert joined.target.tolist() == TARGET.tolist()
    assert joined.image_mask.shape == (NUM_ROWS, 1)
    assert greys(joined.head(3)) == [0, 1, 2]
    assert len(joined.head(10_000)) == NUM_ROWS


def test_a_cache_without_room_decodes_when_asked_and_the_next_search_checks_nothing_again(paths, folder, tmp_path, monkeypatch, decoded, machine):
    paths[5] = [str(tmp_path / "bad.png")]
    (tmp_path / "bad.png").write_bytes(b"<html>")
    tables = {"train": of_images(paths[:100], TARGET[:100]), "valid": of_images(paths[100:], TARGET[100:])}
    store_caches(folder, tables, GEOMETRY, "skip")
    through_cache = [open_cache(folder, name) for name in tables]
    monkeypatch.setenv("AUTOMM_HPO_CACHE_DIR", str(tmp_path / "small"))
    monkeypatch.setenv("AUTOMM_HPO_CACHE_GB", "1e-6")
    lines: list[str] = []
    for search in ("first", "second"):
        decoded.clear()
        store_caches(tmp_path / search, tables, GEOMETRY, "skip", report=lines.append)
        assert len(decoded) == (NUM_ROWS if search == "first" else 1)  # the second search checks only the unreadable image again
    assert not list((tmp_path / "small").glob("*.pixels"))
    assert sum("images are decoded again for each batch" in line for line in lines) == 2
    streamed = [open_cache(tmp_path / "second", name) for name in tables]
    for one, other in zip(streamed, through_cache, strict=True):
        assert (one.is_streamed, other.is_streamed) == (True, False)
        assert one.images.shape == other.images.shape
        for rows in (slice(7, 60), torch.tensor([40, 2, 2])):
            assert torch.equal(one.batch(rows).images, other.batch(rows).images)
            assert torch.equal(one.batch(rows).target, other.batch(rows).target)
    assert greys(join_rows(streamed)) == greys(join_rows(through_cache))


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


def test_a_table_without_images_starts_no_thread(folder, monkeypatch, machine):
    monkeypatch.setattr(decoding, "ThreadPoolExecutor", None)  # would raise
    store_cache(folder, "train", mixed(), None)
    stored = open_cache(folder, "train")
    assert_same(stored, mixed())
    assert stored.images.shape == (6, 0, 0, 0, 3)
    assert not machine.exists()
    assert len(join_rows([stored, stored])) == 12


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
    assert not stored.batch(slice(2, 3)).images.any()
    with pytest.raises(BadImages, match=r"1 image .*no such file"):
        store_cache(folder, "train", mixed(6, [*paths[:5], ["/nowhere.png"]]), GEOMETRY, "zero")


def pictures(kind, paths):
    content = [Path(path).read_bytes() for (path,) in paths]
    if kind == "base64":
        return [[Base64(base64.b64encode(each).decode())] for each in content]
    return [[each] for each in content] if kind == "bytes" else [[np.full((9, 9), row, np.uint8)] for row in range(len(paths))]


@pytest.mark.parametrize("kind", ["bytes", "base64", "arrays"])
def test_pictures_in_memory_lie_in_the_searchs_folder_which_all_machines_reach(paths, folder, machine, kind):
    store_cache(folder, "train", mixed(NUM_ROWS, pictures(kind, paths)), GEOMETRY)
    assert greys(open_cache(folder, "train")) == list(range(NUM_ROWS))
    assert not machine.exists()
    assert len(list(folder.glob("*.pixels"))) == 1


@pytest.mark.parametrize("kind", ["files", "bytes", "none"])
def test_another_machine_decodes_for_itself_what_it_can(paths, folder, tmp_path, monkeypatch, machine, decoded, kind):
    paths[3] = [""]
    in_memory = [*pictures("bytes", paths[:3]), [""], *pictures("bytes", paths[4:])]
    images = {"files": paths, "bytes": in_memory, "none": ()}[kind]
    geometry = None if kind == "none" else GEOMETRY
    store_cache(folder, "train", mixed(NUM_ROWS, images), geometry, "zero")
    first = open_cache(folder, "train")
    monkeypatch.setenv("AUTOMM_HPO_CACHE_DIR", str(tmp_path / "other"))
    decoded.clear()
    second = open_cache(folder, "train")
    assert len(decoded) == (NUM_ROWS - 1 if kind == "files" else 0)
    assert len(list((tmp_path / "other").glob("*.pixels"))) == (kind == "files")
    assert torch.equal(second.batch(slice(None)).images, first.batch(slice(None)).images)
    assert torch.equal(second.image_mask, first.image_mask)
    assert_same(second, mixed(NUM_ROWS))


def test_a_process_that_was_told_of_no_folder_finds_where_the_search_has_them(paths, folder, tmp_path, monkeypatch, decoded):
    store_cache(folder, "train", of_images(paths, TARGET), GEOMETRY)
    monkeypatch.delenv("AUTOMM_HPO_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    decoded.clear()
    assert greys(open_cache(folder, "train")) == list(range(NUM_ROWS))
    assert not decoded
    assert not (tmp_path / "home").exists()


def test_a_machine_that_cannot_read_an_image_says_so(paths, folder, tmp_path, monkeypatch):
    (tmp_path / "bad.png").write_bytes(b"<html>")
    store_cache(folder, "train", of_images([*paths, [str(tmp_path / "bad.png")]], np.arange(NUM_ROWS + 1)), GEOMETRY, "skip")
    monkeypatch.setenv("AUTOMM_HPO_CACHE_DIR", str(tmp_path / "other"))
    Path(paths[7][0]).rename(tmp_path / "away.png")
    for _ in range(2):
        with pytest.raises(BadImages, match=rf"1 image cannot be read on this machine: {paths[7][0]}: no such file"):
            open_cache(folder, "train")
    (tmp_path / "away.png").rename(paths[7][0])
    assert greys(open_cache(folder, "train")) == list(range(NUM_ROWS))
