"""Real models: greedy decoding, loss by position, and directories of any family."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from hydrahead.core.errors import HydraHeadError
from hydrahead.evaluation import evaluate, read_results
from hydrahead.evaluation import position_loss as by_position
from hydrahead.evaluation.generation import greedy, pad_id_for
from hydrahead.evaluation.subjects import parameters_hash, subjects_of

pytestmark = pytest.mark.matrix


def continued(model, prompt, count):
    """Greedy continuation without a cache, one token after the other."""
    ids = list(prompt)
    for _ in range(count):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def test_greedy_batches_of_unequal_prompts_equal_single_ones(tiny_model, tokenizer):
    tiny_model.generation_config.update(
        temperature=0.2, do_sample=True, repetition_penalty=5.0, eos_token_id=None
    )
    prompts = [[5, 6, 7, 8], list(range(40, 71)), [300]]
    found = greedy(tiny_model, prompts, max_new_tokens=6, pad_id=pad_id_for(tokenizer))
    assert found == [continued(tiny_model, prompt, 6) for prompt in prompts]
    assert tiny_model.generation_config.repetition_penalty == 5.0


def test_greedy_ends_at_the_end_of_text(tiny_model, tokenizer):
    tiny_model.generation_config.eos_token_id = None
    [free] = greedy(tiny_model, [[5, 6, 7, 8]], max_new_tokens=6, pad_id=0)
    tiny_model.generation_config.eos_token_id = free[2]
    [ended] = greedy(tiny_model, [[5, 6, 7, 8]], max_new_tokens=6, pad_id=0)
    assert ended == free[: free.index(free[2])]


def test_loss_by_position_equals_one_whole_forward(tiny_model, monkeypatch):
    torch.manual_seed(0)
    rows = torch.randint(0, tiny_model.config.vocab_size, (3, 201))
    with torch.no_grad():
        logits = tiny_model(rows[:, :-1]).logits.double()
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="none"
    ).view(3, 200)
    # Pieces of 64 positions, so that the cache is used three times.
    monkeypatch.setattr(by_position, "_LOGIT_NUMBERS", 1)
    result = by_position.position_loss(tiny_model, rows.tolist(), source="test", batch_size=2)
    assert result.loss == pytest.approx(losses.mean().item(), abs=1e-5)
    assert result.perplexity == pytest.approx(losses.mean().exp().item(), rel=1e-4)
    assert result.buckets[0].start == 0
    assert result.buckets[-1].stop == 200
    for before, after in zip(result.buckets[:-1], result.buckets[1:], strict=True):
        assert before.stop == after.start
    third = result.buckets[2]
    means = losses[:, third.start : third.stop].mean(dim=1)
    assert third.n == 3
    assert third.loss == pytest.approx(means.mean().item(), abs=1e-5)
    error = means.std(correction=0).item() / 3**0.5
    assert third.standard_error == pytest.approx(error, abs=1e-5)


def test_text_sequences_are_whole_and_refuse_too_little_text(tokenizer, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("The brave baker carried a basket to the market. " * 40)
    rows = by_position.text_sequences(tokenizer, str(text), length=50, count=3)
    assert [len(row) for row in rows] == [51, 51, 51]
    with pytest.raises(HydraHeadError, match="tokens, 100001 are needed"):
        by_position.text_sequences(tokenizer, str(text), length=100_000, count=1)
    with pytest.raises(HydraHeadError, match="no such file"):
        by_position.text_sequences(tokenizer, str(tmp_path / "missing"), length=5, count=1)


def test_directories_of_known_and_other_families_side_by_side(
    tiny_model, tokenizer, tmp_path, quiet
):
    torch.manual_seed(1)
    other = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer),
            n_layer=1,
            n_head=2,
            n_embd=16,
            n_positions=512,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    for name, model in (("a/qwen", tiny_model), ("b/gpt", other)):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    text = tmp_path / "text.txt"
    text.write_text("The brave baker carried a basket to the market. " * 200)
    results = read_results(
        evaluate(
            [tmp_path / "a" / "qwen", str(tmp_path / "b" / "gpt")],
            tasks=["niah_single", "mqar"],
            lengths=[256],
            samples=4,
            depths=[0.0, 1.0],
            batch_size=4,
            perplexity_text=text,
            out=tmp_path / "e",
            progress=quiet,
        )
    )
    assert results.model_names() == ("qwen", "gpt")
    assert [model.model_type for model in results.models] == ["qwen3", "gpt2"]
    assert [len(model.costs) for model in results.models] == [1, 0]
    assert results.model("gpt").max_positions == 512
    for model in results.models:
        assert len(model.cells) == 3
        assert model.position_loss.length == 255
        assert model.position_loss.loss > 3  # random weights know nothing
        assert model.position_loss.source == str(text)
    with pytest.raises(HydraHeadError, match="model gpt: length 600 is beyond"):
        evaluate(
            [tmp_path / "a" / "qwen", tmp_path / "b" / "gpt"],
            tasks=["mqar"],
            lengths=[600],
            out=tmp_path / "f",
            progress=quiet,
        )
    assert not (tmp_path / "f").exists()


def test_directories_of_one_name_get_longer_names(tiny_model, tokenizer, tmp_path):
    for name in ("x/final", "y/final"):
        tiny_model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    subjects = subjects_of([tmp_path / "x" / "final", tmp_path / "y" / "final"])
    assert [subject.name for subject in subjects] == ["x/final", "y/final"]


def test_damage_and_missing_text_are_found_before_any_work(
    tiny_model, tokenizer, tmp_path, quiet, perfect
):
    broken = tmp_path / "broken"
    tiny_model.save_pretrained(broken)
    tokenizer.save_pretrained(broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    models = [(perfect, tokenizer, "perfect"), broken]
    settings = dict(tasks="niah_single", lengths=[256], out=tmp_path / "e", progress=quiet)
    with pytest.raises(HydraHeadError, match=r"model\.safetensors"):
        evaluate(models, **settings)
    with pytest.raises(HydraHeadError, match="no such file"):
        evaluate(models[:1], perplexity_text=tmp_path / "missing.txt", **settings)
    assert perfect.batches == []
    assert not any("e" in path.name.split(".") for path in tmp_path.iterdir())


def test_other_weights_have_another_hash(tiny_model):
    before = parameters_hash(tiny_model)
    assert parameters_hash(tiny_model) == before
    with torch.no_grad():
        tiny_model.lm_head.weight[0, 0] += 1
    assert parameters_hash(tiny_model) != before
