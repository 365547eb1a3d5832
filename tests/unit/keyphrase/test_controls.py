"""The shuffled control: another document's words, and nothing else that differs."""

import pytest
import torch
from tiny_encoder import make_documents, tiny_bert, tiny_tokenizer

from hydrahead.core.errors import HydraHeadError
from hydrahead.keyphrase.batches import lent_contexts
from hydrahead.keyphrase.context import ALL
from hydrahead.keyphrase.documents import Document
from hydrahead.keyphrase.encodings import Prepared, prepare
from hydrahead.keyphrase.modeling import build_model
from hydrahead.keyphrase.prediction import batch_context
from hydrahead.keyphrase.static_vectors import lookup_in_tokens
from hydrahead.keyphrase.windows import WindowCutter


def prepared(count: int) -> list[Prepared]:
    tokenizer = tiny_tokenizer()
    cutter, lookup = WindowCutter(tokenizer, 32), lookup_in_tokens(tokenizer)
    records = make_documents(count)
    return [prepare(Document(r["id"], r["text"]), cutter, lookup) for r in records]


@pytest.mark.parametrize("count", [2, 3, 6, 7])
def test_each_document_lends_once_and_to_another(count: int) -> None:
    given = prepared(count)
    own = [one.context for one in given]
    lent = lent_contexts(given)
    assert all(mine is not theirs for mine, theirs in zip(own, lent, strict=True))
    assert {id(context) for context in lent} == {id(context) for context in own}
    if count > 3:
        assert all(lent[n] is not own[(n + 1) % count] for n in range(count))


def test_one_document_has_nobody_to_look_at() -> None:
    with pytest.raises(HydraHeadError, match="no other to look at"):
        lent_contexts(prepared(1))


@pytest.mark.parametrize("neighbours", [1, ALL])
def test_a_lent_context_is_what_its_own_windows_see(neighbours: int) -> None:
    first, second = prepared(2)
    tokenizer = tiny_tokenizer()
    model = build_model(tiny_bert(len(tokenizer)), width=8, neighbours=neighbours)
    last = second.context.num_windows - 1
    asked = [0, last, last + 1]  # beyond its last window it begins anew
    lent = batch_context(model, first.context, asked, donor=second.context)
    theirs = batch_context(model, second.context, [0, last, 0])
    assert lent is not None
    assert theirs is not None
    torch.testing.assert_close(lent.rows, theirs.rows)
    torch.testing.assert_close(lent.log_counts, theirs.log_counts)
