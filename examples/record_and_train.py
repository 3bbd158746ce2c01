"""Record what an RLlib algorithm plays while it learns, then train OM2P on the recording.

    python examples/record_and_train.py --iterations 20 --updates 2000 --out data/ppo

RLlib refuses to record multi-agent episodes; the Recorder does it for any multi-agent algorithm of
its new API stack, here PPO. The dataset holds every policy that PPO had on its way.
"""

from __future__ import annotations

import argparse

from ray.rllib.algorithms.ppo import PPOConfig

from rllib_om2p import Algorithm, OfflineDataset, OM2PConfig, Recorder, envs


def record(options: argparse.Namespace) -> None:
    """Train PPO on Cooperative Navigation and record what its env runners play."""
    envs.register()
    agents = envs.info("mpe/simple_spread").agent_ids
    config = (
        PPOConfig()
        .environment("mpe/simple_spread")
        .env_runners(num_env_runners=options.runners, num_envs_per_env_runner=4)
        .multi_agent(policies=set(agents), policy_mapping_fn=lambda agent, *args, **kwargs: agent)
        .training(train_batch_size=options.steps, minibatch_size=options.steps // 4)
        .training(num_epochs=4, lr=1e-3)
    )
    recorder = Recorder(options.out)
    algo = recorder.attach(config).build_algo()
    for number in range(1, options.iterations + 1):
        # RLlib sums over the agents; our team return is their mean.
        total = algo.train()["env_runners"].get("episode_return_mean", float("nan"))
        print(f"PPO iteration {number}: team return {total / len(agents):.1f}", flush=True)
    algo.stop()
    recorder.finish()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", default="data/ppo")
    parser.add_argument("--iterations", type=int, default=20, help="of PPO")
    parser.add_argument("--steps", type=int, default=4000, help="joint steps per PPO iteration")
    parser.add_argument("--runners", type=int, default=2, help="processes that play for PPO")
    parser.add_argument("--updates", type=int, default=2000, help="of OM2P")
    options = parser.parse_args()

    record(options)
    dataset = OfflineDataset.open(options.out)
    returns = dataset.statistics().team_return
    print(f"recorded: {dataset.num_episodes} episodes, team return {returns.mean:.1f}")

    config = (
        OM2PConfig()
        .offline_data(input_=options.out)
        .training(critic="vdn", value_from="path", advantage_temperature=0.5, eta=1.0)
        .training(actor_hidden=(64, 64), critic_hidden=(64, 64), lr=1e-2)
        .training(gamma=0.95, tau=0.01, num_updates_per_iteration=options.updates)
        .evaluation(evaluation_interval=1, evaluation_duration=20)
        .debugging(seed=0)
    )
    algo = Algorithm.from_config(config)
    result = algo.train()
    print(f"OM2P: team return {result['evaluation']['team_return_mean']:.1f}")
    algo.stop()


if __name__ == "__main__":
    main()
