"""`convert`: a teacher checkpoint and a plan become a hybrid, layer by layer.

Only one layer's attention and the shard being filled are in memory. Heads that keep their mixer are
the teacher's, byte for byte; replaced heads start from the teacher's projections, or from twins.
Everything about the input that headers and configuration tell is checked before the first byte is
written; NaN shows when a tensor is read, and leaves nothing behind either.
"""

import shutil
from pathlib import Path
from typing import cast

import torch

from hydrahead.core.artefacts import ArtefactWork, open_artefact
from hydrahead.core.errors import HydraHeadError
from hydrahead.core.jsonio import write_text
from hydrahead.core.progress import Progress
from hydrahead.core.seeds import derive_seed
from hydrahead.mixers.contract import HeadMixer, ParallelMixer
from hydrahead.model.attention import HydraAttention
from hydrahead.model.checkpoint import ShardWriter
from hydrahead.model.configuration import HydraConfig
from hydrahead.model.families.all_full import with_plan
from hydrahead.model.families.teacher import Teacher, open_teacher
from hydrahead.model.hub import resolve_model_dir
from hydrahead.plan.files import read_plan
from hydrahead.plan.head_plan import HeadPlan
from hydrahead.transfer.artefact_files import copy_companions
from hydrahead.transfer.calibrate import HeadSizes, measure_on_text
from hydrahead.transfer.model_card import model_card
from hydrahead.transfer.twins import Twins

KIND = "model"
ARCHITECTURE = "HydraForCausalLM"


def convert(
    model: str | Path,
    plan: HeadPlan | Path,
    out: Path,
    *,
    twins: Path | None = None,
    calibrate: Path | None = None,
    force: bool = False,
    seed: int = 0,
) -> Path:
    """Apply a plan to a teacher and write the hybrid's directory.

    Args:
        model: The teacher: a checkpoint of a known family (directory or Hugging Face name), or an
            all-full directory of ours.
        plan: A plan for exactly this geometry, or the file that holds one.
        out: The directory to make; a finished one of the same inputs is reused.
        twins: An all-linear hybrid whose mixers are taken where the plan wants the same ones.
        calibrate: A text file; the fusion scalars are measured on it. Loads the whole teacher.
        force: Replace an `out` made from other inputs.
        seed: For parameters that no teacher has and that start at random.

    Returns:
        `out`.

    Raises:
        HydraHeadError: anything wrong with the inputs, or a full disk; no artefact is left.
    """
    source = resolve_model_dir(model)
    teacher = open_teacher(source)
    chosen = plan if isinstance(plan, HeadPlan) else read_plan(plan)
    chosen = chosen.for_geometry(teacher.geometry, where=plan if isinstance(plan, Path) else None)
    held = None if twins is None else Twins(Path(twins))
    if held is not None:
        held.require(chosen)
    parents: dict[str, Path | str] = {"model": source}
    for name, path in (("plan", plan), ("twins", twins), ("calibrate", calibrate)):
        if isinstance(path, str | Path):
            parents[name] = Path(path)
    with open_artefact(
        out,
        kind=KIND,
        configuration={"plan": chosen.to_dict()},
        parents=parents,
        seed=seed,
        force=force,
    ) as work:
        if not work.reused:
            _require_space(work, teacher, out)
            sizes = None if calibrate is None else measure_on_text(source, Path(calibrate))
            _Conversion(teacher, chosen, held, sizes, seed).write(work)
            card = model_card(
                source.name if Path(model).is_dir() else str(model),
                chosen,
                teacher_card=source / "README.md",
                from_twins=held is not None,
            )
            write_text(work.directory / "README.md", card)
            copy_companions(source, work.directory)
    return Path(out)


