"""What all offline multi-agent algorithms have in common to configure.

The dataset names the agents, their order, spaces and the team's return; the config repeats none of
it. `validate` opens the dataset and fills RLlib's multi-agent settings from it.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import itertools
import logging
import numbers
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import gymnasium as gym
import numpy as np
import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided
from ray.rllib.policy.policy import PolicySpec
from ray.rllib.policy.sample_batch import DEFAULT_POLICY_ID
from ray.rllib.utils.annotations import override
from ray.rllib.utils.serialization import NOT_SERIALIZABLE
from ray.tune.search.sample import Categorical
from ray.util import log_once

from rllib_om2p import envs
from rllib_om2p.core.agent_groups import make_groups, make_teams
from rllib_om2p.core.agent_order import InAgentOrder
from rllib_om2p.core.env_runner import TeamEnvRunner
from rllib_om2p.core.environments import dataset_settings, require_environment
from rllib_om2p.core.fqe import FQESettings
from rllib_om2p.core.learner import OfflineLearner
from rllib_om2p.core.offline_data import OfflineMultiAgentData
from rllib_om2p.core.refusals import refuse_unused
from rllib_om2p.core.rl_module import ACTION_MASK, OBSERVATIONS
from rllib_om2p.core.settings import (
    ALL_METHODS,
    check_kinds,
    no_such_setting,
    setting_methods,
)
from rllib_om2p.core.shared_noise import TeamNoise
from rllib_om2p.data.reader import OfflineDataset
from rllib_om2p.data.schema import AgentSpec, DatasetSpec

if TYPE_CHECKING:
    from typing import Self

    from rllib_om2p.core.agent_groups import AgentGroup, RowLayout
    from rllib_om2p.core.phases import Networks, Phase

logger = logging.getLogger(__name__)

Precision = Literal["float32", "bfloat16"]
OnCorrupt = Literal["raise", "skip"]

# Of evaluation(): settings of RLlib's runners for logged episodes and of its estimators.
_OF_OTHER_EVALUATIONS = (
    "off_policy_estimation_methods",
    "ope_split_batch_by_episode",
    "offline_eval_runner_class",
    "offline_loss_for_module_fn",
    "offline_eval_batch_size_per_runner",
    "dataset_num_iters_per_offline_eval_runner",
    "offline_eval_rl_module_inference_only",
    "offline_evaluation_timeout_s",
    "num_cpus_per_offline_eval_runner",
    "num_gpus_per_offline_eval_runner",
    "custom_resources_per_offline_eval_runner",
    "ignore_offline_eval_runner_failures",
    "restart_failed_offline_eval_runners",
    "offline_eval_runner_health_probe_timeout_s",
    "offline_eval_runner_restore_timeout_s",
    "max_num_offline_eval_runner_restarts",
    "max_requests_in_flight_per_offline_eval_runner",
    "validate_offline_eval_runners_after_construction",
    "broadcast_offline_eval_runner_states",
)


def absolute(input_: Any) -> Any:
    """Return local paths (or globs) as absolute ones; URIs and "" stay as they are.

    So do Tune's searches, but for the paths that tune.choice and tune.grid_search list.
    """
    if isinstance(input_, (str, os.PathLike)):
        text = os.fspath(input_)
        return text if not text or "://" in text else os.path.abspath(os.path.expanduser(text))
    if isinstance(input_, (list, tuple)):
        return [absolute(path) for path in input_]
    if isinstance(input_, Mapping) and "grid_search" in input_:
        return {**input_, "grid_search": absolute(input_["grid_search"])}
    if isinstance(input_, Categorical):
        choice = copy.copy(input_)
        choice.categories = absolute(input_.categories)
        return choice
    return input_


def _is_whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def agent_is_module(agent_id: Any, *args: Any, **kwargs: Any) -> str:
    """Map every agent to the RLModule of its own name; environments may number their agents."""
    return str(agent_id)


def answer_for(function: Callable[..., Any], agent_id: str) -> Any:
    """Return what a function of RLlib's multi_agent() says of an agent, None if it needs more."""
    try:
        return function(agent_id, None)
    except Exception:  # the user's own, which may look at the episode
        return None


