"""The Algorithm that all offline multi-agent algorithms are: one training_step, whole checkpoints.

Works without an environment (training) and with one (evaluation by RLlib's env runners). What
RLlib 2.60.0 gets wrong for algorithms that are offline only is overridden here, each with its
place in ray/rllib.
"""

from __future__ import annotations

import copy
import logging
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.rllib.algorithms.algorithm import Algorithm as RLlibAlgorithm
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.callbacks.utils import make_callback
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_LEARNER_GROUP, COMPONENT_RL_MODULE
from ray.rllib.env import INPUT_ENV_SINGLE_SPACES
from ray.rllib.utils import force_list
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    EVALUATION_RESULTS,
    LEARNER_RESULTS,
    LEARNER_UPDATE_TIMER,
    OFFLINE_EVALUATION_ITERATION_TIMER,
    TIMERS,
)

from rllib_om2p.core.checkpoint import (
    has_learner,
    locate,
    read_marker,
    require_dataset,
    require_learner,
    standing,
    write_elsewhere,
    write_whole,
)
from rllib_om2p.core.config import OfflineConfig, action_space, observation_space
from rllib_om2p.core.env_runner import TEAM_RETURN_MEAN, teams_returns
from rllib_om2p.core.environments import check_action_box, describe_spaces, scale_of
from rllib_om2p.core.fqe import FQESettings, fqe_return
from rllib_om2p.core.held_out import HeldOut
from rllib_om2p.core.ranks import call_learners, raise_errors, require_resources
from rllib_om2p.evaluation.scores import normalised_score

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyarrow.fs import FileSystem
    from ray.rllib.core.rl_module.rl_module import RLModule
    from ray.rllib.env.env_runner_group import EnvRunnerGroup

logger = logging.getLogger(__name__)

FQE_RETURN = "fqe_return"
FQE_RETURN_LOWER = "fqe_return_lower"
NORMALIZED_SCORE = "normalized_score"


class _TeamReturn(RLlibCallback):  # type: ignore[misc]
    """Adds the team's return to what `evaluate` returns, before the config's callbacks see it."""

    def on_evaluate_end(
        self, *, algorithm: Algorithm, evaluation_metrics: dict[str, Any], **kwargs: Any
    ) -> None:
        evaluation_metrics.update(algorithm._team_results(evaluation_metrics))


