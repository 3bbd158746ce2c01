"""How the project's own datasets are made: recipes, training, policies and rollouts."""

from __future__ import annotations

from rllib_om2p.behaviour.making import make_behaviour
from rllib_om2p.behaviour.rollout import QUALITIES, make_dataset, reroll

__all__ = ["QUALITIES", "make_behaviour", "make_dataset", "reroll"]
