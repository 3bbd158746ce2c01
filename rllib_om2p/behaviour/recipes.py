"""What each environment's behaviour policies are trained with and aimed at; numbers only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class MATD3Recipe:
    """Model-free training of a team: one shared actor, one central twin critic.

    All steps are joint steps, counted over all worlds.

    Attributes:
        targets: Team return, acting WITH the collection noise, at which a quality's policy is kept.
        total_steps: Training ends here at the latest; it ends earlier once every target is reached.
        buffer_steps: Capacity of the replay buffer; when a target is reached it IS that quality's
            replay dataset.
        num_worlds: Worlds stepped together; one update follows each of their steps.
        uniform_steps: Uniformly random actions at first.
        noise_start: Standard deviation of the exploration noise at step 0.
        noise_end: The same from `noise_steps` on; also the collection noise of the datasets.
        noise_steps: Length of the linear anneal between them.
        check_every: Steps between evaluations.
        check_episodes: Episodes of one evaluation.
        tolerance: Largest relative distance of a kept policy's return from its target.
        actor_hidden: Sizes of the actor's ReLU layers.
        critic_hidden: Sizes of the critics' ReLU layers.
        learning_rate: Adam's, for actor and critics.
        max_grad_norm: Both gradients are clipped to this norm.
        batch_size: Joint transitions per update.
        gamma: Discount; the time limit bootstraps.
        tau: Polyak step of the target networks.
        policy_delay: Critic updates per actor update.
        target_noise: Standard deviation of the target policy's smoothing noise.
        target_noise_clip: Its bound.
        action_penalty: Weight of the squared action before its tanh, in the actor's loss.
        reward_scale: Multiplies the team reward inside the critic.
    """

    targets: Mapping[str, float]
    total_steps: int = 1_000_000
    buffer_steps: int = 100_000
    num_worlds: int = 16
    uniform_steps: int = 10_000
    noise_start: float = 0.3
    noise_end: float = 0.2
    noise_steps: int = 200_000
    check_every: int = 2_000
    check_episodes: int = 1_000
    tolerance: float = 0.01
    actor_hidden: tuple[int, ...] = (64, 64)
    critic_hidden: tuple[int, ...] = (128, 128)
    learning_rate: float = 1e-3
    max_grad_norm: float = 1.0
    batch_size: int = 256
    gamma: float = 0.95
    tau: float = 0.01
    policy_delay: int = 2
    target_noise: float = 0.2
    target_noise_clip: float = 0.5
    action_penalty: float = 1e-3
    reward_scale: float = 0.1


RECIPES: Mapping[str, MATD3Recipe] = {
    # Targets: mean returns of the papers' medium and expert datasets.
    "mpe/simple_spread": MATD3Recipe(targets={"medium": 273.0, "expert": 517.0}),
    # The papers' early buffers are nearly random: more random steps, and noise, at first.
    "mpe/simple_tag": MATD3Recipe(
        # Medium is passed within a few updates, so a narrow tolerance would miss it.
        targets={"medium": 116.0, "expert": 205.0},
        uniform_steps=30_000,
        noise_start=1.0,
        check_every=400,
        tolerance=0.1,
    ),
    "mpe/simple_world": MATD3Recipe(
        targets={"medium": 66.0, "expert": 82.0},
        uniform_steps=50_000,
        noise_start=0.8,
        check_every=800,
        tolerance=0.05,
    ),
}


REPLAY_STEPS: Mapping[str, int] = {
    "mpe/simple_spread": 97_500,
    "mpe/simple_tag": 62_500,
    "mpe/simple_world": 80_000,
}
"""Joint steps of the papers' medium-replay sets."""


def recipe(env: str) -> MATD3Recipe:
    """Return an environment's recipe.

    Raises:
        ValueError: There is none.
    """
    if env not in RECIPES:
        raise ValueError(f"No behaviour recipe for {env!r}; there is one for {[*RECIPES]}.")
    return RECIPES[env]
