"""Small teachers whose circuits are written by hand, so that it is known which heads matter, and
how.

Residual: five blocks of one-hot tokens (the token, the one before it, two pointers, the answer) and
one constant. Position comes from the fast planes of RoPE, tokens are matched in its slow planes,
which hardly turn over the prompts used here. Heads that have no part in the circuit are small
noise.

    layer 0, q_head 1     previous token: writes the token before into `previous`
    layer 1 ... n         a look-up each: finds the position whose `previous` is what it asks for,
    writes the
                          token there; the first asks for the current token, each later one for the
                          partner of what the one before it found; the last writes into `answer`,
                          which the logits read
"""

import copy
import json
import math
from itertools import pairwise

import torch
from torch import Tensor

from hydrahead.mixers.contract import TeacherHeads
from hydrahead.model.configuration import HydraConfig
from hydrahead.model.modeling import HydraForCausalLM
from hydrahead.plan.geometry import ModelGeometry
from hydrahead.plan.head_plan import HeadPlan
from hydrahead.plan.specs.base import MixerSpec
from hydrahead.plan.specs.gated_delta import GatedDeltaSpec
from hydrahead.tasks import Counterfactual, Sample

VOCABULARY = 30
HEAD_DIM = 64
FAST, SLOW = range(5), range(17, 32)
THETA = 1e8
PREVIOUS_HEAD = (0, 1)
LOOK_UP_HEADS = ((1, 2), (2, 0), (3, 3))

TOKEN, PREVIOUS, POINTER, SECOND_POINTER, ANSWER = (
    slice(block * VOCABULARY, (block + 1) * VOCABULARY) for block in range(5)
)
CONSTANT = 5 * VOCABULARY
SIZE = CONSTANT + 2
ASKS = (TOKEN, POINTER, SECOND_POINTER)


def hand_built(look_ups: int = 1, *, seed: int = 0, noise: float = 0.003) -> HydraForCausalLM:
    """A teacher with a chain of `look_ups` look-up heads (1: the induction circuit)."""
    geometry = ModelGeometry(
        family="llama",
        num_layers=look_ups + 1,
        num_q_heads=4,
        num_kv_heads=2,
        head_dim=HEAD_DIM,
        hidden_size=SIZE,
        intermediate_size=32,
        vocab_size=VOCABULARY,
        max_positions=128,
        layer_windows=(None,) * (look_ups + 1),
        tie_word_embeddings=False,
    )
    config = HydraConfig(
        family="llama",
        vocab_size=VOCABULARY,
        hidden_size=SIZE,
        intermediate_size=32,
        num_hidden_layers=look_ups + 1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=HEAD_DIM,
        max_position_embeddings=128,
        rope_parameters={"rope_type": "default", "rope_theta": THETA},
        plan=json.loads(HeadPlan.all_full(geometry).to_json()),
    )
    torch.manual_seed(seed)
    model = HydraForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.normal_(std=noise)
        model.model.embed_tokens.weight.zero_()
        model.model.embed_tokens.weight[:, TOKEN] = torch.eye(VOCABULARY)
        model.model.embed_tokens.weight[:, CONSTANT] = 1.0
        model.lm_head.weight.zero_()
        model.lm_head.weight[:, ANSWER] = 2 * torch.eye(VOCABULARY)
        _previous_token(model, *PREVIOUS_HEAD)
        targets = [*(POINTER, SECOND_POINTER)[: look_ups - 1], ANSWER]
        for (layer, head), asks, target in zip(LOOK_UP_HEADS, ASKS, targets, strict=False):
            _look_up(model, layer, head, asks, target)
    return model


