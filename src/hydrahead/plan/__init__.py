"""Which head runs which mixer, what that costs, and how scores become a plan. No torch."""

from hydrahead.plan.files import read_plan, write_plan
from hydrahead.plan.geometry import ModelGeometry
from hydrahead.plan.head_plan import HeadPlan, LayerPlan
from hydrahead.plan.make import make_plan
from hydrahead.plan.planned import PlannedResult
from hydrahead.plan.policies import POLICIES
from hydrahead.plan.presets import PRESETS
from hydrahead.plan.scores import HeadScores, random_scores
from hydrahead.plan.table import MIXERS, spec_from_dict

__all__ = [
    "MIXERS",
    "POLICIES",
    "PRESETS",
    "HeadPlan",
    "HeadScores",
    "LayerPlan",
    "ModelGeometry",
    "PlannedResult",
    "make_plan",
    "random_scores",
    "read_plan",
    "spec_from_dict",
    "write_plan",
]
