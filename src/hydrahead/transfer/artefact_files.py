"""The files beside the weights: tokenizer, chat template, generation settings, licence.

They are copied byte for byte; `config.json`, the weights and the model card are written anew.
"""

import shutil
from pathlib import Path

_COPIED = (
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "spiece.model",
    "sentencepiece*",
    "tekken.json",
    "*.tiktoken",
    "chat_template*",
    "additional_chat_templates",
    "generation_config.json",
    "LICENSE*",
    "LICENCE*",
    "NOTICE*",
    "USE_POLICY*",
)
_NEVER = (".safetensors", ".bin", ".pt", ".pth", ".py", ".index.json")


def copy_companions(source: Path, target: Path) -> list[str]:
    """Copy what a model needs besides config.json and weights; returns the names, sorted."""
    names = {path.name for pattern in _COPIED for path in source.glob(pattern)}
    copied = sorted(name for name in names if not name.endswith(_NEVER))
    for name in copied:
        path = source / name
        if path.is_dir():
            shutil.copytree(path, target / name, dirs_exist_ok=True, copy_function=shutil.copyfile)
        else:
            shutil.copyfile(path, target / name)
    return copied