def observation_space(spec: DatasetSpec, agent: AgentSpec) -> gym.Space[Any]:
    """Return what an agent's module is given: its observation, with its legal actions if any."""
    box = gym.spaces.Box(-np.inf, np.inf, (agent.obs_dim,), np.float32)
    if not spec.has_action_masks or agent.num_actions is None:
        return box
    legal = gym.spaces.Box(0, 1, (agent.num_actions,), np.int8)
    return gym.spaces.Dict({OBSERVATIONS: box, ACTION_MASK: legal})


def action_space(agent: AgentSpec) -> gym.Space[Any]:
    """Return an agent's action space."""
    if agent.num_actions is not None:
        return gym.spaces.Discrete(agent.num_actions)
    low, high = (np.asarray(end, np.float32) for end in (agent.action_low, agent.action_high))
    return gym.spaces.Box(low, high)


def spaces_of(spec: DatasetSpec) -> tuple[gym.spaces.Dict, gym.spaces.Dict]:
    """Return the spaces of observations and of actions by agent."""
    obs = {agent.name: observation_space(spec, agent) for agent in spec.agents}
    return gym.spaces.Dict(obs), gym.spaces.Dict({a.name: action_space(a) for a in spec.agents})


@functools.cache
def _warn_once(text: str) -> None:
    """Log a warning; RLlib validates one config several times."""
    logger.warning(text)


