"""Chats as documents: rendered by the tokenizer's template, learned on the assistant's tokens.

What the assistant says is found in the rendered text: message i spans from what the template
renders before it (with the generation prompt) to what it renders after it. Where a template
rewrites history (drops earlier reasoning, say), those are not prefixes of the whole; then every
assistant turn becomes a document of its own, rendered as the model would see it, and only that turn
is learned.
"""

from typing import Any

from hydrahead.core.errors import HydraHeadError
from hydrahead.training.data.documents import Document

_Span = tuple[int, int]


class ChatEncoder:
    """Chats to documents with a tokenizer of transformers (a fast one, with a chat template)."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def documents(self, messages: list[dict[str, Any]], *, where: str) -> list[Document]:
        """One document for the chat, or one per assistant turn; none if the assistant never speaks.

        Raises:
            HydraHeadError: There is no chat template, or it refuses these messages.
        """
        self._check(messages, where)
        turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        if not turns:
            return []
        whole = self._render(messages, where)
        spans = [self._turn(messages, i, where) for i in turns]
        if all(whole.startswith(rendered) for rendered, _ in spans):
            return [self._document(whole, [span for _, span in spans])]
        return [self._document(rendered, [span]) for rendered, span in spans]

    def _check(self, messages: list[dict[str, Any]], where: str) -> None:
        if not getattr(self._tokenizer, "chat_template", None):
            mend = "give plain text, or a model whose tokenizer has a chat template"
            raise HydraHeadError(
                "is a chat, but the tokenizer has no chat template", where=where, mend=mend
            )
        if not getattr(self._tokenizer, "is_fast", False):
            raise HydraHeadError("chats need a fast tokenizer (tokenizer.json)", where=where)
        for message in messages:
            if not isinstance(message.get("role"), str) or "content" not in message:
                raise HydraHeadError("a message needs 'role' and 'content'", where=where)

    def _turn(self, messages: list[dict[str, Any]], index: int, where: str) -> tuple[str, _Span]:
        """The chat rendered up to and with turn `index`, and where in it the turn stands."""
        before = self._render(messages[:index], where, generation_prompt=True)
        through = self._render(messages[: index + 1], where)
        if not through.startswith(before):
            before = self._render(messages[:index], where)
        if not through.startswith(before):
            what = "the chat template renders an answer differently from the prompt it follows"
            raise HydraHeadError(what, where=where, mend="give the data as plain text")
        return through, (len(before), len(through))

    def _render(
        self, messages: list[dict[str, Any]], where: str, *, generation_prompt: bool = False
    ) -> str:
        if not messages:
            return ""
        try:
            return self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=generation_prompt
            )
        except Exception as error:  # templates are programs and raise what they like
            raise HydraHeadError(f"the chat template refuses it ({error})", where=where) from error

    def _document(self, text: str, spans: list[_Span]) -> Document:
        encoded = self._tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        starts = [offset[0] for offset in encoded["offset_mapping"]]
        mask = [any(start <= at < stop for start, stop in spans) for at in starts]
        return Document(ids=encoded["input_ids"], loss_mask=mask, splittable=False)
