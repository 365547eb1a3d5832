"""The options of the command line, in the order of the path from a checkpoint to a report."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

MODEL = "a model directory, or a Hugging Face name"
Out = Annotated[Path, Option(metavar="DIR", help="What to make; finished work there is reused.")]
Force = Annotated[bool, Option("--force", help="Replace an artefact of other settings.")]
Json = Annotated[bool, Option("--json", help="Print the result as one JSON object.")]
Device = Annotated[
    str, Option(metavar="NAME", help="cpu, cuda, cuda:1; auto takes cuda if there is one.")
]
Dtype = Annotated[str, Option(metavar="NAME", help="float32, bfloat16 or float16.")]
TrainDtype = Annotated[str, Option("--dtype", metavar="NAME", help="float32 or bfloat16.")]
BatchSize = Annotated[int, Option(metavar="N", min=1, help="Sequences run at once.")]
Seed = Annotated[int, Option(metavar="N", help="Of everything that is random.")]
Settings = Annotated[
    list[str] | None,
    Option("--set", metavar="KEY=VALUE", help="One more setting; may be repeated."),
]

TeacherModel = Annotated[str, Argument(metavar="MODEL", help=f"The teacher: {MODEL}.")]
Method = Annotated[
    str, Option(metavar="NAME", help="counterfactual, retrieval, substitution or random.")
]
Twins = Annotated[
    Path | None, Option(metavar="DIR", help="Aligned all-linear hybrid; for substitution.")
]
Pairs = Annotated[int | None, Option(metavar="N", min=1, help="Samples per probe.")]
Length = Annotated[int | None, Option(metavar="N", help="Tokens per sample.")]
ScoresDir = Annotated[Path, Argument(metavar="SCORES", help="What score wrote.")]
PlanOut = Annotated[Path, Option(metavar="FILE", help="The plan, for example plan.json.")]
FullFraction = Annotated[
    float | None, Option(metavar="SHARE", help="Units that stay full attention, 0 to 1.")
]
KvBytes = Annotated[
    str | None, Option(metavar="N@CONTEXT", help="Or a budget of bytes: 256M@128K.")
]
Policy = Annotated[
    str, Option(metavar="NAME", help="global_top, constrained_top, per_layer_top or layerwise.")
]
UnitName = Annotated[str, Option(metavar="UNIT", help="What is given away: kv_head or q_head.")]
Linear = Annotated[
    str, Option(metavar="MIXER", help="Of the rest: lightning, window:window=128,sinks=4.")
]
Preset = Annotated[str, Option(metavar="NAME", help="plain or paper.")]
MinPerLayer = Annotated[
    int | None, Option(metavar="N", help="Full units per layer at least; for constrained_top.")
]
PlanFile = Annotated[Path, Argument(metavar="PLAN", help="What plan wrote.")]
TwinsForConvert = Annotated[
    Path | None, Option(metavar="DIR", help="Aligned all-linear hybrid to take linear heads from.")
]
Calibrate = Annotated[
    Path | None, Option(metavar="TEXT", help="Text file to set the fusion scalars on.")
]
FullHybrid = Annotated[Path, Argument(metavar="DIR", help="An all-full hybrid.")]
Hybrid = Annotated[Path, Argument(metavar="DIR", help="What convert or distill wrote.")]
Teacher = Annotated[str | None, Option(metavar="MODEL", help="What it was converted from.")]
Data = Annotated[
    str, Option(metavar="SOURCE", help="builtin, a text file, folder, JSONL, or hf:NAME.")
]
Stages = Annotated[str, Option(metavar="LIST", help="Any of align,distill,extend.")]
AlignTarget = Annotated[
    str, Option(metavar="PLACE", help="Where align compares: output, or heads (for twins).")
]
RowLength = Annotated[
    int | None, Option(metavar="N", min=1, help="Tokens per row, in every stage.")
]
RowBatch = Annotated[int | None, Option(metavar="N", min=1, help="Rows run at once.")]
MixerPair = Annotated[
    str, Option(metavar="A:B", help="What gates choose between: full:window:window=128,sinks=0.")
]
Scope = Annotated[
    str, Option(metavar="NAME", help="Who meets the budget: global, or layer (every one).")
]
GateUnit = Annotated[str, Option(metavar="UNIT", help="What has a gate: kv_head or layer.")]
GateForm = Annotated[
    str, Option(metavar="NAME", help="hard_concrete (ConSA) or l1 (DuoAttention).")
]
GateTwins = Annotated[
    Path | None, Option(metavar="DIR", help="Aligned twins, where a mixer of the pair is linear.")
]
Steps = Annotated[int, Option(metavar="N", min=1, help="Of training the gates.")]
GateLength = Annotated[int, Option(metavar="N", min=2, help="Tokens per row.")]
TrainWeights = Annotated[
    bool, Option("--train-weights", help="Train weights too; writes them to OUT/model.")
]
Models = Annotated[list[str], Argument(metavar="MODEL", help=f"Each {MODEL}.")]
Suite = Annotated[str | None, Option(metavar="LIST", help="Any of niah,ruler,mqar,general.")]
Tasks = Annotated[
    str | None, Option(metavar="LIST", help="Or tasks: niah_single,niah_multikey:keys=2.")
]
Lengths = Annotated[str, Option(metavar="LIST", help="Tokens, prompt and answer together.")]
Samples = Annotated[int, Option(metavar="N", min=1, help="Per task and length.")]
Depths = Annotated[
    str | None, Option(metavar="LIST", help="Where answers lie, 0 (start) to 1 (end).")
]
PerplexityText = Annotated[
    str | None, Option(metavar="SOURCE", help="Text for the loss by position: builtin, a file.")
]
Artefacts = Annotated[
    list[Path], Argument(metavar="DIR", help="Evaluations, scores, plans, hybrids.")
]
ReportOut = Annotated[Path, Option(metavar="FILE", help="The page.")]
AnyModel = Annotated[str, Argument(metavar="MODEL", help=f"The model: {MODEL}.")]
Prompt = Annotated[str | None, Option(metavar="TEXT", help="What to go on from.")]
PromptFile = Annotated[Path | None, Option(metavar="FILE", help="Or a file that holds it.")]
Chat = Annotated[bool, Option("--chat", help="Put it into the chat template.")]
MaxNewTokens = Annotated[int, Option(metavar="N", min=1, help="Stop after so many.")]
Temperature = Annotated[float, Option(metavar="T", min=0, help="0 takes the likeliest token.")]
TopP = Annotated[float, Option(metavar="P", min=0, max=1, help="Sample from so much mass.")]
AllowLong = Annotated[bool, Option("--allow-long", help="Go beyond the model's context.")]
Anything = Annotated[str, Argument(metavar="ANY", help=f"Any artefact, or {MODEL}.")]
Recipe = Annotated[
    str,
    Argument(
        metavar="RECIPE",
        help="demo, learned_window, seven_to_one; from scratch: small_teacher, falcon_h1_small, "
        "falcon_h1_tiny.",
    ),
]
RecipeDevice = Annotated[
    str | None,
    Option("--device", metavar="NAME", help="Where to run; the recipe's own if left out."),
]
RecipeSeed = Annotated[
    int | None, Option("--seed", metavar="N", help="The recipe's own if left out.")
]
