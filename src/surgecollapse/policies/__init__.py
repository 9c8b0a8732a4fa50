"""When to prune and regrow, how deep, and when to add noise: policies of host floats. Never imports torch."""

from __future__ import annotations

from surgecollapse.policies.acdc import ACDC
from surgecollapse.policies.cyclic_pruning import CyclicPruning
from surgecollapse.policies.cyclical_pruning import CyclicalPruning
from surgecollapse.policies.dynamic_sparse import Static
from surgecollapse.policies.endless_exchange import EndlessExchange
from surgecollapse.policies.entropy_cycles import EntropyCycles
from surgecollapse.policies.entropy_thresholds import EntropyThresholds
from surgecollapse.policies.feather import Feather
from surgecollapse.policies.fixed_interval import FixedInterval
from surgecollapse.policies.gradual_pruning import GradualPruning
from surgecollapse.policies.granet import GraNet
from surgecollapse.policies.idle_exchange import IdleExchange
from surgecollapse.policies.no_op import NoOp
from surgecollapse.policies.one_shot import OneShot
from surgecollapse.policies.recycling import Recycle
from surgecollapse.policies.registry import POLICIES, make_policy, policy
from surgecollapse.policies.rigl import RigL
from surgecollapse.policies.soft_threshold import SoftThreshold
from surgecollapse.policies.soft_threshold_entropy import SoftThresholdEntropy
from surgecollapse.policies.sparse_evolutionary import SET
from surgecollapse.policies.st3 import ST3
from surgecollapse.policies.straight_through import StraightThrough

__all__ = [
    "ACDC",
    "POLICIES",
    "SET",
    "ST3",
    "CyclicPruning",
    "CyclicalPruning",
    "EndlessExchange",
    "EntropyCycles",
    "EntropyThresholds",
    "Feather",
    "FixedInterval",
    "GraNet",
    "GradualPruning",
    "IdleExchange",
    "NoOp",
    "OneShot",
    "Recycle",
    "RigL",
    "SoftThreshold",
    "SoftThresholdEntropy",
    "Static",
    "StraightThrough",
    "make_policy",
    "policy",
]
