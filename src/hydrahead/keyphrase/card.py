"""The model card of a trained tagger."""

from hydrahead.keyphrase.context import ALL
from hydrahead.keyphrase.fitting import FitResult
from hydrahead.keyphrase.modeling import KeyphraseModel


def model_card(model: KeyphraseModel, result: FitResult, encoder: str) -> str:
    """Markdown with the front matter Hugging Face reads."""
    config = model.config
    looks = {0: "nothing outside its window", ALL: "all other windows"}.get(
        config.neighbours, f"{config.neighbours} windows to each side"
    )
    scores = ", ".join(f"{name} {value:.3f}" for name, value in result.scores.items())
    share = 100 * model.added_parameters / model.encoder_parameters
    lines = [
        "---",
        "library_name: hydrahead",
        "pipeline_tag: token-classification",
        "tags: [keyphrase-extraction]",
        "---",
        "",
        f"# Keyphrases, on {encoder}",
        "",
        f"A BIO tagger with windows of {config.window_tokens} tokens; a window looks at {looks} "
        f"through static word vectors ({config.static_source}).",
        f"The expansion adds {model.added_parameters} parameters, {share:.3f} % of the encoder.",
        f"Best epoch {result.epoch} by validation F1@M. Validation: {scores}.",
        "",
        "```python",
        "from hydrahead.keyphrase import KeyphraseExtractor",
        "",
        'extractor = KeyphraseExtractor.from_pretrained("THIS_DIRECTORY")',
        'print(extractor(open("paper.txt").read(), top=10))',
        "```",
        "",
    ]
    return "\n".join(lines)
