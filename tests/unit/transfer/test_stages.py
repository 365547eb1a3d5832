import pytest

from hydrahead.core.errors import HydraHeadError
from hydrahead.transfer.stage_base import DistillConfig
from hydrahead.transfer.stages import STAGES, check_order, check_settings, load_stage


def test_the_stages_are_in_their_order():
    assert STAGES.names() == ("align", "distill", "extend")


@pytest.mark.parametrize(
    ("name", "tokens", "lr", "min_lr", "length"),
    [
        ("align", 320e6, 1e-3, 1e-5, 512),
        ("distill", 1e9, 1e-4, 1e-5, 512),
        ("extend", 1e9, 1e-5, 1e-5, 16_384),
    ],
)
def test_defaults_are_halos(name, tokens, lr, min_lr, length):
    settings = load_stage(name).defaults
    assert settings.num_steps * settings.tokens_per_step == pytest.approx(tokens, rel=0.06)
    assert settings.lr_at(settings.warmup_steps) == lr
    assert settings.lr_at(settings.num_steps - 1) == pytest.approx(min_lr)
    assert settings.length == length
    assert (settings.warmup_steps, settings.clip, settings.weight_decay) == (50, 1.0, 0.0)


@pytest.mark.parametrize(
    ("stages", "done"),
    [
        (["align"], []),
        (["align", "distill", "extend"], []),
        (["distill"], ["align"]),
        (["distill", "extend"], ["align", "distill"]),
        (["extend"], ["align"]),
    ],
)
def test_orders_that_make_sense(stages, done):
    assert check_order(stages, done) == tuple(stages)


@pytest.mark.parametrize(
    ("stages", "done", "message"),
    [
        ([], [], "no stage was named"),
        (["aline"], [], "did you mean 'align'"),
        (["distill", "align"], [], "'align' cannot come after 'distill'"),
        (["align", "align"], [], "'align' cannot come after 'align'"),
        (["align"], ["align", "distill"], "went through stage 'distill' already"),
    ],
)
def test_orders_that_do_not(stages, done, message):
    with pytest.raises(HydraHeadError, match=message):
        check_order(stages, done)


def test_settings_change_a_stages_defaults():
    config = DistillConfig(seed=4, train={"align": {"tokens": 1000, "lr": 5e-6}})
    settings = check_settings(config, ["align", "distill"])
    assert (settings["align"].tokens, settings["align"].steps) == (1000, None)
    assert settings["align"].min_lr == 5e-6, "the floor follows a rate below it"
    assert settings["align"].seed == 4
    assert settings["distill"].lr == 1e-4


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"aling": {}}, "did you mean 'align'"),
        ({"align": {"stepps": 1}}, "did you mean 'steps'"),
        ({"extend": {"steps": 1}}, "stage 'extend', which is not run"),
        ({"align": {"steps": 0}}, "steps"),
        ({"align": {"steps": 5, "tokens": 5}}, "exactly one of steps and tokens"),
    ],
)
def test_wrong_settings_are_named(train, message):
    with pytest.raises(HydraHeadError, match=message):
        check_settings(DistillConfig(train=train), ["align"])
