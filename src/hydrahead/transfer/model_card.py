"""The model card of a converted model: what it was made of, its plan, cost and use."""

import re
from pathlib import Path

from hydrahead.plan.head_plan import HeadPlan
from hydrahead.plan.specs.base import MixerSpec

_CONTEXTS = (8192, 32768, 131072, 1048576)
_LICENCE = re.compile(r"^(license(?:_name|_link)?|language):.*$", re.MULTILINE)


def model_card(teacher: str, plan: HeadPlan, *, teacher_card: Path, from_twins: bool) -> str:
    """Markdown with the front matter Hugging Face reads.

    Args:
        teacher: The teacher's name, as the user gave it.
        plan: The plan inside the model.
        teacher_card: The teacher's README.md, whose licence lines are kept; it may be missing.
        from_twins: Whether replaced heads start from aligned twins.
    """
    licence = _front_matter(teacher_card)
    start = "aligned twins" if from_twins else "the teacher's own projections"
    geometry = plan.geometry
    lines = [
        "---",
        "library_name: hydrahead",
        "pipeline_tag: text-generation",
        *licence,
        "---",
        "",
        f"# A HydraHead hybrid of {teacher}",
        "",
        f"Family {geometry.family}, {geometry.num_layers} layers of {geometry.num_q_heads} "
        f"q_heads and {geometry.num_kv_heads} kv_heads. A plan gives every {plan.unit} a mixer; "
        f"{100 * plan.full_fraction:.4g} % of the free {plan.unit}s stay full attention "
        f"(`full_fraction` {plan.full_fraction:.6g}).",
        f"Replaced heads start from {start}.",
        "",
        "| mixer | units | settings |",
        "| --- | ---: | --- |",
        *(_mixer_row(plan, spec) for spec in plan.distinct_specs()),
        "",
        "Memory for one sequence in bfloat16, in MiB:",
        "",
        "| context | keys and values | recurrent states | teacher |",
        "| ---: | ---: | ---: | ---: |",
        *_cost_rows(plan),
        "",
        "```python",
        "import hydrahead",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'model = AutoModelForCausalLM.from_pretrained("THIS_DIRECTORY")',
        'tokenizer = AutoTokenizer.from_pretrained("THIS_DIRECTORY")',
        "```",
        "",
    ]
    return "\n".join(lines)


def _front_matter(card: Path) -> list[str]:
    if not card.is_file():
        return []
    text = card.read_text(encoding="utf-8", errors="replace")
    parts = text.split("---", 2) if text.startswith("---") else []
    return [found.group(0) for found in _LICENCE.finditer(parts[1])] if len(parts) == 3 else []


def _mixer_row(plan: HeadPlan, spec: MixerSpec) -> str:
    count = sum((*layer.units, *layer.parallel).count(spec) for layer in plan.layers)
    settings = ", ".join(
        f"{name}={value}" for name, value in spec.model_dump().items() if name != "name"
    )
    return f"| {spec.name} | {count} | {settings} |"


def _cost_rows(plan: HeadPlan) -> list[str]:
    teacher = HeadPlan.all_full(plan.geometry, plan.unit)
    rows = []
    for context in _CONTEXTS:
        cost, full = plan.cost(context), teacher.cost(context)
        cells = (cost.kv_bytes, cost.state_bytes, full.kv_bytes)
        rows.append(f"| {context} | {' | '.join(_mib(cell) for cell in cells)} |")
    return rows


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / (1 << 20):.1f}"
