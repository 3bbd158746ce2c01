"""The papers' particle tasks as PettingZoo environments; knows mpe2, not RLlib and not the data.

The simulator of the OMAR and OM2P papers is an older fork of the particle environments. It differs
from stock mpe2 in three ways, and each is overridden here and nothing else:

- dynamics: the velocity is updated first and the position moves with the NEW velocity; a force is
  multiplied by `accel` once more where a task sets `accel`;
- actions: a 2-D force in [-1, 1]^2 in place of five numbers in [0, 1];
- rewards: the scenario's own (see `SimpleSpread.reward`).

An episode is never terminated; it is truncated after `max_cycles` steps (25 in the papers).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
from gymnasium import spaces
from mpe2._mpe_utils.core import Agent, Landmark, World
from mpe2._mpe_utils.scenario import BaseScenario
from mpe2._mpe_utils.simple_env import SimpleEnv
from mpe2.simple_spread import simple_spread
from pettingzoo.utils.conversions import aec_to_parallel_wrapper
from pettingzoo.utils.wrappers import OrderEnforcingWrapper

from rllib_om2p.envs.paper_constants import (
    COLLISION_PENALTY,
    FORCE_GAIN,
    MAX_CYCLES,
    NEAREST_REWARD_CAP,
)

# Half the width of the drawn world; entities start within 1.
_SIGHT = 1.3


class PaperWorld(World):
    """mpe2's world with the papers' force gain and integration order."""

    def apply_action_force(self, p_force: list[Any]) -> list[Any]:
        """Return the forces with each agent's action, times `accel` where the agent has one."""
        for i, agent in enumerate(self.agents):
            if agent.movable:
                # The action already carries one factor of `accel` (see `_set_action`).
                p_force[i] = agent.action.u * (1.0 if agent.accel is None else agent.accel)
        return p_force

    def integrate_state(self, p_force: list[Any]) -> None:
        """Update each velocity (damp, push, limit), then move with the new velocity."""
        for entity, force in zip(self.entities, p_force, strict=True):
            if not entity.movable:
                continue
            velocity = entity.state.p_vel * (1 - self.damping)
            if force is not None:
                velocity = velocity + force / entity.mass * self.dt
            if entity.max_speed is not None:
                speed = np.sqrt(np.sum(np.square(velocity)))
                if speed > entity.max_speed:
                    velocity = velocity / speed * entity.max_speed
            entity.state.p_vel = velocity
            entity.state.p_pos = entity.state.p_pos + velocity * self.dt


def with_paper_dynamics(world: World) -> PaperWorld:
    """Return a world that holds the same agents, landmarks and constants as `world`."""
    paper_world = PaperWorld()
    paper_world.__dict__.update(vars(world))
    return paper_world


class SimpleSpread(simple_spread.Scenario):
    """Cooperative Navigation: cover the landmarks, do not touch each other."""

    def make_world(self, N: int = 3) -> Any:  # noqa: N803 (mpe2's name)
        """Return mpe2's world of N agents and N landmarks under the papers' dynamics."""
        return with_paper_dynamics(super().make_world(N))

    def reward(self, agent: Agent, world: World) -> float:
        """Return the agent's reward.

        Sum over landmarks of min(1 / distance of the nearest agent, 10), shared by all agents,
        minus 5 for each other agent that this agent touches.
        """
        covered = 0.0
        for landmark in world.landmarks:
            offsets = [other.state.p_pos - landmark.state.p_pos for other in world.agents]
            nearest = min(np.sqrt(np.sum(np.square(offset))) for offset in offsets)
            covered += 1 / max(nearest, 1 / NEAREST_REWARD_CAP)
        collisions = sum(
            self.is_collision(other, agent) for other in world.agents if other is not agent
        )
        return float(covered - COLLISION_PENALTY * collisions)


SCENARIOS: Mapping[str, Callable[[], BaseScenario]] = {"simple_spread": SimpleSpread}
"""Tasks by name; each is one scenario."""


class PaperMPE(SimpleEnv):
    """mpe2's SimpleEnv with 2-D actions; what `unwrapped` gives."""

    def __init__(
        self,
        scenario: BaseScenario,
        *,
        max_cycles: int = MAX_CYCLES,
        render_mode: str | None = None,
        dynamic_rescaling: bool = True,
    ) -> None:
        super().__init__(
            scenario=scenario,
            world=scenario.make_world(),
            max_cycles=max_cycles,
            render_mode=render_mode,
            continuous_actions=True,
            dynamic_rescaling=dynamic_rescaling,
        )
        # RLlib writes into the metadata of its environments; the class's dict is shared by all.
        self.metadata: dict[str, Any] = {**SimpleEnv.metadata}
        self.action_spaces = {
            name: spaces.Box(-1.0, 1.0, (self.world.dim_p,), np.float32)
            for name in self.possible_agents
        }

    def _set_action(
        self, action: Any, agent: Agent, action_space: spaces.Space, time: Any = None
    ) -> None:
        force = np.asarray(action[0], dtype=np.float64)
        if force.shape != (self.world.dim_p,) or not np.isfinite(force).all():
            raise ValueError(
                f"The action of {agent.name} must be {self.world.dim_p} finite numbers, got "
                f"{action[0]!r}."
            )
        gain = FORCE_GAIN if agent.accel is None else agent.accel
        agent.action.u = np.clip(force, -1.0, 1.0) * gain
        agent.action.c = np.zeros(self.world.dim_c)

    def draw(self) -> None:
        """Draw with a camera that stands still while everybody stays in its sight.

        mpe2 zooms each frame to the outermost agent or landmark, so that landmarks seem to move.
        """
        corner = Landmark()
        corner.size = 0.0
        corner.color = np.zeros(3)
        corner.state.p_pos = np.full(self.world.dim_p, _SIGHT)
        self.world.landmarks.append(corner)
        try:
            super().draw()
        finally:
            self.world.landmarks.pop()


class PaperMPEParallel(aec_to_parallel_wrapper):
    """PettingZoo's parallel view of `PaperMPE`, with plain dicts and checked actions."""

    def step(self, actions: Mapping[str, Any]) -> Any:
        """Advance one step; `actions` must hold exactly the live agents."""
        if set(actions) != set(self.agents):
            raise ValueError(
                f"Expected one action for each of {self.agents}, got {sorted(actions)}"
                + ("." if self.agents else "; the episode is over, call reset().")
            )
        obs, rewards, terminateds, truncateds, infos = super().step(actions)
        return obs, dict(rewards), terminateds, truncateds, infos


def make_mpe(task: str, **kwargs: Any) -> PaperMPEParallel:
    """Return a task as a PettingZoo ParallelEnv whose `unwrapped` is the mpe2 environment.

    Args:
        task: A key of `SCENARIOS`.
        kwargs: `max_cycles`, `render_mode` ("rgb_array", "human") and `dynamic_rescaling`, as in
            mpe2.
    """
    env = PaperMPE(SCENARIOS[task](), **kwargs)
    env.metadata["name"] = task
    return PaperMPEParallel(OrderEnforcingWrapper(cast(Any, env)))
