"""`generate()` on hybrids, on every supported transformers version."""

from typing import Any

import pytest
import torch
from torch import Tensor

from hydrahead.core.errors import HydraHeadError
from hydrahead.model.cache import HydraCache
from hydrahead.model.cache_name import CACHE_NAME
from hydrahead.model.modeling import HydraForCausalLM
from tiny_hybrids import GEOMETRY, PLANS, assert_close, left_padded, tiny_hybrid, tokens

pytestmark = pytest.mark.matrix

NAMES = ["everything-q_head", "own-window", "gated_delta-0-everywhere", "window-paper-kv_head"]
"""Everything at once, a family's window, nothing but linear heads, softmax alone."""
NEW = 12


@pytest.fixture(params=NAMES)
def model(request: pytest.FixtureRequest) -> HydraForCausalLM:
    return tiny_hybrid(PLANS[request.param])


def generate(model: HydraForCausalLM, ids: Tensor, **settings: Any) -> Tensor:
    plain = {"max_new_tokens": NEW, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    return model.generate(ids, **{**plain, **settings})  # type: ignore[operator]


@torch.no_grad()
def by_hand(model: HydraForCausalLM, ids: Tensor) -> Tensor:
    """Greedy tokens, each from a forward over everything before it."""
    for _ in range(NEW):
        logits = model(ids, use_cache=False).logits[:, -1]
        ids = torch.cat((ids, logits.argmax(-1, keepdim=True)), dim=1)
    return ids


def test_greedy_in_every_way(model: HydraForCausalLM) -> None:
    ids = tokens(2, 13)
    expected = by_hand(model, ids)
    assert torch.equal(generate(model, ids), expected)
    assert torch.equal(generate(model, ids, use_cache=False), expected)
    assert torch.equal(generate(model, ids, cache_implementation="dynamic"), expected)
    assert torch.equal(generate(model, ids, cache_implementation="static"), expected)
    for size in (1, 5, 13, 40):
        assert torch.equal(generate(model, ids, prefill_chunk_size=size), expected)
    static = {"cache_implementation": "static", "prefill_chunk_size": 4}
    assert torch.equal(generate(model, ids, **static), expected)


def test_left_padding(model: HydraForCausalLM) -> None:
    lengths = (13, 9, 1)
    ids, mask = left_padded(lengths)
    alone = [by_hand(model, ids[row : row + 1, -n:]) for row, n in enumerate(lengths)]
    for settings in ({}, {"prefill_chunk_size": 5}, {"cache_implementation": "static"}):
        together = generate(model, ids, attention_mask=mask, **settings)
        for row, (length, single) in enumerate(zip(lengths, alone, strict=True)):
            assert torch.equal(together[row, -length - NEW :], single[0])


def test_padding_found_by_the_pad_token(model: HydraForCausalLM) -> None:
    ids, mask = left_padded((13, 9, 4))
    padded = torch.where(mask.bool(), ids, 0)
    assert torch.equal(
        generate(model, padded, eos_token_id=1),
        generate(model, padded, eos_token_id=1, attention_mask=mask),
    )


def test_beams(model: HydraForCausalLM) -> None:
    ids, mask = left_padded((13, 9, 4))
    beams = {"num_beams": 3, "num_return_sequences": 2, "attention_mask": mask}
    expected = generate(model, ids, **beams, use_cache=False)
    assert expected.shape == (6, 13 + NEW)
    assert torch.equal(generate(model, ids, **beams), expected)
    assert torch.equal(generate(model, ids, **beams, cache_implementation="static"), expected)


def test_sampling(model: HydraForCausalLM) -> None:
    ids = tokens(2, 13)
    drawn = []
    for settings in ({"use_cache": False}, {}, {"cache_implementation": "static"}):
        torch.manual_seed(3)
        drawn.append(
            generate(model, ids, do_sample=True, num_return_sequences=3, top_k=20, **settings)
        )
    assert drawn[0].shape == (6, 13 + NEW)
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])
    assert len({tuple(row) for row in drawn[0].tolist()}) > 2


def test_a_cache_carries_on(model: HydraForCausalLM) -> None:
    """The second call reads only what is new: nothing but the answer's last token and the rest."""
    ids = tokens(1, 13)
    cache = HydraCache()
    first = generate(model, ids, **{CACHE_NAME: cache})
    assert cache.get_seq_length() == 13 + NEW - 1
    more = torch.cat((first, tokens(1, 3, seed=5)), dim=1)
    assert torch.equal(generate(model, more, **{CACHE_NAME: cache}), by_hand(model, more))


def test_embeddings_as_input(model: HydraForCausalLM) -> None:
    ids = tokens(2, 13)
    embeddings = model.get_input_embeddings()(ids)
    new = model.generate(  # type: ignore[operator]
        inputs_embeds=embeddings,
        max_new_tokens=NEW,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=None,
    )
    assert torch.equal(new, by_hand(model, ids)[:, 13:])


def test_what_needs_to_take_tokens_back_is_refused(model: HydraForCausalLM) -> None:
    ids = tokens(1, 13)
    with pytest.raises(ValueError, match=r"stateful|not supported"):
        generate(model, ids, prompt_lookup_num_tokens=3)
    with pytest.raises(ValueError, match=r"stateful|not supported"):
        generate(model, ids, assistant_model=model)


def test_caches_that_do_not_fit_are_refused(model: HydraForCausalLM) -> None:
    ids = tokens(1, 13)
    for name in ("offloaded", "offloaded_static"):
        with pytest.raises(HydraHeadError, match=f"cache_implementation '{name}'"):
            generate(model, ids, cache_implementation=name)
    with pytest.raises(HydraHeadError, match=f"both {CACHE_NAME} and cache_implementation"):
        generate(model, ids, **{CACHE_NAME: HydraCache()}, cache_implementation="static")


def test_logits_to_keep(model: HydraForCausalLM) -> None:
    ids = tokens(2, 13)
    logits = model(ids).logits
    assert logits.shape == (2, 13, GEOMETRY.vocab_size)
    assert_close(model(ids, logits_to_keep=4).logits, logits[:, -4:], 1e-12)
    chosen = torch.tensor([2, 11])
    assert_close(model(ids, logits_to_keep=chosen).logits, logits[:, chosen], 1e-12)
