"""`hydrahead allocate`, the verb; `cli.py` puts it in its place among the others."""

from hydrahead import cli_options as option
from hydrahead.cli_frame import Outcome, assignments, pick_device


def allocate(
    model: option.TeacherModel,
    out: option.Out,
    full_fraction: option.FullFraction = None,
    kv_bytes: option.KvBytes = None,
    pair: option.MixerPair = "full:window",
    scope: option.Scope = "global",
    unit: option.GateUnit = "kv_head",
    data: option.Data = "builtin",
    steps: option.Steps = 1000,
    length: option.GateLength = 512,
    twins: option.GateTwins = None,
    gates: option.GateForm = "hard_concrete",
    train_weights: option.TrainWeights = False,
    settings: option.Settings = None,
    device: option.Device = "auto",
    dtype: option.TrainDtype = "float32",
    batch_size: option.BatchSize = 8,
    seed: option.Seed = 0,
    force: option.Force = False,
    json: option.Json = False,
) -> Outcome:
    """Learn which heads keep full attention, within a budget.

    Gates are trained, the weights are not unless asked for. The plan is OUT/plan.json.
    """
    from hydrahead.cli_inspect import inspect_anything
    from hydrahead.core.jsonio import validate
    from hydrahead.plan.budget import parse_kv_bytes
    from hydrahead.transfer.allocation import AllocateConfig
    from hydrahead.transfer.allocation import allocate as learn

    config = {
        "steps": steps,
        "length": length,
        "batch_size": batch_size,
        "gates": gates,
        "train_weights": train_weights,
        "device": pick_device(device),
        "dtype": dtype,
        "seed": seed,
        **assignments(settings),
    }
    learn(
        model,
        data=data,
        out=out,
        full_fraction=full_fraction,
        kv_bytes=None if kv_bytes is None else parse_kv_bytes(kv_bytes),
        pair=pair,
        scope=scope,
        unit=unit,
        twins=twins,
        config=validate(AllocateConfig, config, where="settings"),
        force=force,
    )
    shown = inspect_anything(str(out))
    return Outcome(data={"out": str(out), **shown.data}, lines=[*shown.lines, f"wrote {out}"])