class OfflineConfig(AlgorithmConfig):
    """Base of the configs; see the algorithm's own config for its hyperparameters.

    A subclass defines `build_networks` and `build_phases`, which are all that the learner knows of
    an algorithm, and `get_default_rl_module_spec`.

    Attributes:
        supports_discrete: Whether the algorithm's policies choose among discrete actions.
        divergence_remedy: What to say of a loss that diverges: settings that help, as a clause.
    """

    supports_discrete = False
    divergence_remedy = "Lower lr or set grad_clip"

    def __init__(self, algo_class: type | None = None) -> None:
        """Set the defaults that all algorithms share."""
        super().__init__(algo_class=algo_class)
        self._is_online = False
        self.framework_str = "torch"
        self.offline_data_class = OfflineMultiAgentData
        self.env_runner_cls = TeamEnvRunner
        self.input_ = ""
        self.explore = False
        # Modules act in the environment's own units; RLlib has nothing left to scale.
        self.normalize_actions = False
        self.clip_actions = False
        self.train_batch_size = 256
        self.lr = 3e-4
        self.gamma = 0.99
        self.tau = 0.005
        self.grad_clip = None
        self.num_updates_per_iteration = 1000
        self.normalize_observations = True
        self.standardize_rewards = True
        self.bootstrap_at_truncation = True
        self.holdout_fraction = 0.0
        self.fqe: Mapping[str, Any] = {}
        self.teams: dict[str, list[str]] | None = None
        self.table_memory_budget = None
        self.share_table: bool | None = None
        self.table_draws_per_transition = 4.0
        self.on_corrupt: OnCorrupt = "raise"
        self.torch_compile = False
        self.cuda_graph = False
        self.precision: Precision = "float32"
        self._dataset_spec: tuple[Any, str] | None = None
        # What the last validation took from a dataset: its spec; and environments with their
        # settings, as it found them and as it left them.
        self._filled_from: str | None = None
        self._filled_environment: tuple[Any, Any] | None = None

    @override(AlgorithmConfig)
    def training(
        self,
        *,
        tau: float | None = NotProvided,
        num_updates_per_iteration: int | None = NotProvided,
        torch_compile: bool | None = NotProvided,
        cuda_graph: bool | None = NotProvided,
        precision: Precision | None = NotProvided,
        **kwargs: Any,
    ) -> Self:
        """Set the training parameters that all algorithms share.

        RLlib's own apply too: `lr` (a number, or a schedule [[update, value], ...] interpolated
        between its points), `gamma`, `train_batch_size` (joint transitions per update over all
        learners together, default 256) or `train_batch_size_per_learner`, and `grad_clip` (the
        largest gradient norm of each agent's network on its own; None for no limit).

        Args:
            tau: Rate of target networks: target <- tau source + (1 - tau) target after every
                update (OM2P section 4; default 0.005).
            num_updates_per_iteration: Gradient updates per `Algorithm.train()` (default 1000).
            torch_compile: Compile the losses (default False), which on a CPU about halves an update
                of small networks and saves a fifth at 4 x 512. The first iteration takes up to half
                a minute longer, and some seconds where PyTorch finds on disk what an earlier run
                compiled. On a CPU it needs g++ and Python's headers.
            cuda_graph: Record the whole update as a CUDA graph and replay it (default False). On a
                GPU small networks wait for launches, of which this leaves one per update. Needs a
                single learner and the whole shard on the device; elsewhere it warns, and updates
                run as usual.
            precision: "float32" or "bfloat16" (products in bfloat16; weights, optimiser and losses
                stay float32).
            **kwargs: Passed to RLlib.
        """
        super().training(**kwargs)
        self._assign(
            tau=tau,
            num_updates_per_iteration=num_updates_per_iteration,
            torch_compile=torch_compile,
            cuda_graph=cuda_graph,
            precision=precision,
        )
        return self

    @override(AlgorithmConfig)
    def offline_data(
        self,
        *,
        input_: str | Sequence[str] = NotProvided,
        normalize_observations: bool | None = NotProvided,
        standardize_rewards: bool | None = NotProvided,
        bootstrap_at_truncation: bool | None = NotProvided,
        holdout_fraction: float | None = NotProvided,
        teams: Mapping[str, Sequence[str]] | None = NotProvided,
        table_memory_budget: int | None = NotProvided,
        share_table: bool | None = NotProvided,
        table_draws_per_transition: float | None = NotProvided,
        on_corrupt: OnCorrupt | None = NotProvided,
        **kwargs: Any,
    ) -> Self:
        """Set what to train on.

        Args:
            input_: A dataset's directory, file, list of files, glob, or a URI that pyarrow or
                fsspec reads (s3://, gs://, hf://); or Tune's choice among such. Local paths are
                made absolute here: Tune's workers run in other folders. What tune.sample_from
                returns must be absolute.
            normalize_observations: Centre and scale observations by the dataset's statistics
                (default True). The constants are stored in the modules.
            standardize_rewards: Centre and scale rewards by the dataset's statistics, per agent
                and for the team (default True). Where an episode can end for good they are scaled
                only: against centred rewards an end, worth 0, would count as an average future.
            bootstrap_at_truncation: Whether a time limit lets the value go on (default True).
                False treats it as the end, as the papers' code for MPE does, for the team and for
                an agent that is cut off before the others.
            holdout_fraction: Share of the episodes that is not trained on (default 0), the same
                ones for every seed and algorithm; for `evaluation(offline_evaluation_interval=1)`.
                They count in the statistics that normalise observations and rewards.
            teams: The agents of each team by its name, where agents have different aims, such as
                {"predators": ["agent_0", ...], "prey": ["prey"]}; each agent in one of them.
                A team's reward follows the dataset's convention over its members ("agent 0": the
                first of them, who must be there throughout), and a joint critic sums over them.
                Evaluations report `team_return_mean/TEAM`. None (default): all agents are one team.
            table_memory_budget: Bytes that one learner's transitions may take on its device. A
                larger shard passes through a rolling window of that size. None: no limit.
            share_table: Read the dataset once per node, into a file that all processes of the node
                map into their memory (see `core.shared_table`). None, the default: in Tune's
                trials. A table above the memory budget is never shared, nor one with
                `on_corrupt="skip"`, of which processes may leave out different parts.
            table_draws_per_transition: In the rolling window, how often each transition is drawn
                on average while it is there (default 4).
            on_corrupt: What to do with a row group that cannot be read while training, because its
                file has gone, is damaged or breaks the contract. "raise" (default): stop, naming
                file and row group. "skip": leave it out; the results count the row groups left
                out, as `num_row_groups_skipped`. When training starts the files must be whole.
            **kwargs: Passed to RLlib.

        Raises:
            ValueError: A setting of RLlib's single-agent data path, which is not used here.
        """
        for name in inspect.signature(super().offline_data).parameters:
            if kwargs.get(name) not in (None, NotProvided):
                raise ValueError(
                    f"offline_data({name}=...) belongs to RLlib's single-agent reader and writer, "
                    "which know no multi-agent episodes and are not used here; remove it. input_ "
                    "names its file system, as in s3://bucket/data; a Recorder records."
                )
        if input_ is not NotProvided:
            kwargs["input_"] = absolute(input_)
        super().offline_data(**kwargs)
        self._assign(
            normalize_observations=normalize_observations,
            standardize_rewards=standardize_rewards,
            bootstrap_at_truncation=bootstrap_at_truncation,
            holdout_fraction=holdout_fraction,
            teams={name: list(members) for name, members in teams.items()}
            if isinstance(teams, Mapping)
            else teams,
            table_memory_budget=table_memory_budget,
            share_table=share_table,
            table_draws_per_transition=table_draws_per_transition,
            on_corrupt=on_corrupt,
        )
        return self

    @override(AlgorithmConfig)
    def evaluation(
        self,
        *,
        offline_evaluation_type: Literal["fqe"] = NotProvided,
        num_offline_eval_runners: int = NotProvided,
        fqe: Mapping[str, Any] | None = NotProvided,
        **kwargs: Any,
    ) -> Self:
        """Set how policies are evaluated: by playing (as in RLlib), offline, or both.

        `evaluation_interval`, `evaluation_duration` and the like play in the environment. With
        `offline_evaluation_interval` N, every N-th iteration fits critics on the episodes that
        `offline_data(holdout_fraction=...)` keeps back and reports the team return that they expect
        as `evaluation/fqe_return`, and less by what they disagree `evaluation/fqe_return_lower`,
        which ranks policies better; no environment is needed.

        Args:
            offline_evaluation_type: "fqe", the only one here.
            num_offline_eval_runners: 0: it runs in the algorithm's own process.
            fqe: Settings of the critics that differ from `FQESettings`, such as
                {"num_updates": 500}.
            **kwargs: Passed to RLlib.

        Raises:
            ValueError: A type or runners of RLlib's single-agent offline evaluation.
        """
        for name, value in kwargs.items():
            if name in _OF_OTHER_EVALUATIONS and value not in (None, NotProvided, {}):
                raise ValueError(
                    f"evaluation({name}=...) belongs to RLlib's evaluation on single-agent "
                    "episodes, which is not used here; remove it. offline_evaluation_interval fits "
                    "critics on held-out episodes."
                )
        if offline_evaluation_type not in (NotProvided, "fqe"):
            raise ValueError(
                f"offline_evaluation_type must be 'fqe', got {offline_evaluation_type!r}; RLlib's "
                "own read single-agent episodes."
            )
        if num_offline_eval_runners not in (NotProvided, 0):
            raise ValueError(
                "num_offline_eval_runners must be 0: fitted Q evaluation runs in the algorithm's "
                f"own process; got {num_offline_eval_runners}."
            )
        super().evaluation(**kwargs)
        self._assign(fqe={} if fqe is None else fqe)
        return self

    @property
    def dataset_spec(self) -> DatasetSpec:
        """The dataset's description: agents, order, spaces, team return, environment."""
        if self._dataset_spec is None or self._dataset_spec[0] != self.input_:
            spec = OfflineDataset.open(self.input_).spec
            object.__setattr__(self, "_dataset_spec", (self.input_, spec.to_json()))
            return spec
        return DatasetSpec.from_json(self._dataset_spec[1])

    def learning_rate_at(self, num_updates: int) -> float:
        """Return the learning rate after `num_updates` updates."""
        if isinstance(self.lr, (int, float)):
            return float(self.lr)
        steps, values = zip(*self.lr, strict=True)
        return float(np.interp(num_updates, steps, values))

    @override(AlgorithmConfig)
    def validate(self) -> None:
        """Check the settings and fill RLlib's multi-agent settings from the dataset.

        Raises:
            ValueError: A setting has no meaning; the text says which and what to do.
        """
        self._require_algorithm()
        # RLlib would say, once, how to go back to its old API stack, on which nothing here runs.
        log_once(f"{self.algo_class.__name__}_on_new_api_stack")
        if self.in_evaluation and self.input_ == "sampler":
            raise ValueError(
                'evaluation_config={"input": "sampler"} is not needed: evaluation plays in the '
                "environment anyway. Remove it."
            )
        if not self.input_ or self.input_ == "sampler":
            raise ValueError(
                "no dataset: set .offline_data(input_=...) to a path or URI of recorded episodes "
                "(`rllib-om2p make-dataset mpe/simple_spread medium --out DIR` makes one)."
            )
        if not self._is_frozen:
            self.input_ = absolute(self.input_)  # as offline_data does; a dict may have set it
        if not isinstance(self.input_, (str, os.PathLike, list, tuple)):
            raise ValueError(
                f"input_ must be a path or a list of paths, got {self.input_!r}; only tune.Tuner "
                "draws from a search."
            )
        refuse_unused(self)
        self._check_names()
        self._check_kinds()
        self._check_positive("num_updates_per_iteration", "table_draws_per_transition")
        self._check_rates()
        self._check_one_of("precision", ("float32", "bfloat16"))
        self._check_one_of("on_corrupt", ("raise", "skip"))
        self._check_offline_evaluation()
        self._check_batch_size()
        if not self._is_frozen:
            self._check_policies()
            self._fill_from_dataset()
        super().validate()
        self._check_learning_rate()

    def build_networks(self, groups: Sequence[AgentGroup], generator: torch.Generator) -> Networks:
        """Return the algorithm's networks, stacked over each group's agents."""
        raise TypeError(f"{type(self).__name__} must define build_networks().")

    def build_phases(self, networks: Networks, layout: RowLayout) -> list[Phase]:
        """Return the algorithm's losses in the order in which they run in an update."""
        raise TypeError(f"{type(self).__name__} must define build_phases().")

    @override(AlgorithmConfig)
    def build_env_to_module_connector(self, *args: Any, **kwargs: Any) -> Any:
        """Return RLlib's pipeline, which asks the policies in the order of the agents.

        The same seed then gives the same noise, and evaluation the same returns, in every process.
        Policies whose team shares its noise are given it here.
        """
        pipeline = super().build_env_to_module_connector(*args, **kwargs)
        pipeline.append(InAgentOrder(self.dataset_spec.agent_ids))
        pipeline.append(TeamNoise())
        return pipeline

    @override(AlgorithmConfig)
    def build_algo(self, *args: Any, **kwargs: Any) -> Any:
        """Build the algorithm.

        Raises:
            ValueError: The config belongs to none.
        """
        self._require_algorithm()
        return super().build_algo(*args, **kwargs)

    def _require_algorithm(self) -> None:
        if self.algo_class is None:
            name = type(self).__name__
            raise ValueError(
                f"{name} names no Algorithm to build: write class Mine(rllib_om2p.Algorithm) with "
                f"get_default_config() -> {name}(), and hand it on in {name}.__init__: "
                "super().__init__(algo_class=algo_class or Mine)."
            )

    @property
    @override(AlgorithmConfig)
    def _model_config_auto_includes(self) -> dict[str, Any]:
        # What RLlib gives to module specs of the user's own that say nothing of their networks.
        return dict(self.get_default_rl_module_spec().model_config)

    @override(AlgorithmConfig)
    def get_default_learner_class(self) -> type[OfflineLearner]:
        """Return the one learner of all algorithms."""
        return OfflineLearner

    def _assign(self, **settings: Any) -> None:
        for name, value in settings.items():
            if value is not NotProvided:
                setattr(self, name, value)

    def _check_positive(self, *names: str) -> None:
        for name in names:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}.")

    def _check_not_negative(self, *names: str) -> None:
        for name in names:
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}.")

    def _check_sizes(self, *names: str) -> None:
        for name in names:
            if not all(size >= 1 for size in getattr(self, name)):
                raise ValueError(f"{name} must be sizes of at least 1, got {getattr(self, name)}.")

    def _check_one_of(self, name: str, allowed: Sequence[str]) -> None:
        if getattr(self, name) not in allowed:
            raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}.")

    def _warn_of_idle(self, *names: str, unless: bool, needs: str) -> None:
        """Say which of these settings were changed and do nothing, unless something else is set."""
        if unless:
            return
        defaults = type(self)()
        for name in names:
            if getattr(self, name) != getattr(defaults, name):
                _warn_once(f"{name}={getattr(self, name)!r} does nothing here; it needs {needs}.")

    def _check_names(self) -> None:
        """Refuse what a dictionary set and nobody reads, as Tune's search spaces may."""
        own = {*vars(type(self)()), *setting_methods(self, ALL_METHODS)}
        # RLlib writes a config's class beside its settings.
        known = {*own, *dir(type(self)), "class"}
        unknown = [name for name in vars(self) if name not in known and name[0] != "_"]
        if unknown:
            public = {name for name in own if name[0] != "_"}
            raise ValueError(no_such_setting(self, unknown[0], public))

    def _check_kinds(self) -> None:
        check_kinds(self)
        for name in ("lr", "gamma"):  # RLlib's, which may be None elsewhere
            if getattr(self, name) is None:
                raise ValueError(f"{name} must not be None.")

    def _check_batch_size(self) -> None:
        own, of_all = self._train_batch_size_per_learner, self.train_batch_size
        name, size = "train_batch_size_per_learner", own
        if own is None:
            name, size = "train_batch_size", of_all
        if not _is_whole(size) or size < 1:
            raise ValueError(f"{name} must be a positive whole number, got {size!r}.")
        if own is None and of_all % max(1, self.num_learners):
            raise ValueError(
                f"train_batch_size={of_all} does not divide by num_learners={self.num_learners}."
            )

    def _check_rates(self) -> None:
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"gamma must be in [0, 1], got {self.gamma}.")
        if not 0 < self.tau <= 1:
            raise ValueError(f"tau must be in (0, 1], got {self.tau}.")
        if self.grad_clip is not None and not self.grad_clip > 0:
            raise ValueError(
                f"grad_clip must be positive, or None for no limit, got {self.grad_clip}."
            )

    def _check_learning_rate(self) -> None:
        # After RLlib's own checks, which know the form of a schedule.
        rates = [self.lr] if isinstance(self.lr, (int, float)) else [rate for _, rate in self.lr]
        if not all(rate >= 0 for rate in rates):
            raise ValueError(f"lr must be at least 0, in a schedule everywhere, got {self.lr}.")
        if not isinstance(self.lr, (int, float)):
            steps = [step for step, _ in self.lr]
            if any(later < step for step, later in itertools.pairwise(steps)):
                raise ValueError(f"the steps of an lr schedule must not decrease, got {self.lr}.")

    def _check_policies(self) -> None:
        agent_ids = self.dataset_spec.agent_ids
        mapping, trained = self.policy_mapping_fn, self.policies_to_train
        # What serialize() makes of functions.
        if mapping == NOT_SERIALIZABLE:
            mapping = agent_is_module
        if trained == NOT_SERIALIZABLE:
            trained = None
        # Otherwise they are those of _fill_from_dataset.
        if mapping is not agent_is_module:
            is_own = mapping is not AlgorithmConfig.DEFAULT_POLICY_MAPPING_FN
            if set(self.policies) not in ({DEFAULT_POLICY_ID}, set(agent_ids)) or (
                is_own and any(answer_for(mapping, agent) != agent for agent in agent_ids)
            ):
                raise ValueError(
                    "multi_agent(policies=..., policy_mapping_fn=...) has no effect here: each "
                    f"agent of the dataset, {list(agent_ids)}, has the policy of its own name; got "
                    f"policies {sorted(self.policies)}. Remove it."
                )
        if callable(trained):
            trained = [agent for agent in agent_ids if answer_for(trained, agent)]
        if trained is not None and not set(agent_ids) <= set(trained):
            raise ValueError(
                "multi_agent(policies_to_train=...) has no effect here: all agents are trained, "
                f"{list(agent_ids)}; got {sorted(trained)}. Remove it."
            )

    def _check_offline_evaluation(self) -> None:
        if not 0 <= self.holdout_fraction < 1:
            raise ValueError(f"holdout_fraction must be in [0, 1), got {self.holdout_fraction}.")
        if not self.offline_evaluation_interval:
            return
        if not self.holdout_fraction:
            raise ValueError(
                "offline_evaluation_interval needs episodes that are not trained on; set "
                ".offline_data(holdout_fraction=0.1)."
            )
        if self.teams and len(self.teams) > 1:
            raise ValueError(
                f"fitted Q evaluation knows one team, got {list(self.teams)}; leave "
                "offline_evaluation_interval out and evaluate in the environment."
            )
        known = [field.name for field in dataclasses.fields(FQESettings)]
        if not set(self.fqe) <= set(known):
            raise ValueError(f"evaluation(fqe=...) takes {known}, got {list(self.fqe)}.")
        FQESettings(**self.fqe)

    def _check_spaces(self, *wanted: gym.spaces.Dict) -> None:
        before: tuple[Any, Any] = (None, None)
        if self._filled_from is not None:
            before = spaces_of(DatasetSpec.from_json(self._filled_from))
        for name, space, filled in zip(
            ("observation_space", "action_space"), wanted, before, strict=True
        ):
            given = getattr(self, name)
            if given is not None and given not in (space, filled):
                raise ValueError(
                    f"environment({name}=...) has no effect here: agents have the spaces of the "
                    f"dataset, {space}; got {given}. Remove it."
                )

    def _fill_environment(self, spec: DatasetSpec) -> None:
        """Take the dataset's environment and what its settings leave open, if no other is set."""
        given = self.get("env"), dict(self.get("env_config"))
        if self._filled_environment is not None and self._filled_environment[1] == given:
            given = self._filled_environment[0]  # perhaps of another dataset
        env, settings = given
        if env not in (None, spec.env):
            return
        if not set(spec.env_kwargs) <= set(settings):
            settings = dataset_settings(spec) | settings
        self._filled_environment = given, (spec.env, settings)
        self.env, self.env_config = spec.env, dict(settings)

    def _fill_from_dataset(self) -> None:
        spec = self.dataset_spec
        if not self.supports_discrete and any(agent.num_actions for agent in spec.agents):
            raise ValueError(
                f"{self.input_!r} has discrete actions, but {self.algo_class.__name__} acts in "
                "boxes only; choose an algorithm for discrete actions, such as OM2P."
            )
        make_teams(spec, make_groups(spec), self.teams)
        obs_spaces, action_spaces = spaces_of(spec)
        self._check_spaces(obs_spaces, action_spaces)
        self.observation_space, self.action_space = obs_spaces, action_spaces
        self._filled_from = spec.to_json()
        self.multi_agent(
            policies={
                name: PolicySpec(
                    observation_space=obs_spaces[name], action_space=action_spaces[name]
                )
                for name in spec.agent_ids
            },
            policy_mapping_fn=agent_is_module,
        )
        wants_env = bool(self.evaluation_interval or self.evaluation_num_env_runners)
        if wants_env and spec.env is not None:
            self._fill_environment(spec)
        if isinstance(self.env, str) and (wants_env or self.env in envs.names()):
            require_environment(self.env)
        duration = self.evaluation_duration
        if isinstance(duration, int):
            # RLlib averages over the last 100 episodes only, however many an evaluation runs.
            window = max(int(self.get("metrics_num_episodes_for_smoothing")), duration)
            self.reporting(metrics_num_episodes_for_smoothing=window)
