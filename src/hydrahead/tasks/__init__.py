"""Seeded sample generators: prompt, answer, evidence and counterfactual, in token ids.

Probes, training data and evaluation all use them. No torch here. Everything is generated from word
lists of our own with the model's own tokenizer; nothing is downloaded. `table.py` lists the tasks,
`build_task("niah_multikey:keys=4")` makes one.
"""

from hydrahead.tasks.codec import TextCodec, codec_from_tokenizer
from hydrahead.tasks.sample import Counterfactual, Sample, training_example
from hydrahead.tasks.table import SUITES, TASKS, build_task, suite_tasks

__all__ = [
    "SUITES",
    "TASKS",
    "Counterfactual",
    "Sample",
    "TextCodec",
    "build_task",
    "codec_from_tokenizer",
    "suite_tasks",
    "training_example",
]
