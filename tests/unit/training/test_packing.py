import itertools
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hydrahead.core.errors import HydraHeadError, UnusableInput
from hydrahead.training.batch import IGNORE
from hydrahead.training.data.documents import Document, DocumentSource
from hydrahead.training.data.packing import PackedBatches
from hydrahead.training.data.sources import Mixture, WeightedSource
from hydrahead.training.data.stream import BLOCK_RECORDS, DocumentStream

PAD = 999_999


class Numbers(DocumentSource):
    """Document i counts up from 1000 i, so every token says where it is from."""

    def __init__(self, lengths, *, splittable=True, base=0, mask=None):
        self.lengths = lengths
        self.splittable = splittable
        self.base = base
        self.mask = mask

    def records(self, start: int) -> Iterator[int]:
        yield from range(start, len(self.lengths))

    def encode(self, record: int) -> list[Document]:
        first = self.base + 1000 * (record + 1)
        ids = list(range(first, first + self.lengths[record]))
        mask = None if self.mask is None else [self.mask(i) for i in range(len(ids))]
        return [Document(ids=ids, splittable=self.splittable, loss_mask=mask)] if ids else []


def packed(*parts, batch_size=2, length=8, seed=0):
    mixture = Mixture(parts=tuple(WeightedSource(source=s, weight=w) for s, w in parts), pad_id=PAD)
    return PackedBatches(mixture, batch_size=batch_size, length=length, seed=seed)


def test_ids_are_held_against_the_vocabulary():
    source = Numbers([8], splittable=False)
    mixture = Mixture(parts=(WeightedSource(source=source, weight=1),), pad_id=10**6)
    top = max(source.encode(0)[0].ids)
    batches = PackedBatches(mixture, batch_size=1, length=9, vocab_size=top + 1)
    assert int(take(batches, 1)[0].input_ids.max()) == top, "padding is no id of its own then"
    batches = PackedBatches(mixture, batch_size=1, length=9, vocab_size=top)
    with pytest.raises(UnusableInput, match=f"the id {top}, the model's vocabulary has {top}"):
        take(batches, 1)


def take(batches, count):
    return list(itertools.islice(iter(batches), count))


def equal(left, right):
    return all(
        torch.equal(getattr(a, f), getattr(b, f))
        for a, b in zip(left, right, strict=True)
        for f in ("input_ids", "labels", "position_ids")
    )


def check_rows(batch):
    """Every label is the next token of the same document; positions restart with each piece."""
    for ids, labels, positions in zip(
        batch.input_ids.tolist(), batch.labels.tolist(), batch.position_ids.tolist(), strict=True
    ):
        for i, (token, label) in enumerate(zip(ids, labels, strict=True)):
            if label != IGNORE:
                assert label == token + 1
            continues = i > 0 and ids[i] == ids[i - 1] + 1 and ids[i] // 1000 == ids[i - 1] // 1000
            padding = i > 0 and ids[i] == ids[i - 1] == PAD
            if token == PAD:
                assert label == IGNORE
            assert positions[i] == (positions[i - 1] + 1 if continues or padding else 0)


@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=30),
    splittable=st.booleans(),
    length=st.integers(2, 25),
    seed=st.integers(0, 3),
)
def test_no_label_crosses_a_document(lengths, splittable, length, seed):
    batches = packed((Numbers(lengths, splittable=splittable), 1.0), length=length, seed=seed)
    if max(lengths) < 2:
        with pytest.raises(HydraHeadError):
            take(batches, 1)
        return
    for batch in take(batches, 6):
        assert batch.input_ids.shape == (2, length)
        check_rows(batch)


def test_a_cut_document_goes_on_in_the_next_row_and_loses_no_target():
    batch = take(packed((Numbers([33]), 1.0), batch_size=4, length=8), 1)[0]
    assert batch.input_ids.flatten().tolist() == list(range(1000, 1032))
    assert batch.labels.flatten().tolist() == list(range(1001, 1033))
    assert batch.position_ids.tolist() == [list(range(8))] * 4


def test_documents_that_may_not_be_cut_stay_whole_and_rows_are_padded():
    batches = packed((Numbers([5] * 6, splittable=False), 1.0), length=8)
    for row in torch.cat([b.input_ids for b in take(batches, 3)]).tolist():
        assert row[4] == row[0] + 4
        assert row[5:] == [PAD] * 3


def test_text_fills_the_room_that_samples_leave():
    samples = Numbers([20] * 50, splittable=False, base=10_000_000)
    text = Numbers([700] * 50)
    batches = take(packed((samples, 0.5), (text, 0.5), length=64), 20)
    ids = torch.cat([b.input_ids for b in batches])
    assert (ids == PAD).sum(1).max() <= 1, "a single token cannot predict anything"
    assert (ids >= 10_000_000).double().mean().item() == pytest.approx(0.5, abs=0.02)


def test_a_sample_longer_than_a_row_loses_its_end():
    batches = packed((Numbers([30, 4], splittable=False), 1.0), batch_size=1, length=8)
    rows = {tuple(b.input_ids[0, :2].tolist()) for b in take(batches, 4)}
    assert rows == {(1000, 1001), (2000, 2001)}


def test_the_mask_says_which_tokens_are_targets():
    source = Numbers([8], mask=lambda i: i >= 5)
    batch = take(packed((source, 1.0), batch_size=1, length=8), 1)[0]
    assert batch.labels[0].tolist() == [IGNORE] * 4 + [1005, 1006, 1007, IGNORE]


@given(
    lengths=st.lists(st.integers(0, 60), min_size=3, max_size=20),
    before=st.integers(0, 12),
    splittable=st.booleans(),
)
def test_resumes_anywhere_with_the_same_batches(lengths, before, splittable):
    lengths = [*lengths, 5]

    def make():
        return packed((Numbers(lengths, splittable=splittable), 0.3), (Numbers([9, 100]), 0.7))

    straight = take(make(), before + 5)
    first = make()
    take(first, before)
    state = first.state_dict()
    resumed = make()
    resumed.load_state_dict(state)
    assert equal(straight[before:], take(resumed, 5))


def test_a_saved_position_does_not_move_with_the_stream():
    batches = packed((Numbers([50] * 4), 1.0))
    state = batches.state_dict()
    take(batches, 3)
    assert state["streams"][0]["offset"] == 0


def test_every_pass_reads_everything_once_in_another_order():
    count = BLOCK_RECORDS + 40
    stream = DocumentStream(Numbers([3] * count), seed=1, label="")

    def one_pass():
        seen = []
        for _ in range(count):
            seen.append(stream.peek().ids[0])
            stream.take(3)
        return seen

    first, second = one_pass(), one_pass()
    assert sorted(first) == sorted(second) == [1000 * (i + 1) for i in range(count)]
    assert first != second
    assert first != sorted(first)


def test_seeds_shuffle_differently_and_repeatably():
    def rows(seed):
        return take(packed((Numbers([8] * 40), 1.0), seed=seed), 5)

    assert equal(rows(0), rows(0))
    assert not equal(rows(0), rows(1))


def test_data_without_a_document_is_refused_rather_than_read_forever():
    with pytest.raises(HydraHeadError, match="no document to learn from"):
        take(packed((Numbers([1, 0, 1]), 1.0)), 1)
    with pytest.raises(HydraHeadError, match="anything to learn"):
        take(packed((Numbers([9], mask=lambda _: False), 1.0)), 1)
