"""Constants of the papers' particle tasks, shared by the two simulators; knows nothing else."""

from __future__ import annotations

MAX_CYCLES = 25
"""Steps of one episode."""

FORCE_GAIN = 5.0
"""Multiplier of the 2-D action for agents without an acceleration of their own."""

NEAREST_REWARD_CAP = 10.0
"""Cooperative Navigation: upper bound of 1 / distance of a landmark's nearest agent."""

COLLISION_PENALTY = 5.0
"""Cooperative Navigation: subtracted per own collision."""
