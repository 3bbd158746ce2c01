"""The learners of an algorithm as a whole: room for all of them, calls to all of them.

Knows RLlib's LearnerGroup, not what learners do. Both fail fast. Ray waits for ever for learners,
and evaluation env runners, that do not fit the cluster; and RLlib waits for every learner's answer
(utils/actor_manager.py, ray 2.60.0), though when one has failed in the middle of an update the
others wait for it in a collective, half an hour by Ray's default. Where RLlib itself calls them, to
save and to restore, it even drops their errors (utils/checkpoints.py:227 and 702,
core/learner/learner_group.py:580): a checkpoint without learners would count as whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.utils.actor_manager import FaultTolerantActorManager, RemoteCallResults

if TYPE_CHECKING:
    from rllib_om2p.core.config import OfflineConfig

T = TypeVar("T")

# An algorithm that was just stopped gives its resources back with a delay.
RESOURCE_TIMEOUT_S = 10.0
# How long one learner's failure waits for the others', which may say more.
GRACE_S = 5.0


class LearnerDiedError(RuntimeError):
    """The process of a learner ended: killed, out of memory, or crashed."""


def call_learners(group: LearnerGroup, function: Callable[[Any], T]) -> list[T]:
    """Call a function on every learner and return the results in the order of the ranks.

    Raises:
        LearnerDiedError: The process of a learner ended.
        Exception: What a learner raised, the first if there are several.
    """
    if group.is_local:
        return [function(group._learner)]
    refs = [worker.apply.remote(function) for worker in group._workers]
    return _gather(refs, range(len(refs)), len(refs))


def raise_errors(group: LearnerGroup) -> None:
    """Have the calls that RLlib makes to a group's learners raise what these raise."""
    if not group.is_local:
        group._worker_manager.__class__ = _RaisingManager


class _RaisingManager(FaultTolerantActorManager):  # type: ignore[misc]
    """RLlib's manager of the learners, whose callers do not look at the errors that it returns."""

    def _fetch_result(
        self,
        *,
        remote_actor_ids: list[int],
        remote_calls: list[Any],
        timeout_seconds: float | None = None,
        return_obj_refs: bool = False,
        **kwargs: Any,
    ) -> tuple[list[Any], RemoteCallResults]:
        if timeout_seconds is None and not return_obj_refs:
            _gather(remote_calls, remote_actor_ids, self.num_actors())
        found: tuple[list[Any], RemoteCallResults] = super()._fetch_result(
            remote_actor_ids=remote_actor_ids,
            remote_calls=remote_calls,
            timeout_seconds=timeout_seconds,
            return_obj_refs=return_obj_refs,
            **kwargs,
        )
        return found


def _gather(refs: list[Any], ranks: Sequence[int], num_learners: int) -> list[Any]:
    """Return the answers of these ranks in order, or raise the first error, see `call_learners`."""
    results: dict[int, Any] = {}
    errors: dict[int, Exception] = {}
    pending, deadline = list(refs), None
    while pending:
        timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready, pending = ray.wait(pending, timeout=timeout)
        if not ready:
            break
        rank = ranks[refs.index(ready[0])]
        try:
            results[rank] = ray.get(ready[0])
        except RayError as failure:
            errors[rank] = failure
            deadline = deadline or time.monotonic() + GRACE_S
    for rank, error in errors.items():
        if isinstance(error, RayActorError):
            raise LearnerDiedError(
                f"learner {rank} of {num_learners} died: it was killed (memory, pre-emption) or "
                "crashed; see Ray's logs of its node. Training has stopped; the last checkpoint "
                "is intact: build the algorithm again and restore it, as Tune does with "
                "FailureConfig(max_failures=1)."
            ) from error
    for error in errors.values():
        if isinstance(error, RayTaskError) and isinstance(error.cause, OSError):
            raise error.cause from error  # with its number, which says whether the disk is full
        raise error
    return [results[rank] for rank in ranks]


def require_resources(config: OfflineConfig) -> None:
    """Check that the cluster has room for learners and evaluation env runners together.

    Tune's trials have reserved theirs.

    Raises:
        RuntimeError: It has not; names the resource, what is needed and what is free.
    """
    counts = {
        "learners": config.num_learners,
        "evaluation env runners": config.evaluation_num_env_runners,
    }
    counts = {name: count for name, count in counts.items() if count}
    if not counts or ray.util.get_current_placement_group() is not None:
        return
    cpus = config.num_cpus_per_learner
    if cpus == "auto":
        cpus = 0 if config.num_gpus_per_learner else 1
    played = config.get_evaluation_config_object()
    each = {
        "learners": {"CPU": cpus, "GPU": config.num_gpus_per_learner},
        "evaluation env runners": {
            "CPU": played.num_cpus_per_env_runner,
            "GPU": played.num_gpus_per_env_runner,
        },
    }
    needed = {
        resource: sum(count * each[name][resource] for name, count in counts.items())
        for resource in ("CPU", "GPU")
    }
    total = ray.cluster_resources()
    could_fit = all(amount <= total.get(name, 0) for name, amount in needed.items())
    deadline = time.monotonic() + (RESOURCE_TIMEOUT_S if could_fit else 0.0)
    while True:
        free = ray.available_resources()
        lacking = [name for name, amount in needed.items() if amount > free.get(name, 0)]
        if not lacking:
            return
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    # Rather what will never be there than what is in use just now.
    name = max(lacking, key=lambda resource: needed[resource] > total.get(resource, 0))
    who = " and ".join(f"{count} {kind}" for kind, count in counts.items())
    raise RuntimeError(
        f"{who} need {needed[name]:g} {name}, but the cluster has {free.get(name, 0):g} free of "
        f"{total.get(name, 0):g}. Stop what holds them (another algorithm: algo.stop()), or use "
        f"fewer {' or '.join(counts)}."
    )