class Algorithm(RLlibAlgorithm):
    """Base of the offline multi-agent algorithms.

    `Algorithm.from_config(config)` builds the algorithm that a config belongs to.
    """

    config: OfflineConfig
    callbacks: list[RLlibCallback]
    _held_out: HeldOut | None = None

    @classmethod
    def from_config(cls, config: OfflineConfig) -> Algorithm:
        """Build the algorithm of a config; the same as `config.build_algo()`.

        Raises:
            ValueError: The config belongs to another kind of algorithm.
        """
        if not isinstance(config, OfflineConfig):
            raise ValueError(
                f"from_config expects a config of this package such as OM2PConfig, got "
                f"{type(config).__name__}."
            )
        if config.algo_class is not None and not issubclass(config.algo_class, cls):
            raise ValueError(
                f"{cls.__name__}.from_config got the config of {config.algo_class.__name__}; use "
                f"{config.algo_class.__name__}.from_config, or config.build_algo()."
            )
        algorithm = config.build_algo()
        assert isinstance(algorithm, Algorithm)
        return algorithm

    @override(RLlibAlgorithm)
    def setup(self, config: OfflineConfig) -> None:
        """Build learners and evaluation env runners, and compare dataset and environment.

        Raises:
            ValueError: The environment's agents or spaces are not the dataset's.
            RuntimeError: The cluster has not enough free resources for the learners.
        """
        require_resources(config)
        if self.config.share_table is None:
            # Tune gives its trials a storage; their trial_info RLlib drops
            # (algorithms/algorithm_config.py:794, 2.60.0).
            is_trial = self._storage is not None
            self.config = self.config.copy(copy_frozen=False)
            self.config.offline_data(share_table=is_trial).freeze()
        super().setup(config)
        raise_errors(self.learner_group)
        self.callbacks = [_TeamReturn(), *force_list(self.callbacks)]
        if self.eval_env_runner_group is not None:
            self._compare_with_environment()

    @override(RLlibAlgorithm)
    def training_step(self) -> None:
        """Have every learner run one iteration's updates."""
        num_updates = self.config.num_updates_per_iteration
        with self.metrics.log_time((TIMERS, LEARNER_UPDATE_TIMER)):
            results = call_learners(
                self.learner_group,
                lambda learner: learner.update(num_updates=num_updates),
            )
        self.metrics.aggregate(results, key=LEARNER_RESULTS)

    @override(RLlibAlgorithm)
    def restore_env_runners(self, env_runner_group: EnvRunnerGroup | None) -> list[int]:
        """Take env runners that Ray has restarted back into service; evaluate() syncs them.

        RLlib's own does so for online algorithms only (algorithms/algorithm.py:2297), so that a
        killed evaluation env runner would be lost for good.
        """
        if env_runner_group is None:
            return []
        restored: list[int] = env_runner_group.probe_unhealthy_env_runners()
        return restored

    @override(RLlibAlgorithm)
    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Evaluate with RLlib's env runners; adds the team's return and its normalised score.

        RLlib's `episode_return_mean` is the sum over agents. `team_return_mean` follows the
        dataset's convention, and `normalized_score` is 100 (return - random) / (expert - random);
        it is left out in an environment, or with settings of it, to which the dataset's scale does
        not belong.

        Raises:
            ValueError: The config asked for no evaluation, so that there are no env runners.
        """
        if self.eval_env_runner_group is None:
            raise ValueError(
                "evaluate() needs env runners, which are built with the algorithm: set "
                ".evaluation(evaluation_interval=...) to evaluate while training, or "
                ".evaluation(evaluation_num_env_runners=1) to do so only when asked."
            )
        results: dict[str, Any] = super().evaluate(*args, **kwargs)
        return results

    def _team_results(self, results: dict[str, Any]) -> dict[str, float]:
        added = teams_returns(results.get(ENV_RUNNER_RESULTS, {}))
        played = self.evaluation_config
        references = scale_of(self.config.dataset_spec, played.env, dict(played.env_config))
        if added and references is not None:
            score = normalised_score(added[TEAM_RETURN_MEAN], references)
            added[NORMALIZED_SCORE] = float(score)
        return added

    @override(RLlibAlgorithm)
    def evaluate_offline(self) -> dict[str, Any]:
        """Return what critics of held-out episodes expect the team to return; see `core.fqe`."""
        self._call_back("on_evaluate_offline_start")
        settings = FQESettings(**self.config.fqe)
        if self._held_out is None:
            _, held_out = self.offline_data.dataset.split(self.config.holdout_fraction)
            share = settings.max_steps / held_out.num_transitions
            if share < 1.0 and held_out.num_episodes > 1:
                # One episode fewer at least, which is what `split` leaves.
                _, held_out = held_out.split(min(share, 1.0 - 1.0 / held_out.num_episodes))
            self._held_out = HeldOut.of(held_out)
        modules = self._current_modules(self.config.dataset_spec.agent_ids)
        estimate = fqe_return(modules, self._held_out, settings)
        results = {FQE_RETURN: estimate.mean, FQE_RETURN_LOWER: estimate.lower}
        self._call_back("on_evaluate_offline_end", evaluation_metrics=results)
        return results

    def _call_back(self, name: str, **kwargs: Any) -> None:
        make_callback(
            name,
            callbacks_objects=self.callbacks,
            callbacks_functions=getattr(self.config, f"callbacks_{name}"),
            kwargs={"algorithm": self, "metrics_logger": self.metrics, **kwargs},
        )

    @override(RLlibAlgorithm)
    def _run_one_offline_evaluation(self) -> dict[str, Any]:
        # RLlib's own asks its runners, of which there are none.
        with self.metrics.log_time((TIMERS, OFFLINE_EVALUATION_ITERATION_TIMER)):
            return {EVALUATION_RESULTS: self.evaluate_offline()}

    @classmethod
    @override(RLlibAlgorithm)
    def _should_create_offline_evaluation_runners(cls, eval_config: OfflineConfig) -> bool:
        return False

    @override(RLlibAlgorithm)
    def get_module(self, module_id: str | None = None) -> RLModule | None:  # type: ignore[override]
        """Return an agent's RLModule with the learners' current weights.

        RLlib looks in the training env runners (algorithms/algorithm.py:2504), which an offline
        algorithm has not. With a local learner on the CPU this is the trained module itself; with
        remote learners, or a GPU, a copy on the CPU.

        Args:
            module_id: The agent's id in the dataset; None returns None.
        """
        if module_id is None or module_id not in self.config.policies:
            return None
        module = self._current_module(module_id)
        if next(module.parameters()).device.type != "cpu":
            module = copy.deepcopy(module).cpu()
        return module

    def _current_module(self, module_id: str) -> RLModule:
        return self._current_modules([module_id])[module_id]

    def _current_modules(self, module_ids: Sequence[str]) -> dict[str, RLModule]:
        """Return agents' modules with the current weights, on whatever device they are."""
        if self.learner_group.is_local:
            own = self.learner_group._learner.module
            return {module_id: own[module_id].unwrapped() for module_id in module_ids}
        specs = self.config.get_multi_rl_module_spec(inference_only=True).rl_module_specs
        modules = {module_id: specs[module_id].build() for module_id in module_ids}
        component = f"{COMPONENT_LEARNER}/{COMPONENT_RL_MODULE}"
        component += f"/{module_ids[0]}" if len(module_ids) == 1 else ""
        state = self.learner_group.get_state(component)[COMPONENT_LEARNER][COMPONENT_RL_MODULE]
        for module_id, module in modules.items():
            module.set_state(state[module_id])
        return modules

    @override(RLlibAlgorithm)
    def set_weights(self, weights: dict[str, dict[str, Any]]) -> None:
        """Set the agents' modules, as `get_weights` returns them.

        RLlib's own needs training env runners (algorithms/algorithm.py:2815).
        """
        modules = {COMPONENT_LEARNER: {COMPONENT_RL_MODULE: weights}}
        self.set_state({COMPONENT_LEARNER_GROUP: modules})

    @override(RLlibAlgorithm)
    def get_policy(self, policy_id: str = "default_policy") -> Any:
        """Refuse: policies are of RLlib's old API stack, and so are the calls that ask for one."""
        raise TypeError(
            "there are no policies, and no compute_single_action(), on RLlib's new API stack; an "
            "agent acts by get_module(AGENT).forward_inference({'obs': ...})['actions']."
        )

    @override(RLlibAlgorithm)
    def add_module(self, module_id: str, *args: Any, **kwargs: Any) -> Any:
        """Refuse: the dataset's agents are the modules."""
        raise TypeError(
            f"module {module_id!r} cannot be added: the modules are the dataset's agents, "
            f"{list(self.config.dataset_spec.agent_ids)}."
        )

    @override(RLlibAlgorithm)
    def remove_module(self, module_id: str, *args: Any, **kwargs: Any) -> Any:
        """Refuse: the dataset's agents are the modules."""
        raise TypeError(
            f"module {module_id!r} cannot be removed: the modules are the dataset's agents, "
            f"{list(self.config.dataset_spec.agent_ids)}."
        )

    @property
    def num_updates(self) -> int:
        """Gradient updates since the start, those before a restoration included."""
        return int(call_learners(self.learner_group, lambda learner: learner._num_updates)[0])

    # --- checkpoints ----------------------------------------------------------------------------

    @override(RLlibAlgorithm)
    def save_to_path(
        self, path: Any = None, *, filesystem: FileSystem | None = None, **kwargs: Any
    ) -> str:
        """Save a checkpoint; a local `path` never holds a half-written one.

        Args:
            path: Where; None makes a temporary directory.
            filesystem: Whose path it is; by default this machine's, or that of a URI.
            **kwargs: Passed to RLlib.

        Returns:
            The path in its file system.

        Raises:
            RuntimeError: The learners do not hold the same parameters, or one died.
            OSError: It could not be written; an older checkpoint there is intact.
        """
        if self.config.num_learners > 1:
            call_learners(self.learner_group, lambda learner: learner.meet_ranks("checkpoint"))
        if path is None:
            path = Path(tempfile.gettempdir()) / uuid.uuid4().hex
        filesystem, place = locate(path, filesystem)
        save = super().save_to_path
        spec = self.config.dataset_spec
        marker = {
            "algorithm": type(self).__name__,
            "dataset_id": spec.dataset_id,
            "dataset_fingerprint": self.offline_data.dataset.fingerprint,
            "agent_ids": list(spec.agent_ids),
            "ray_version": ray.__version__,
            "training_iteration": self.training_iteration,
        }

        def write(into: Any = place) -> None:
            save(str(into), filesystem=filesystem, **kwargs)
            if "state" not in kwargs:
                require_learner(str(into), filesystem)

        if filesystem is None:
            write_whole(place, write, marker)
        else:
            write_elsewhere(filesystem, place, write, marker)
        return place

    @override(RLlibAlgorithm)
    def restore_from_path(
        self,
        path: Any,
        *args: Any,
        component: str | None = None,
        filesystem: FileSystem | None = None,
        **kwargs: Any,
    ) -> None:
        """Restore a checkpoint or, with `component=`, a part of one.

        RLlib's own method uses the training env runners without asking whether there are any
        (algorithms/algorithm.py:3390).

        Raises:
            ValueError: Half-written, of another algorithm, or trained on another dataset.
        """
        filesystem, place = locate(path, filesystem)
        if filesystem is None:
            place = str(standing(place))
        if component is None:
            marker = read_marker(place, filesystem)
            if marker["algorithm"] != type(self).__name__:
                raise ValueError(
                    f"{place!r} is a checkpoint of {marker['algorithm']}, not of "
                    f"{type(self).__name__}; restore it with {marker['algorithm']}."
                )
            if not has_learner(place, filesystem):
                raise ValueError(f"{place!r} holds no learner's state; use another checkpoint.")
            # The learners ask too, but only after RLlib has put the weights into their modules.
            require_dataset(self.offline_data.dataset, marker, self.config.input_)
        super(RLlibAlgorithm, self).restore_from_path(
            place, *args, component=component, filesystem=filesystem, **kwargs
        )
        self._sync_evaluation_weights()

    @override(RLlibAlgorithm)
    def set_state(self, state: Any) -> None:
        """Set the state; RLlib's own needs training env runners (algorithms/algorithm.py:3325)."""
        if COMPONENT_LEARNER_GROUP in state:
            self.learner_group.set_state(state[COMPONENT_LEARNER_GROUP])
            self._sync_evaluation_weights()
        rest = {
            k: v
            for k, v in state.items()
            if k not in (COMPONENT_LEARNER_GROUP, "env_runner", "eval_env_runner")
        }
        super().set_state(rest)

    def _sync_evaluation_weights(self) -> None:
        if self.eval_env_runner_group is not None:
            # Env runners skip weights that are not newer than their own, as after going back to an
            # earlier checkpoint (env/multi_agent_env_runner.py:771).
            self.eval_env_runner_group.foreach_env_runner(
                lambda runner: setattr(runner, "_weights_seq_no", -1)
            )
            self.eval_env_runner_group.sync_weights(
                from_worker_or_learner_group=self.learner_group, inference_only=True
            )

    # --- checks ---------------------------------------------------------------------------------

    def _compare_with_environment(self) -> None:
        spec = self.config.dataset_spec
        spaces = self.eval_env_runner_group.get_spaces()
        env_name = self.evaluation_config.env
        for agent in spec.agents:
            expected = describe_spaces(observation_space(spec, agent), action_space(agent))
            found = describe_spaces(*spaces.get(agent.name, (None, None)))
            if found != expected:
                raise ValueError(
                    f"agent {agent.name!r}: dataset {spec.dataset_id!r} has {expected}, "
                    f"environment {env_name!r} has {found}; evaluate in the dataset's "
                    "environment."
                )
            check_action_box(agent.name, action_space(agent), spaces[agent.name][1])
        played, _ = spaces[INPUT_ENV_SINGLE_SPACES]
        others = [str(agent) for agent in played if str(agent) not in spec.agent_ids]
        if others:
            raise ValueError(
                f"environment {env_name!r} has the agents {others}, which dataset "
                f"{spec.dataset_id!r} does not have, only {list(spec.agent_ids)}; evaluate in the "
                "dataset's environment, with its settings."
            )


__all__ = ["EVALUATION_RESULTS", "FQE_RETURN", "NORMALIZED_SCORE", "TEAM_RETURN_MEAN", "Algorithm"]
