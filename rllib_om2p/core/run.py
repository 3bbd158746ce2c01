"""A training run as a directory: the newest whole checkpoint, one JSON line per iteration, events.

    DIR/checkpoint/        of Algorithm.save_to_path; replaced whole after every iteration
    DIR/progress.jsonl     one line per iteration
    DIR/run.json           how many updates it shall make in total
    DIR/events.out.*       for TensorBoard
    DIR/run.lock           while a process trains here

Knows algorithms by train() and save_to_path() only.
"""

from __future__ import annotations

import json
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray.rllib.utils.metrics import ALL_MODULES, LEARNER_RESULTS

from rllib_om2p.core.algorithm import (
    EVALUATION_RESULTS,
    FQE_RETURN,
    FQE_RETURN_LOWER,
    NORMALIZED_SCORE,
    TEAM_RETURN_MEAN,
    Algorithm,
)
from rllib_om2p.core.checkpoint import tidy
from rllib_om2p.core.env_runner import returns_by_team
from rllib_om2p.core.learner import NUM_UPDATES_LIFETIME, UPDATES_PER_SECOND
from rllib_om2p.core.run_lock import RunLock
from rllib_om2p.disk import local_path, write_text_whole

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint"
PROGRESS = "progress.jsonl"
PLAN = "run.json"

# Metrics of RLlib that say nothing about training.
_LEFT_OUT = ("num_trainable_parameters", "num_non_trainable_parameters", "num_env_steps_trained")


