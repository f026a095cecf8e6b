"""The fields of a row stay together, whatever kinds of column the table has."""

import threading
import time
from dataclasses import replace

import pytest
import torch

from automm_hpo.data.batch import Batch, Pictures, TensorCache, ahead, batches, join_rows
from automm_hpo.data.decoding import OnDemand
from automm_hpo.data.images import ImageGeometry

batch = TensorCache.batch


def cache_of(num_rows, counts, pad=9) -> TensorCache:
    """Row i has i in every field; its tokens are 1, 2, 3, ..., as many as its count."""
    rows = torch.arange(num_rows)
    counts = torch.tensor(counts)
    tokens = torch.where(torch.arange(int(counts.max()) + 1) < counts[:, None], torch.arange(1, int(counts.max()) + 2), pad).to(torch.int32)
    return TensorCache(
        images=rows.to(torch.uint8).view(-1, 1, 1, 1, 1).expand(-1, 2, 4, 4, 3).contiguous(),
        image_mask=torch.ones(num_rows, 2, dtype=torch.bool),
        target=rows,
        numeric=rows.float().unsqueeze(1),
        categorical=rows.unsqueeze(1),
        tokens={"t": tokens},
        token_counts={"t": counts},
        weight=rows.float(),
    )


@pytest.mark.parametrize("rows", [torch.tensor([2, 0]), slice(0, 3)])
def test_a_batch_is_its_rows_and_as_long_as_its_longest_text(rows):
    batch = cache_of(4, [1, 3, 2, 5]).batch(rows)
    expected = torch.arange(4)[rows]
    assert torch.equal(batch.target, expected)
    assert torch.equal(batch.numeric[:, 0], expected.float())
    assert torch.equal(batch.categorical[:, 0], expected)
    assert torch.equal(batch.weight, expected.float())
    assert torch.equal(batch.images[:, 1, 2, 3, 3].long(), expected)
    assert batch.tokens["t"].dtype == torch.int64
    assert batch.tokens["t"].shape == (len(expected), int(batch.token_counts["t"].max()))
    assert batch.to(torch.device("cpu")).tokens["t"].shape == batch.tokens["t"].shape


def test_what_a_table_lacks_has_a_zero_axis():
    rows = TensorCache(torch.zeros(3, 0, 0, 0, 3, dtype=torch.uint8), torch.zeros(3, 0, dtype=torch.bool), torch.zeros(3))
    batch = rows.batch(torch.tensor([1]))
    assert (batch.images.shape, batch.numeric.shape, batch.categorical.shape) == ((1, 0, 3, 0, 0), (1, 0), (1, 0))
    assert (dict(batch.tokens), batch.weight.tolist(), len(batch)) == ({}, [1.0], 1)


def test_a_shorter_length_keeps_both_ends():
    tokens = torch.tensor([[1, 2, 3, 4, 99], [1, 2, 99, 0, 0], [1, 99, 0, 0, 0]])
    empty = torch.zeros(3)
    batch = Batch(empty, empty, empty, tokens={"t": tokens}, token_counts={"t": torch.tensor([5, 3, 2])})
    cut, counts = batch.text("t", 4)
    assert cut.tolist() == [[1, 2, 4, 99], [1, 2, 99, 0], [1, 99, 0, 0]]
    assert counts.tolist() == [4, 3, 2]
    assert batch.text("t", 3)[0].tolist() == [[1, 2, 99], [1, 2, 99], [1, 99, 0]]
    assert batch.text("t", 1)[0].tolist() == [[1], [1], [1]]
    assert batch.text("t", 5)[0] is tokens


def test_splits_are_joined_though_their_longest_texts_differ():
    first, second = cache_of(2, [1, 2]), cache_of(3, [4, 1, 1])
    joined = join_rows([first, second])
    assert joined.target.tolist() == [0, 1, 0, 1, 2]
    assert joined.tokens["t"].tolist() == [[1, 9, 9, 9, 9], [1, 2, 9, 9, 9], [1, 2, 3, 4, 9], [1, 9, 9, 9, 9], [1, 9, 9, 9, 9]]
    assert joined.token_counts["t"].tolist() == [1, 2, 4, 1, 1]
    assert joined.head(2).tokens["t"].shape == (2, 5)
    assert joined.nbytes > first.nbytes + second.nbytes
    assert joined.images[:, 0, 0, 0, 0].tolist() == [0, 1, 0, 1, 2]