class _Conversion:
    """One run of `convert`, after everything has been checked."""

    def __init__(
        self,
        teacher: Teacher,
        plan: HeadPlan,
        twins: Twins | None,
        sizes: HeadSizes | None,
        seed: int,
    ) -> None:
        self.teacher = teacher
        self.plan = plan
        self.twins = twins
        self.sizes = sizes
        self.seed = seed
        self.config = with_plan(teacher.config, plan)
        self.config.architectures = [ARCHITECTURE]
        self.config.fusion_calibrated = self._fusion_is_calibrated()

    def write(self, work: ArtefactWork) -> None:
        """Weights and config.json."""
        num_layers = self.config.num_hidden_layers
        shards = ShardWriter.resuming(work.directory, resumed=work.resumed)
        with shards as writer, Progress() as progress:
            if "outer" not in writer.done_groups:
                for name in self.teacher.outer_names():
                    writer.add(name, self.teacher.outer(name))
                writer.end_group("outer")
            for layer in progress.track(range(num_layers), total=num_layers, label="convert"):
                group = f"layer {layer}"
                if group not in writer.done_groups:
                    self._write_layer(layer, writer)
                    writer.end_group(group)
        self.config.save_pretrained(work.directory)

    def _write_layer(self, layer: int, writer: ShardWriter) -> None:
        attention = self._attention(layer)
        for name, parameter in attention.named_parameters():
            if not name.startswith("o_proj."):
                writer.add(f"model.layers.{layer}.self_attn.{name}", parameter)
        for name, tensor in self.teacher.rest(layer):
            writer.add(name, tensor)

    def _attention(self, layer: int) -> HydraAttention:
        attention = _new_attention(self.config, self.plan, layer, self.teacher.dtype, self.seed)
        heads = self.teacher.heads(layer)
        assignments = self.plan.layer_mixers(layer)
        mixers = cast(list[HeadMixer], list(attention.mixers))
        for mixer, assignment in zip(mixers, assignments, strict=True):
            twin = None if self.twins is None else self.twins.find(layer, assignment)
            if self.twins is not None and twin is not None:
                self.twins.fill(mixer, twin)
            else:
                mixer.init_from_teacher(heads.cut(assignment))
        self._fill_parallel(attention, layer)
        self._set_gamma(attention, layer)
        return attention

    def _fill_parallel(self, attention: HydraAttention, layer: int) -> None:
        """The teacher's own parallel mixers as they are; the plan's others start as nothing."""
        own = len(self.plan.geometry.parallel)
        prefix = f"model.layers.{layer}.self_attn."
        with torch.no_grad():
            for name, tensor in self.teacher.parallel(layer):
                attention.get_parameter(name.removeprefix(prefix)).copy_(tensor)
        for mixer in cast(list[ParallelMixer], list(attention.parallel)[own:]):
            mixer.init_beside_teacher()

    def _set_gamma(self, attention: HydraAttention, layer: int) -> None:
        fusion = attention.fusion
        if fusion is None:
            return
        measured = None if self.sizes is None else self.sizes.rms[layer]
        with torch.no_grad():
            for assignment in self.plan.layer_mixers(layer):
                slots = torch.tensor(assignment.q_slots)
                if not assignment.spec.normalise_output:
                    continue
                twin = None if self.twins is None else self.twins.find(layer, assignment)
                values = measured
                if values is None and self.twins is not None and twin is not None:
                    values = self.twins.gamma(layer)
                if values is not None:
                    fusion.gamma[slots] = values[slots]

    def _fusion_is_calibrated(self) -> bool:
        if self.sizes is not None:
            return True
        if self.twins is None or not self.twins.config.fusion_calibrated:
            return False
        return all(
            self.twins.find(layer, assignment) is not None
            for layer in range(self.plan.geometry.num_layers)
            for assignment in self.plan.layer_mixers(layer)
            if assignment.spec.normalise_output
        )


def _new_attention(
    config: HydraConfig, plan: HeadPlan, layer: int, dtype: torch.dtype, seed: int
) -> HydraAttention:
    """The layer's attention on the CPU; random starts depend on seed and layer alone."""
    before = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "convert", layer))
        torch.set_default_dtype(dtype)
        try:
            return HydraAttention(config, plan, layer)
        finally:
            torch.set_default_dtype(before)


def _require_space(work: ArtefactWork, teacher: Teacher, out: Path) -> None:
    """A disk that cannot hold the result is refused before hours of work, not at its end."""
    there = sum(path.stat().st_size for path in work.directory.glob("*.safetensors"))
    needed = teacher.reader.num_bytes() - there
    free = shutil.disk_usage(work.directory).free
    if free < needed:
        raise HydraHeadError(
            f"no space left: {needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free",
            where=out,
            mend="free some space, or choose another --out",
        )
