import pytest
from training_fakes import byte_tokenizer

from hydrahead.core.errors import HydraHeadError
from hydrahead.training.data.chat import ChatEncoder

PLAIN = (
    "{% for m in messages %}<|im|>{{ m['role'] }}\n{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im|>assistant\n{% endif %}"
)
DROPS_HISTORY = (
    "{% for m in messages %}<|im|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and loop.last %}<t>{{ m['content'] }}</t>"
    "{% else %}{{ m['content'] }}{% endif %}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im|>assistant\n{% endif %}"
)
CHAT = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "ho"},
    {"role": "user", "content": "and?"},
    {"role": "assistant", "content": "so"},
]


def learned(template, messages):
    """(text, what of it is learned) of every document."""
    tokenizer = byte_tokenizer(template)
    found = []
    for document in ChatEncoder(tokenizer).documents(messages, where="here"):
        marked = [i for i, m in zip(document.ids, document.loss_mask, strict=True) if m]
        found.append((tokenizer.decode(document.ids), tokenizer.decode(marked)))
        assert not document.splittable
    return found


def test_only_what_the_assistant_says_is_learned():
    ((text, marked),) = learned(PLAIN, CHAT)
    assert marked == "ho</s>\nso</s>\n"
    assert text.startswith(
        "<|im|>system\nbe brief</s>\n<|im|>user\nhi</s>\n<|im|>assistant\nho</s>"
    )


def test_a_template_that_rewrites_history_gives_a_document_per_answer():
    first, second = learned(DROPS_HISTORY, CHAT)
    assert first[1] == "<t>ho</t></s>\n"
    assert second[1] == "<t>so</t></s>\n"
    assert "assistant\nho</s>" in second[0], "the model sees the history as the template gives it"


def test_a_chat_without_an_answer_teaches_nothing():
    assert learned(PLAIN, CHAT[:2]) == []


def test_words_of_the_user_are_not_learned_when_the_assistant_repeats_them():
    repeated = [{"role": "user", "content": "same"}, {"role": "assistant", "content": "same"}]
    ((text, marked),) = learned(PLAIN, repeated)
    assert text.count("same") == 2
    assert marked == "same</s>\n"


@pytest.mark.parametrize(
    ("template", "messages", "message"),
    [
        (None, CHAT, "no chat template"),
        (PLAIN, [{"role": "user"}], "needs 'role' and 'content'"),
        (PLAIN, [{"content": "x"}], "needs 'role' and 'content'"),
        ("{{ raise_exception('roles must alternate') }}", CHAT, "roles must alternate"),
    ],
)
def test_a_chat_that_cannot_be_rendered_is_named(template, messages, message):
    with pytest.raises(HydraHeadError, match=message) as error:
        learned(template, messages)
    assert error.value.where == "here"
