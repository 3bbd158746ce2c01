"""The only inner loop: many minibatch updates of an algorithm's phases per Learner.update call.

Knows phases, not what they compute. RLlib's own loop is replaced for three reasons (ray 2.60.0):
target networks would move once per call instead of once per update (core/learner/learner.py:1166),
a joint batch would lose its alignment between agents (utils/minibatch_utils.py:160), and each
update would cost more than a millisecond besides the mathematics.

With several learners each holds a shard of the episodes, draws its own noise and batch, and takes
part in one flat all_reduce of the gradients per phase; parameters are broadcast at build and their
checksums compared over the ranks after build and after restore.
"""

from __future__ import annotations

import copy
import itertools
import logging
import secrets
import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from ray.rllib.core import COMPONENT_RL_MODULE
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import (
    ALL_MODULES,
    NUM_ENV_STEPS_TRAINED,
    NUM_ENV_STEPS_TRAINED_LIFETIME,
)
from torch import Tensor

from rllib_om2p.core.agent_groups import JointBatch, RowLayout
from rllib_om2p.core.checkpoint import require_dataset
from rllib_om2p.core.history import Divergence, History, runaway, weights_divergence
from rllib_om2p.core.phases import Networks, Phase
from rllib_om2p.core.recorded_update import CudaGraphRecorder, RecordedUpdate
from rllib_om2p.core.rl_module import bind_to_stacks
from rllib_om2p.core.shared_table import table_key
from rllib_om2p.core.table import Block, TransitionTable
from rllib_om2p.core.transform import fit_transform, observation_constants
from rllib_om2p.core.update import Update, on_cpu
from rllib_om2p.data.reader import OfflineDataset

logger = logging.getLogger(__name__)

TRAINING_STATE = "training_state"
NUM_UPDATES = "num_updates"
NUM_UPDATES_LIFETIME = "num_updates_lifetime"
UPDATES_PER_SECOND = "updates_per_second"
NUM_SKIPPED = "num_row_groups_skipped"


class DivergenceError(RuntimeError):
    """A loss became NaN or infinite; names the update, the phase and the agent."""


