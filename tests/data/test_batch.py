"""Rows stay together on their way, whatever kinds of column they have."""

import pytest
import torch

from automm_hpo.data.batch import Batch, TensorCache, join_rows


def cache_of(num_rows, counts, pad=9) -> TensorCache:
    """Row i has i in every field; tokens 1, 2, 3, ... as many as its count."""
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
    joined = join_rows([first, second], torch.cat([first.images, second.images]))
    assert joined.target.tolist() == [0, 1, 0, 1, 2]
    assert joined.tokens["t"].tolist() == [[1, 9, 9, 9, 9], [1, 2, 9, 9, 9], [1, 2, 3, 4, 9], [1, 9, 9, 9, 9], [1, 9, 9, 9, 9]]
    assert joined.token_counts["t"].tolist() == [1, 2, 4, 1, 1]
    assert joined.head(2).tokens["t"].shape == (2, 5)
    assert joined.nbytes > first.nbytes + second.nbytes
