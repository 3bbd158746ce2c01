"""How strong a prey is: the return that one predator recipe (MATD3) reaches against it.

    python -m tuned_configs.prey_strength mpe/simple_tag --prey own prey_simple_tag.pt --seeds 0 1

Prints, for each prey, the return of random predators, of predators that run straight at it, and of
trained ones without noise after given joint steps, over episodes from the same start states.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rllib_om2p.behaviour.policies import one_torch_thread
from rllib_om2p.behaviour.recipes import recipe
from rllib_om2p.behaviour.training import Training
from rllib_om2p.envs.prey import describe_prey, load_prey
from rllib_om2p.envs.rollout import ActFn, evaluate_policy
from rllib_om2p.evaluation.provenance import provenance

FIRST_SEED = 4_000_000
NUM_EPISODES = 1_000
# Where the prey's offset ends, counted from the end: its velocity follows, and two forests.
AFTER_THE_PREY = {"mpe/simple_tag": 2, "mpe/simple_world": 4}


def straight_chase(env: str) -> ActFn:
    """Return predators that run straight at the prey."""

    def act(obs: NDArray[Any]) -> NDArray[Any]:
        end = obs.shape[-1] - AFTER_THE_PREY[env]
        offsets = obs[..., end - 2 : end]
        return offsets / np.linalg.norm(offsets, axis=-1, keepdims=True)

    return act


def random_actions(seed: int) -> ActFn:
    """Return uniformly random predators."""
    generator = np.random.default_rng(seed)
    return lambda obs: generator.uniform(-1.0, 1.0, (*obs.shape[:2], 2))


def strength(env: str, file: str, seeds: list[int], steps: list[int]) -> dict[str, Any]:
    """Return what random, straight and trained predators make of one prey ("own" or a file)."""
    prey = load_prey(env, None if file == "own" else file)
    assert prey is not None

    def measure(act: ActFn) -> float:
        starts = range(FIRST_SEED, FIRST_SEED + NUM_EPISODES)
        return round(float(evaluate_policy(env, act, starts, prey=prey).mean()), 1)

    trained = []
    # The recipe with the default exploration: the longer random phase of the datasets' recipe
    # only shapes the replay buffer.
    settings = dataclasses.replace(recipe(env), uniform_steps=10_000, noise_start=0.3)
    for seed in seeds:
        training = Training(env, seed=seed, settings=settings, prey=prey)
        returns = {}
        with one_torch_thread():
            for goal in sorted(steps):
                while training.num_steps < goal:
                    training.run_round()
                returns[goal] = measure(training.policy().act)
        trained.append({"seed": seed, "returns": returns})
        print(file, trained[-1], flush=True)
    return {
        "prey": describe_prey(prey),
        "random": measure(random_actions(0)),
        "straight": measure(straight_chase(env)),
        "trained": trained,
    }


def main() -> None:
    """Measure every prey and print or write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("env", choices=[*AFTER_THE_PREY])
    parser.add_argument("--prey", nargs="+", default=["own"], help='files, or "own"')
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", nargs="+", type=int, default=[60_000, 100_000, 140_000])
    parser.add_argument("--out", help="JSON file")
    options = parser.parse_args()
    found = {
        "env": options.env,
        "preys": [strength(options.env, f, options.seeds, options.steps) for f in options.prey],
        "provenance": provenance(),
    }
    text = json.dumps(found, indent=1)
    print(text)
    if options.out:
        Path(options.out).write_text(text + "\n")


if __name__ == "__main__":
    main()
