"""Settings of RLlib that would have no effect here, or another one than their name says: refused.

A setting that is silently ignored costs its user a search; the texts say what holds instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

from rllib_om2p.core.env_runner import TeamEnvRunner
from rllib_om2p.core.learner import OfflineLearner

if TYPE_CHECKING:
    from rllib_om2p.core.config import OfflineConfig

# Where they are set, the attribute, what holds instead.
_UNUSED = (
    ("training(minibatch_size=...)", "minibatch_size", "an update's batch is train_batch_size"),
    ("training(num_epochs=...)", "num_epochs", "num_updates_per_iteration counts the updates"),
    (
        "training(shuffle_batch_per_epoch=...)",
        "shuffle_batch_per_epoch",
        "every batch is drawn at random",
    ),
    ("training(optimizer=...)", "optimizer", "Adam with lr trains every network"),
    (
        "training(grad_clip_by=...)",
        "grad_clip_by",
        "grad_clip is the largest norm of each agent's whole network, as in 'global_norm'",
    ),
    (
        "learners(learner_connector=...)",
        "_learner_connector",
        "batches are drawn from a table of transitions, which build_phases' losses see as they are",
    ),
    (
        "rl_module(model_config=...)",
        "_model_config",
        "training() sets the networks, as in actor_hidden=(256, 256)",
    ),
    (
        "training(model=...)",
        "model",
        "training() sets the networks, as in actor_hidden=(256, 256)",
    ),
    (
        "multi_agent(algorithm_config_overrides_per_module=...)",
        "algorithm_config_overrides_per_module",
        "all agents train with the same settings",
    ),
    (
        "multi_agent(count_steps_by=...)",
        "count_steps_by",
        "training counts joint transitions, as 'env_steps' does",
    ),
    (
        "env_runners(num_env_runners=...)",
        "num_env_runners",
        "nothing is sampled while training; evaluation(evaluation_num_env_runners=...) plays",
    ),
    (
        "learners(num_aggregator_actors_per_learner=...)",
        "num_aggregator_actors_per_learner",
        "learners draw their batches themselves",
    ),
    (
        "reporting(min_sample_timesteps_per_iteration=...)",
        "min_sample_timesteps_per_iteration",
        "nothing is sampled, and an iteration would never end; min_train_timesteps_per_iteration "
        "or min_time_s_per_iteration",
    ),
    (
        "reporting(log_gradients=...)",
        "log_gradients",
        "losses and what they are made of are logged",
    ),
    (
        "framework(torch_compile_learner=...)",
        "torch_compile_learner",
        "training(torch_compile=True) compiles the losses",
    ),
    (
        "framework(torch_skip_nan_gradients=...)",
        "torch_skip_nan_gradients",
        "a loss that is not finite ends training",
    ),
    (
        "framework(torch_ddp_kwargs=...)",
        "torch_ddp_kwargs",
        "learners average their gradients without DDP",
    ),
    (
        "experimental(_torch_lr_scheduler_classes=...)",
        "_torch_lr_scheduler_classes",
        "lr takes a schedule, as in [[0, 1e-3], [10000, 1e-5]]",
    ),
    (
        "experimental(_torch_grad_scaler_class=...)",
        "_torch_grad_scaler_class",
        "bfloat16 needs no scaler",
    ),
)


def refuse_unused(config: OfflineConfig) -> None:
    """Check that a config sets nothing of RLlib that is not used here.

    Raises:
        ValueError: It does; the text says what holds instead.
    """
    _refuse_other_stacks(config)
    default = AlgorithmConfig()
    for call, name, instead in _UNUSED:
        if name == "num_env_runners" and config.in_evaluation:
            continue  # RLlib writes evaluation_num_env_runners there.
        if getattr(config, name) != getattr(default, name):
            raise ValueError(f"{call} has no effect here: {instead}. Remove it.")
    if config.normalize_actions:
        raise ValueError(
            "normalize_actions=True would stretch the agents' actions a second time: their modules "
            "answer in the environment's units. Remove it."
        )


def _refuse_other_stacks(config: OfflineConfig) -> None:
    if config.framework_str != "torch":
        raise ValueError(f"framework({config.framework_str!r}) is not there; there is torch.")
    if not (config.enable_rl_module_and_learner and config.enable_env_runner_and_connector_v2):
        raise ValueError("api_stack(...) must leave both parts of RLlib's new API stack enabled.")
    for call, given, base in (
        ("learners(learner_class=...)", config.learner_class, OfflineLearner),
        ("env_runners(env_runner_cls=...)", config.env_runner_cls, TeamEnvRunner),
    ):
        if not issubclass(given, base):
            raise ValueError(
                f"{call} must derive from {base.__module__}.{base.__name__}, got {given.__name__}."
            )
