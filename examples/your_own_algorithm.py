"""An algorithm of your own: a config, a loss, an Algorithm; the rest of the package comes with it.

    python examples/your_own_algorithm.py data/simple_spread-medium --out runs/mine

Advantage-weighted cloning (arXiv 2006.09359): imitate the data's actions, the better ones more.
All else is the package's. A loss sees agents of equal shape at once, as (agent, batch, feature).
"""

import argparse

import torch

from rllib_om2p import Algorithm
from rllib_om2p.core.deterministic import DeterministicConfig
from rllib_om2p.ops.averages import batch_mean


class WeightedLoss:
    """Squared distance to the data's actions, weighted by the exponent of their advantage."""

    def __init__(self, networks, temperature):
        self.networks, self.temperature = networks, temperature

    def draw(self, batch, generator):
        """Return what is random in the loss: nothing."""
        return ()

    def __call__(self, batch, draws):
        """Return a loss per agent, and what to log."""
        losses, weights, nets = [], [], self.networks
        for actor, critic, group in zip(nets.actors, nets.critics, batch.groups, strict=True):
            actions = actor(group.obs)
            with torch.no_grad():
                gain = critic(group.obs, group.actions) - critic(group.obs, actions)
                weight = torch.exp(gain.mean(0) / self.temperature).clamp(max=20.0)
            weights.append(batch_mean(weight, group.alive))  # over steps where the agent is there
            error = weight * (actions - group.actions).square().mean(-1)
            losses.append(batch_mean(error, group.alive))
        return torch.cat(losses), {"weight": torch.cat(weights)}


class WeightedConfig(DeterministicConfig):
    """Adds what is ours to a config that has deterministic actors and an ensemble of critics."""

    def __init__(self, algo_class=None):
        super().__init__(algo_class=algo_class or Weighted)
        self.temperature = 0.5  # to make it a setting: see training() of any config in algorithms/

    def build_phases(self, networks, layout):
        """Return the losses in the order of their steps."""
        actor = self.actor_phase(networks, WeightedLoss(networks, self.temperature))
        return [self.critic_phase(networks, layout), actor]


class Weighted(Algorithm):
    """What RLlib builds, and Tune starts from."""

    @classmethod
    def get_default_config(cls):
        """Return the defaults."""
        return WeightedConfig()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset")
    parser.add_argument("--out", default="runs/mine")
    parser.add_argument("--updates", type=int, default=1000)
    options = parser.parse_args()
    config = WeightedConfig().offline_data(input_=options.dataset)
    config.training(lr=1e-3, actor_hidden=(64, 64), critic_hidden=(64, 64))
    config.training(num_updates_per_iteration=options.updates)
    algo = config.evaluation(evaluation_interval=1, evaluation_duration=50).build_algo()
    print(f"team return {algo.train()['evaluation']['team_return_mean']:.1f}")
    print("saved:", algo.save_to_path(options.out))
    algo.stop()


if __name__ == "__main__":
    main()