@dataclass(frozen=True)
class Iteration:
    """What one iteration made.

    Attributes:
        num_updates: Gradient updates since the start, those before a resumption included.
        updates_per_second: Without evaluation.
        seconds: Of the whole iteration.
        metrics: The learners' metrics as means over the agents: "actor_loss", "q", ...
        agent_metrics: The same for each agent.
        team_return: Mean team return, if this iteration was evaluated.
        team_returns: That of each of the config's `teams` by name, likewise.
        normalised: Its score, if the dataset has references.
        fqe_return: Mean team return that held-out episodes let expect, if that was estimated.
        fqe_return_lower: The pessimistic estimate, to choose by.
    """

    num_updates: int
    updates_per_second: float
    seconds: float
    metrics: Mapping[str, float]
    agent_metrics: Mapping[str, Mapping[str, float]]
    team_return: float | None = None
    team_returns: Mapping[str, float] = field(default_factory=dict)
    normalised: float | None = None
    fqe_return: float | None = None
    fqe_return_lower: float | None = None

    @classmethod
    def of(cls, result: Mapping[str, Any], seconds: float) -> Iteration:
        """Return what a result of `Algorithm.train()` holds."""
        learners = result[LEARNER_RESULTS]
        shared = {k: float(v) for k, v in learners[ALL_MODULES].items() if k not in _LEFT_OUT}
        agents = {
            agent: {k: float(v) for k, v in values.items() if k not in _LEFT_OUT}
            for agent, values in learners.items()
            if agent != ALL_MODULES
        }
        names = dict.fromkeys(name for values in agents.values() for name in sorted(values))
        means = {
            name: sum(values[name] for values in agents.values()) / len(agents) for name in names
        }
        num_updates = int(shared.pop(NUM_UPDATES_LIFETIME))
        rate = shared.pop(UPDATES_PER_SECOND)
        evaluation = result.get(EVALUATION_RESULTS, {})
        return cls(
            num_updates=num_updates,
            updates_per_second=rate,
            seconds=seconds,
            metrics=means | {k: v for k, v in shared.items() if not k.endswith("_lifetime")},
            agent_metrics=agents,
            team_return=evaluation.get(TEAM_RETURN_MEAN),
            team_returns=returns_by_team(evaluation),
            normalised=evaluation.get(NORMALIZED_SCORE),
            fqe_return=evaluation.get(FQE_RETURN),
            fqe_return_lower=evaluation.get(FQE_RETURN_LOWER),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {**vars(self), "metrics": dict(self.metrics), "agent_metrics": self.agent_metrics}


def planned_updates(checkpoint: Path) -> int | None:
    """Return how many updates a checkpoint's run shall make in total; None if nothing says so."""
    file = checkpoint.expanduser().resolve().parent / PLAN
    if not file.is_file():
        return None
    return int(json.loads(file.read_text(encoding="utf-8"))["num_updates"])


class SigtermWatch:
    """Notes the first SIGTERM instead of ending the process; the second one does that.

    Python runs signal handlers in the main thread only; elsewhere it does nothing.
    """

    def __enter__(self) -> Callable[[], bool]:
        """Start watching and return whether the signal has come."""
        self._came = False
        self._before: Any = None
        if threading.current_thread() is threading.main_thread():
            self._before = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL
            signal.signal(signal.SIGTERM, self._note)
        return lambda: self._came

    def __exit__(self, *error: object) -> None:
        """Stop watching."""
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _note(self, number: int, frame: object) -> None:
        self._came = True
        signal.signal(signal.SIGTERM, self._before)
        logger.warning("SIGTERM: this iteration is finished and saved, then training ends")


class Run:
    """The directory of one training run.

    The directory is locked from here on; use it as a context manager, or `close` it.

    Args:
        directory: Made if missing.
        resume: The checkpoint to continue from, if any. A directory that holds one is continued
            from its own only; one whose checkpoint is gone, or a new one, from any.

    Raises:
        RuntimeError: Another process trains into the directory.
        ValueError: The directory holds a run that `resume` does not continue.
    """

    def __init__(self, directory: str | Path, *, resume: str | Path | None = None) -> None:
        self.directory = local_path(directory).resolve()
        self.checkpoint = self.directory / CHECKPOINT
        self._progress = self.directory / PROGRESS
        self._is_new = not self.directory.exists()
        self.directory.mkdir(parents=True, exist_ok=True)
        self._lock = RunLock(self.directory)
        tidy(self.checkpoint)
        if not self._continues(resume):
            self.close()
            raise ValueError(
                f"{str(directory)!r} holds a run already; choose another directory, or continue "
                f"that one (--resume {Path(directory) / CHECKPOINT})."
            )

    def __enter__(self) -> Run:
        """Return the run."""
        return self

    def __exit__(self, *error: object) -> None:
        """Let other processes in."""
        self.close()

    def close(self) -> None:
        """Let other processes in; a new directory in which nothing was made goes."""
        self._lock.release()
        if self._is_new and self.directory.exists() and not any(self.directory.iterdir()):
            self.directory.rmdir()

    def train(
        self,
        algo: Algorithm,
        num_updates: int,
        *,
        report: Callable[[Iteration], None] = lambda iteration: None,
        score: Callable[[], float] | None = None,
    ) -> bool:
        """Train until `num_updates` updates are done in total, saving after every iteration.

        The directory keeps the total, for `planned_updates`.

        On SIGTERM the iteration that runs is finished and saved first; choose
        `num_updates_per_iteration` so that it is shorter than the time that pre-emption leaves. A
        second SIGTERM ends the process at once.

        Args:
            algo: Built, and restored if the run is resumed.
            num_updates: Rounded up to whole iterations.
            report: Called after every iteration, when its checkpoint is saved.
            score: Returns the mean team return now, in place of the algorithm's own evaluation.

        Returns:
            True, or False if SIGTERM ended it early.

        Raises:
            OSError: An iteration could not be written; the checkpoint before it is intact.
        """
        from torch.utils.tensorboard import SummaryWriter

        done = algo.num_updates
        self._forget_after(done)
        plan = json.dumps({"num_updates": num_updates})
        write_text_whole(self.directory / PLAN, plan + "\n")
        # Flushed often, so that TensorBoard shows a run while it goes on.
        writer = SummaryWriter(str(self.directory), purge_step=done + 1, flush_secs=10)
        try:
            with SigtermWatch() as asked_to_end:
                while done < num_updates:
                    if asked_to_end():
                        return False
                    done = self._iterate(algo, writer, report, score)
        finally:
            writer.close()
        return True

    def _continues(self, resume: str | Path | None) -> bool:
        """Return whether what is there goes on, or nothing is."""
        if resume is None:
            # A process that ends in its first save leaves one line and no checkpoint.
            return not self.checkpoint.exists() and len(self._lines()) <= 1
        start = Path(resume).expanduser().resolve()
        return not self.checkpoint.exists() or self.directory in (start, start.parent)

    def _iterate(
        self,
        algo: Algorithm,
        writer: Any,
        report: Callable[[Iteration], None],
        score: Callable[[], float] | None,
    ) -> int:
        start = time.perf_counter()
        result = algo.train()
        if score is not None:
            result = {**result, EVALUATION_RESULTS: {TEAM_RETURN_MEAN: score()}}
        iteration = Iteration.of(result, time.perf_counter() - start)
        # The line first: one that is ahead of the checkpoint is dropped when the run goes on, but
        # one that is missing would never come.
        self._write(iteration, writer)
        algo.save_to_path(self.checkpoint)
        report(iteration)
        return iteration.num_updates

    def _write(self, iteration: Iteration, writer: Any) -> None:
        with self._progress.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(iteration.to_dict()) + "\n")
        step = iteration.num_updates
        scalars = {"updates_per_second": iteration.updates_per_second}
        scalars |= {f"train/{name}": value for name, value in iteration.metrics.items()}
        for agent, values in iteration.agent_metrics.items():
            scalars |= {f"{agent}/{name}": value for name, value in values.items()}
        evaluation = {
            TEAM_RETURN_MEAN: iteration.team_return,
            NORMALIZED_SCORE: iteration.normalised,
            FQE_RETURN: iteration.fqe_return,
            FQE_RETURN_LOWER: iteration.fqe_return_lower,
        }
        evaluation |= {f"{TEAM_RETURN_MEAN}/{t}": v for t, v in iteration.team_returns.items()}
        scalars |= {
            f"evaluation/{name}": value
            for name, value in evaluation.items()
            if value is not None and math.isfinite(value)
        }
        for name, value in scalars.items():
            writer.add_scalar(name, value, step)

    def _forget_after(self, num_updates: int) -> None:
        """Drop the lines of iterations that the checkpoint does not have, which will run again."""
        lines = self._lines()
        kept = [
            line
            for line in lines
            if line.endswith("\n") and json.loads(line)["num_updates"] <= num_updates
        ]
        if len(kept) < len(lines):
            write_text_whole(self._progress, "".join(kept))

    def _lines(self) -> list[str]:
        if not self._progress.exists():
            return []
        return self._progress.read_text(encoding="utf-8").splitlines(keepends=True)