class OfflineLearner(TorchLearner):
    """Trains an algorithm's stacked networks on this learner's shard of the dataset."""

    # --- building -------------------------------------------------------------------------------

    @override(TorchLearner)
    def build(self) -> None:
        """Read the shard, build networks and phases, and bind the modules to the stacks."""
        super().build()
        config = self.config
        self._world_size = max(1, config.num_learners)
        self._num_updates = 0
        self._diverged: Divergence | None = None
        self._warned = False
        self._dataset = OfflineDataset.open(config.input_)
        self._layout = RowLayout.of(self._dataset.spec, config.teams)
        self._transform = fit_transform(
            self._layout,
            self._dataset,
            normalize_observations=config.normalize_observations,
            standardize_rewards=config.standardize_rewards,
            bootstrap_at_truncation=config.bootstrap_at_truncation,
        )
        self._batch_size = config.train_batch_size_per_learner
        self._skipped: set[str] = set()
        self._table = self._build_table()
        if self._table.num_transitions < self._batch_size:
            raise ValueError(
                f"train_batch_size_per_learner={self._batch_size} is larger than this learner's "
                f"table of {self._table.num_transitions} transitions; lower train_batch_size or "
                "use fewer learners."
            )

        # Every rank starts from the same weights and then draws its own batches and noise; RLlib
        # seeds all ranks alike (core/learner/learner.py:242).
        self._seed = self._common_seed()
        init_generator = torch.Generator().manual_seed(self._seed)
        self._networks: Networks = config.build_networks(self._layout.groups, init_generator)
        self._networks.to(self._device)
        self._generator = torch.Generator(device=self._device)
        self._generator.manual_seed(self._seed + 1 + self._learner_index)
        self._bind_modules()
        self._phases: list[Phase] = config.build_phases(self._networks, self._layout)
        self._phase_update = Update(
            self._networks,
            self._phases,
            sample=self._sample,
            generator=self._generator,
            tau=config.tau,
            grad_clip=None if config.grad_clip is None else float(config.grad_clip),
            mean_over_ranks=self._mean_over_ranks if self._world_size > 1 else None,
            torch_compile=config.torch_compile,
            bfloat16=config.precision == "bfloat16",
        )
        self._recorded = self._make_recorded()
        if self._world_size > 1:
            for tensor in self._networks.state_dict().values():
                dist.broadcast(tensor, src=0)
        self.meet_ranks("build")

    @override(TorchLearner)
    def configure_optimizers(self) -> None:
        """Register nothing with RLlib: the phases own their optimisers."""

    @override(TorchLearner)
    def _make_modules_ddp_if_necessary(self) -> None:
        # DDP would wrap each agent's view and synchronise none of them, since the loop never calls
        # their forward_train (core/learner/torch/torch_learner.py:525).
        return

    @override(TorchLearner)
    def compute_loss_for_module(self, **kwargs: Any) -> Any:
        """Refuse: RLlib's per-module loop is not used, the losses are those of the phases."""
        raise TypeError("OfflineLearner trains by phases; see OfflineConfig.build_phases.")

    def _common_seed(self) -> int:
        """Return the config's seed; where it is None, a fresh one that all ranks share."""
        if self.config.seed is not None:
            return int(self.config.seed)
        drawn = torch.tensor(secrets.randbelow(2**31), device=self._device)
        if self._world_size > 1:
            dist.broadcast(drawn, src=0)
        seed = int(drawn)
        logger.info("seed=None drew %d; .debugging(seed=%d) repeats this run.", seed, seed)
        return seed

    def _build_table(self) -> TransitionTable:
        dataset, config = self._dataset, self.config
        if config.holdout_fraction:
            dataset, _ = dataset.split(config.holdout_fraction)
        shard = {"rank": self._learner_index, "num_shards": self._world_size}
        may_skip = config.on_corrupt == "skip"

        def read_epoch(epoch: int, first: int) -> Iterator[Block]:
            # Not seeded by the config: a checkpoint's counters mean rows of this order.
            blocks = dataset.blocks(
                self._layout.columns,
                shuffle_seed=epoch,
                first=first,
                skip_corrupt=may_skip,
                **shard,
            )
            for packed in blocks:
                if packed.error is not None and packed.source not in self._skipped:
                    self._skipped.add(packed.source)
                    logger.warning("left out, by on_corrupt='skip': %s", packed.error)
                yield Block(self._transform(packed.rows), packed.valid)

        block_rows = dataset.block_rows(**shard)
        return TransitionTable(
            read_epoch,
            num_blocks=len(block_rows),
            max_block_rows=max(block_rows),
            num_rows=sum(block_rows),
            width=self._layout.width,
            observed_width=self._layout.observed_width,
            device=self._device,
            memory_budget=config.table_memory_budget,
            draws_per_transition=config.table_draws_per_transition,
            may_lack_rows=may_skip,
            shared_key=self._table_key() if config.share_table and not may_skip else None,
        )

    def _table_key(self) -> str:
        """Return a name for all that the rows of this learner's table depend on."""
        layout = (self._layout.columns, tuple(self._layout.sections.items()))
        values = vars(self._transform) | {"layout": layout}
        return table_key(
            *itertools.chain(*sorted(values.items())),
            self._dataset.fingerprint,
            self.config.holdout_fraction,
            (self._learner_index, self._world_size),
            [team.agents for team in self._layout.teams],
        )

    def _bind_modules(self) -> None:
        for group, stacks in zip(self._layout.groups, self._networks.policy_stacks(), strict=True):
            for index, agent_id in enumerate(group.agent_ids):
                bind_to_stacks(self.module[agent_id].unwrapped(), stacks, index)
        self._set_constants()

    def _set_constants(self) -> None:
        """Make the modules see and act in the units of the table's rows."""
        for group_index, group in enumerate(self._layout.groups):
            mean, std = observation_constants(self._transform, group_index)
            for index, (agent_id, position) in enumerate(
                zip(group.agent_ids, group.positions, strict=True)
            ):
                module = self.module[agent_id].unwrapped()
                module.identity.copy_(torch.arange(len(module.identity)) == position)
                module.obs_mean.copy_(mean[index])
                module.obs_std.copy_(std[index])
                if not module.is_discrete:
                    module.action_low.copy_(torch.tensor(module.action_space.low))
                    module.action_high.copy_(torch.tensor(module.action_space.high))

    def _make_recorded(self) -> RecordedUpdate | None:
        if not self.config.cuda_graph:
            return None
        obstacles = {
            "there is no CUDA device": self._device.type != "cuda",
            "several learners exchange gradients during an update": self._world_size > 1,
            "the rolling window changes between updates": self._table.is_window,
        }
        for obstacle, is_there in obstacles.items():
            if is_there:
                logger.warning("cuda_graph=True has no effect, updates run as usual: %s", obstacle)
                return None
        return RecordedUpdate(self._phase_update, CudaGraphRecorder(self._generator))

    # --- training -------------------------------------------------------------------------------

    @property
    def _learning_rate(self) -> float:
        return float(self.config.learning_rate_at(self._num_updates))

    @override(TorchLearner)
    def update(self, *, num_updates: int) -> dict[str, Any]:
        """Run `num_updates` updates and return the reduced metrics.

        Args:
            num_updates: Gradient updates of every phase (of those that are due).

        Raises:
            DivergenceError: A loss was not finite in one of the updates.
        """
        self._check_is_built()
        if self._diverged:
            raise DivergenceError(self._diverged.message)
        start, first_update = time.perf_counter(), self._num_updates
        history = History(self._phases, self._agent_ids, self.config.divergence_remedy)
        run = self._recorded or self._phase_update
        for _ in range(num_updates):
            self._phase_update.set_learning_rate(self._learning_rate)
            for outcome in run(self._num_updates):
                history.add(*outcome)
            # Each on its own: whoever interrupts a call (Ctrl-C) leaves a learner that knows.
            self._num_updates += 1
            self._weights_seq_no += 1
        self._diverged = history.divergence(first_update) or self._broken_weights()
        self.meet_ranks("update")
        self._log(history, num_updates, time.perf_counter() - start)
        return self.metrics.reduce()

    def _broken_weights(self) -> Divergence | None:
        """Return that the weights are not finite, which the losses show one update later."""
        if bool(torch.isfinite(self._checksums()).all()):
            return None
        return weights_divergence(self._num_updates, self.config.divergence_remedy)

    def _checksums(self) -> Tensor:
        """Return the sum of each parameter and buffer, in double precision."""
        values = self._networks.state_dict().values()
        return torch.stack([value.double().sum() for value in values])

    def _sample(self) -> JointBatch:
        return self._layout.view(*self._table.sample(self._batch_size, self._generator))

    def _mean_over_ranks(self, gradients: list[Tensor]) -> list[Tensor]:
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self._world_size
        parts = flat.split([gradient.numel() for gradient in gradients])
        return [p.view_as(g) for p, g in zip(parts, gradients, strict=True)]

    @property
    def _agent_ids(self) -> list[str]:
        return [name for group in self._layout.groups for name in group.agent_ids]

    def _log(self, history: History, num_updates: int, seconds: float) -> None:
        for agent_id, key, mean in history.means():
            self.metrics.log_value((agent_id or ALL_MODULES, key), mean, window=1)
            found = runaway(agent_id, key, mean, self.config.divergence_remedy)
            if found and not self._warned:
                self._warned = True
                logger.warning("training diverges: %s", found)
        steps = num_updates * self._batch_size
        self.metrics.log_value((ALL_MODULES, NUM_ENV_STEPS_TRAINED), steps, reduce="sum")
        self.metrics.log_value(
            (ALL_MODULES, NUM_ENV_STEPS_TRAINED_LIFETIME), steps, reduce="lifetime_sum"
        )
        self.metrics.log_value((ALL_MODULES, NUM_UPDATES_LIFETIME), self._num_updates, reduce="max")
        self.metrics.log_value(
            (ALL_MODULES, UPDATES_PER_SECOND), num_updates / seconds, reduce="min", window=1
        )
        self.metrics.log_value((ALL_MODULES, "learning_rate"), self._learning_rate, window=1)
        self.metrics.log_value((ALL_MODULES, "seed"), self._seed, reduce="max", window=1)
        if self.config.on_corrupt == "skip":
            num_skipped = sum(state["num_skipped"] for state in self._rank_states)
            self.metrics.log_value((ALL_MODULES, NUM_SKIPPED), num_skipped, reduce="max", window=1)

    # --- state ----------------------------------------------------------------------------------

    @override(TorchLearner)
    def get_state(
        self, components: Any = None, *, not_components: Any = None, **kwargs: Any
    ) -> Any:
        """Return RLlib's state and what resuming bit-identically needs besides the modules."""
        is_whole = self._check_component(TRAINING_STATE, components, not_components)
        if is_whole:  # an interrupted call has not looked at what it left
            self._diverged = self._diverged or self._broken_weights()
        if self._diverged:
            raise DivergenceError(self._diverged.message)
        state = super().get_state(components, not_components=not_components, **kwargs)
        if is_whole:
            # The other ranks' as of the last meeting; an interrupted call has had none.
            ranks = [*self._rank_states]
            ranks[self._learner_index] |= self._own_state()
            state[TRAINING_STATE] = {
                "networks": on_cpu(dict(self._networks.state_dict())),
                "optimizers": self._phase_update.optimizer_states(),
                "ranks": ranks,
                "num_updates": self._num_updates,
                "agent_ids": self._agent_ids,
                "dataset_id": self._dataset.spec.dataset_id,
                "dataset_fingerprint": self._dataset.fingerprint,
            }
        # Tensors and RLlib arrays share the parameters' memory; the next update changes it.
        return copy.deepcopy(state)

    @override(TorchLearner)
    def set_state(self, state: Any) -> None:
        """Restore everything; the next updates are those that the saved run would have made."""
        training = state.get(TRAINING_STATE)
        if training is not None:
            require_dataset(self._dataset, training, self.config.input_)
        # RLlib skips weights that are not newer than its own (core/learner/learner.py:1302): going
        # back to an earlier checkpoint would silently keep the later weights.
        before: int = self._weights_seq_no  # type: ignore[has-type]
        self._weights_seq_no = -1
        super().set_state(state)
        if self._weights_seq_no < 0:  # The state says no number: env runners must see a new one.
            self._weights_seq_no = before + 1
        self._set_constants()
        if training is None:
            if COMPONENT_RL_MODULE in state:
                self._networks.reset_targets()
            return
        self._diverged = None
        self._networks.load_state_dict(training["networks"])
        self._phase_update.load_optimizer_states(training["optimizers"])
        if self._recorded is not None:
            self._recorded.forget()
        self._num_updates = int(training["num_updates"])
        ranks = training["ranks"]
        states = [rank["generator"].numel() for rank in ranks]
        if states == [self._generator.get_state().numel()] * self._world_size:
            self._generator.set_state(ranks[self._learner_index]["generator"])
            self._table.set_state(ranks[self._learner_index]["table"])
        else:
            logger.warning(
                "the checkpoint was made with %d learners and is restored with %d, or on another "
                "kind of device: weights and optimisers continue, batches and noise start a new "
                "sequence.",
                len(ranks),
                self._world_size,
            )
        self.meet_ranks("restore")

    @override(TorchLearner)
    def restore_from_path(self, path: Any, **kwargs: Any) -> None:
        """Restore a checkpoint or a part of one; the constants stay those of this dataset.

        A part such as the modules alone does not pass through `set_state`.
        """
        super().restore_from_path(path, **kwargs)
        self._set_constants()
        if (kwargs.get("component") or "").startswith(COMPONENT_RL_MODULE):
            self._networks.reset_targets()

    @override(TorchLearner)
    def shutdown(self) -> None:
        """Stop reading ahead."""
        if hasattr(self, "_table"):
            self._table.close()
        super().shutdown()

    def _own_state(self) -> dict[str, Any]:
        return {
            "generator": self._generator.get_state(),
            "table": self._table.get_state(),
            "diverged": self._diverged,
            "num_skipped": len(self._skipped),
        }

    def meet_ranks(self, when: str) -> None:
        """Check that no rank diverged and all hold the same parameters; learn each one's state.

        A checkpoint is taken from one rank alone, which cannot ask the others then. All ranks stop
        together: one that stopped alone would leave the others waiting for it.
        """
        own = self._own_state()
        self._rank_states = [own]
        if self._world_size > 1:
            own["checksums"] = self._checksums().tolist()
            self._rank_states = [{} for _ in range(self._world_size)]
            dist.all_gather_object(self._rank_states, own)
        found = [state["diverged"] for state in self._rank_states if state["diverged"]]
        if found:
            # The earliest: the other ranks' losses follow from its gradients.
            self._diverged = min(found)
            raise DivergenceError(self._diverged.message)
        for rank, other in enumerate(self._rank_states):
            if other.get("checksums") != own.get("checksums"):
                raise RuntimeError(
                    f"learner {rank} and learner {self._learner_index} hold different parameters "
                    f"after {when}."
                )