def test_pictures_are_places_in_a_store():
    store = torch.arange(5, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 4, 4, 3).contiguous()
    places = torch.tensor([[1, 0], [4, 4], [2, 3]])
    pictures = Pictures(store, places, "key")
    assert (pictures.shape, pictures.nbytes) == ((3, 2, 4, 4, 3), 3 * 2 * 4 * 4 * 3)
    assert pictures.pixels(torch.tensor([2, 0]))[:, :, 0, 0, 0].tolist() == [[2, 3], [1, 0]]
    assert pictures[1:].pixels()[:, :, 3, 3, 2].tolist() == [[4, 4], [2, 3]]
    assert torch.equal(pictures.to(torch.device("cpu")), pictures.pixels())
    rows = TensorCache(pictures, places > 0, torch.arange(3))
    plain = TensorCache(pictures.pixels(), places > 0, torch.arange(3))
    for taken in (slice(1, 3), torch.tensor([2, 0, 0])):
        one, other = rows.batch(taken).images, plain.batch(taken).images
        assert torch.equal(one, other)
        assert one.stride() == other.stride()
    assert not rows.is_streamed
    with pytest.raises(ValueError, match="different stores"):
        join_rows([rows, TensorCache(Pictures(store, places, "another"), places > 0, torch.arange(3))])


def test_what_is_at_hand_needs_no_thread():
    before = threading.active_count()
    feed = batches(cache_of(4, [1, 3, 2, 5]), [slice(0, 2), torch.tensor([3])], torch.device("cpu"))
    assert [batch.target.tolist() for batch in feed] == [[0, 1], [3]]
    assert threading.active_count() == before


@pytest.mark.parametrize(("idle", "expected"), [(0, ["MainThread"]), (1, ["ahead_0"])])
def test_images_are_decoded_ahead_where_a_core_is_idle(monkeypatch, idle, expected):
    monkeypatch.setattr("automm_hpo.data.batch.idle_cores", lambda: idle)
    rows, threads = cache_of(4, [1, 3, 2, 5]), []
    streamed = replace(rows, images=Pictures(OnDemand([""] * 4, ImageGeometry(4)), torch.zeros(4, 2, dtype=torch.int64)))
    monkeypatch.setattr(TensorCache, "batch", lambda self, rows: threads.append(threading.current_thread().name) or batch(self, rows))
    assert [each.target.tolist() for each in batches(streamed, [slice(0, 2), slice(2, 4)], torch.device("cpu"))] == [[0, 1], [2, 3]]
    assert threads == expected * 2


def test_what_is_ahead_comes_in_order_and_no_further_than_asked():
    taken = []

    def double(number):
        taken.append(number)
        return 2 * number

    values = ahead(double, range(100), 2)
    assert [next(values) for _ in range(3)] == [0, 2, 4]
    until = time.time() + 5
    while len(taken) < 5 and time.time() < until:
        time.sleep(0.01)
    time.sleep(0.05)
    assert taken == [0, 1, 2, 3, 4]
    values.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]
    assert list(ahead(double, [1], 2)) == [2]
    with pytest.raises(ZeroDivisionError):
        list(ahead(lambda number: 1 / number, [1, 0], 1))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_that_travel_are_those_that_are_there():
    rows, device = cache_of(64, [1, 3, 2, 5] * 16), torch.device("cuda:0")
    blocks = [torch.randperm(64, generator=torch.Generator().manual_seed(step))[:16] for step in range(20)]
    for one, other in zip(batches(rows, blocks, device), batches(rows.to(device), blocks, device), strict=True):
        for name in ("images", "target", "numeric", "categorical", "weight"):
            assert torch.equal(getattr(one, name), getattr(other, name))
        assert torch.equal(one.tokens["t"], other.tokens["t"])
        assert one.images.stride() == other.images.stride()
