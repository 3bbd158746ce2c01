"""Where the matching loss hides what the value does: its error by jump, for several flow times.

    python -m tuned_configs.corner --data data/mpe/simple_spread/medium

Trains OM2P with the VDN critic once per distribution of flow times and prints, for jumps (r, t),
the mean squared error of u to its target. The critic judges the jump (0, 1) alone.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from rllib_om2p import OM2PConfig
from rllib_om2p.algorithms.om2p.networks import OM2PNetworks
from rllib_om2p.core.acting import JointPolicy
from rllib_om2p.core.learner import OfflineLearner
from rllib_om2p.envs.worlds import evaluate_team
from rllib_om2p.evaluation.provenance import provenance
from rllib_om2p.ops.mean_flow import conditional_velocity, interpolate, mean_flow_target
from tuned_configs.suites.footing import SPREAD, cpu_settings

JUMPS = ((0.0, 0.0), (0.0, 0.5), (0.0, 1.0), (0.5, 1.0), (0.9, 1.0))
DISTRIBUTIONS = {
    "uniform": (0.0, 0.0, 0.0, 0.0),
    "Beta(1/2, 1)": (-0.5, 0.0, 0.0, 0.0),
    "Beta(1/5, 1)": (-0.8, 0.0, 0.0, 0.0),
}
FIRST_SEED = 3_000_000
BATCH_SIZE = 2048


@torch.no_grad()
def errors(learner: OfflineLearner) -> dict[str, dict[str, float]]:
    """Return, by jump, the error of u to its target and the size of du/dr (first group)."""
    generator = torch.Generator().manual_seed(0)
    batch = learner._layout.view(*learner._table.sample(BATCH_SIZE, generator)).groups[0]
    networks = learner._networks
    assert isinstance(networks, OM2PNetworks)
    actor: Any = networks.actors[0]
    noise = torch.randn(batch.actions.shape, generator=generator)
    velocity = conditional_velocity(noise, batch.actions)
    found = {}
    for r_value, t_value in JUMPS:
        r = torch.full_like(noise[..., :1], r_value)
        t = torch.full_like(r, t_value)
        z = interpolate(noise, batch.actions, r)
        u, du = actor.forward_with_tangent(batch.obs, z, r, t, dz=velocity, dr=torch.ones_like(r))
        error = (u - mean_flow_target(velocity, du, r, t)).square().mean()
        found[f"({r_value:g}, {t_value:g})"] = {
            "error": float(error),
            "derivative_rms": float(du.square().mean().sqrt()),
        }
    return found


def main() -> None:
    """Train, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="a dataset's directory")
    parser.add_argument("--updates", type=int, default=4000)
    parser.add_argument("--eta", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/corner.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    record: dict[str, Any] = {"provenance": provenance(), "runs": {}}
    print("| flow times | return | " + " | ".join(f"error at {j}" for j in JUMPS) + " |")
    print("|---|---:|" + "---:|" * len(JUMPS))
    for name, xi in DISTRIBUTIONS.items():
        config = OM2PConfig().training(**cpu_settings(128, arguments.updates, lr=1e-3))
        config.training(**SPREAD.settings, eta=arguments.eta, critic="vdn", xi=xi)
        config.offline_data(input_=arguments.data).debugging(seed=arguments.seed)
        config.validate()
        learner = config.build_learner()
        learner.update(num_updates=arguments.updates)
        modules = {agent: learner.module[agent] for agent in config.dataset_spec.agent_ids}
        policy = JointPolicy(modules, seed=0)
        seeds = range(FIRST_SEED, FIRST_SEED + 300)
        score = float(evaluate_team(config.dataset_spec.env, policy, seeds).mean())
        by_jump = errors(learner)
        record["runs"][name] = {"return": score, "jumps": by_jump}
        cells = " | ".join(f"{entry['error']:.2f}" for entry in by_jump.values())
        print(f"| {name} | {score:.1f} | {cells} |", flush=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