def chain_sample(links: int, *, value_tokens: int = 1, seed: int = 0) -> Sample:
    """A key, `links` - 1 pointers and a value: "K a ... a* b ... b* V ... K" -> V, a* = partner of
    a.

    The counterfactual changes the token after the key. With one link that is the value itself (all
    of its tokens); with more, two chains are in the prompt and the change switches to the other
    one.
    """
    generator = torch.Generator().manual_seed(seed)
    pairs = iter((1 + torch.randperm(VOCABULARY // 2 - 1, generator=generator)).tolist())
    one, other = (
        [2 * next(pairs) for _ in range(links - 1 + value_tokens)] for _ in ("clean", "other")
    )
    key = 2 * next(pairs)
    noise = iter([token for pair in pairs for token in (2 * pair, 2 * pair + 1)])
    width = value_tokens if links == 1 else 1
    prompt = [1, next(noise), key]
    start = len(prompt)
    prompt += [*one[:width], next(noise)]
    if links > 1:
        for chain in (one, other):
            for pointer, following in pairwise(chain):
                prompt += [partner(pointer), following, next(noise)]
    prompt.append(key)
    changed = list(prompt)
    changed[start : start + width] = other[:width]
    answer, wrong = (tuple(chain[links - 1 :]) for chain in (one, other))
    found = prompt.index(answer[0])
    return Sample(
        task="chain",
        prompt_ids=tuple(prompt),
        answer_ids=answer,
        targets=(),
        evidence=((found, found + len(answer)),),
        length=len(prompt) + len(answer),
        depth=None,
        index=seed,
        counterfactual=Counterfactual(prompt_ids=tuple(changed), answer_ids=wrong),
    )


def partner(token: int) -> int:
    """The token that stands for another one where it is looked up rather than given."""
    return token ^ 1


def twins_of(teacher: HydraForCausalLM, spec: MixerSpec | None = None) -> HydraForCausalLM:
    """An all-linear hybrid that starts from the teacher's heads; not aligned."""
    geometry = teacher.config.head_plan.geometry
    plan = HeadPlan.uniform(geometry, spec or GatedDeltaSpec())
    config = copy.deepcopy(teacher.config)
    config.plan = json.loads(plan.to_json())
    twins = HydraForCausalLM(config).eval()
    missing, _ = twins.load_state_dict(teacher.state_dict(), strict=False)
    for layer, block in enumerate(teacher.model.layers):
        own = block.self_attn.mixers[0].projections
        heads = TeacherHeads(
            **{
                f"{name}_weight": getattr(own, name).weight.detach().view(-1, HEAD_DIM, SIZE)
                for name in ("q", "k", "v")
            }
        )
        for mixer in twins.model.layers[layer].self_attn.mixers:
            mixer.init_from_teacher(heads)
    assert all("mixers" in name or "fusion" in name for name in missing)
    return twins


def _previous_token(model: HydraForCausalLM, layer: int, head: int) -> None:
    """score(distance) = sum over fast planes of cos((distance - 1) theta): largest at distance
    1."""
    query, key, value, write = _head(model, layer, head)
    key.zero_()
    for plane in FAST:
        angle = THETA ** (-plane / (HEAD_DIM // 2))
        query[plane, CONSTANT] = 4 * math.cos(angle)
        query[plane + HEAD_DIM // 2, CONSTANT] = -4 * math.sin(angle)
        key[plane, CONSTANT] = 4.0
    _copy(value, write, PREVIOUS, gain=1 / math.sqrt(SIZE / 2))


def _look_up(model: HydraForCausalLM, layer: int, head: int, asks: slice, target: slice) -> None:
    """Match what `asks` holds with what `previous` holds; copy the token of the position that
    matches."""
    query, key, value, write = _head(model, layer, head)
    planes = [*SLOW, *(plane + HEAD_DIM // 2 for plane in SLOW)][:VOCABULARY]
    for token, plane in enumerate(planes):
        asked = token if asks is TOKEN else partner(token)
        query[plane, asks.start + asked] = 4.0
        key[plane, PREVIOUS.start + token] = 4.0
    _copy(value, write, target, gain=1 / math.sqrt(SIZE / 3))


def _copy(value: Tensor, write: Tensor, target: slice, gain: float) -> None:
    value[:VOCABULARY, TOKEN] = torch.eye(VOCABULARY)
    write[target, :VOCABULARY] = gain * torch.eye(VOCABULARY)


def _head(model: HydraForCausalLM, layer: int, head: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Views of one q_head's weights: query, key, value [e, d] and write [d, e]."""
    attention = model.model.layers[layer].self_attn
    projections = attention.mixers[0].projections
    group = head // 2
    q, kv = (slice(i * HEAD_DIM, (i + 1) * HEAD_DIM) for i in (head, group))
    return (
        projections.q.weight[q],
        projections.k.weight[kv],
        projections.v.weight[kv],
        attention.o_proj.weight[:, q],
    )
