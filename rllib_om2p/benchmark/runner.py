"""A suite's missing cells as one Tune run: a trial per cell, in worker processes that live long.

Starting a worker costs many seconds of processor time, so each trains one cell after the other
(Tune's reuse_actors). What counts as done are the result files; Tune's own state is thrown away.
"""

from __future__ import annotations

import gc
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ray import tune
from ray.tune import Callback, CheckpointConfig, FailureConfig, Stopper

from rllib_om2p.benchmark.cells import Cell, failure_file, write_json
from rllib_om2p.benchmark.training import CellRun
from rllib_om2p.evaluation.scores import number

_QUIET_TUNE = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # three more logs of each trial
    "RAY_AIR_NEW_OUTPUT": "0",  # prints errors whatever its verbosity
}
_RETURN, _UPDATES, _FINISHED = "team_return", "num_updates", "finished"


class Outcome(NamedTuple):
    """How many cells of a run ended in which way.

    Attributes:
        done: With a result.
        failed: With an error.
        left: Neither; their turn did not come, or they saved themselves.
        is_interrupted: Whether some are left because of Ctrl-C, not because time was up.
    """

    done: int
    failed: int
    left: int
    is_interrupted: bool = False


@dataclass
class _Progress:
    """What the driver knows of the run; shared by the callback and the stopper."""

    total: int
    deadline: float
    report: Callable[[str], None]
    done: int = 0
    failed: int = 0
    running: int = 0


def run_cells(
    cells: Sequence[Cell],
    folder: Path,
    *,
    facts: Mapping[str, Any],
    workers: int,
    max_minutes: float | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Train cells and write one result each; Ray must be running, and the folder held.

    Args:
        cells: Those to do, in this order.
        folder: Of the results.
        facts: Who makes the numbers, for every record.
        workers: Cells that are trained at the same time.
        max_minutes: After that no cell is started, and those that run save themselves and stop.
        report: Receives a line for each cell that ended.
    """
    if not cells:
        return Outcome(0, 0, 0)
    deadline = time.time() + 60.0 * max_minutes if max_minutes is not None else float("inf")
    progress = _Progress(len(cells), deadline, report)
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder.resolve() / ".tune"
    with _quiet_tune():
        try:
            shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed
            _tuner(cells, folder, facts, workers, progress, str(scratch)).fit()
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    left = progress.total - progress.done - progress.failed
    # Tune keeps Ctrl-C to itself: it ends the run as if all was done (tune/tune.py:218).
    is_interrupted = left > 0 and time.time() < deadline
    return Outcome(progress.done, progress.failed, left, is_interrupted)


def _tuner(
    cells: Sequence[Cell],
    folder: Path,
    facts: Mapping[str, Any],
    workers: int,
    progress: _Progress,
    scratch: str,
) -> tune.Tuner:
    gpus = cells[0].gpus
    return tune.Tuner(
        tune.with_resources(CellTrial, {"cpu": 1, "gpu": gpus} if gpus else {"cpu": 1}),
        param_space={
            "cell": tune.grid_search([asdict(cell) for cell in cells]),
            "folder": str(folder.resolve()),
            "facts": dict(facts),
            "deadline": progress.deadline,
        },
        tune_config=tune.TuneConfig(
            max_concurrent_trials=workers,
            reuse_actors=not cells[0].fresh_process,
            trial_name_creator=lambda trial: str(Cell(**trial.config["cell"]).name),
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        ),
        run_config=tune.RunConfig(
            name="benchmark",
            storage_path=scratch,
            verbose=0,
            stop=_StopAtDeadline(progress),
            failure_config=FailureConfig(max_failures=0),
            checkpoint_config=CheckpointConfig(checkpoint_at_end=False),
            callbacks=[_Reporter(progress, folder)],
        ),
    )


class CellTrial(tune.Trainable):
    """One cell as a Tune trial; a worker passes from one to the next."""

    _run: CellRun | None = None

    def setup(self, config: dict[str, Any]) -> None:
        """Begin a cell."""
        self._deadline = config["deadline"]
        if time.time() < self._deadline:
            self._run = CellRun(Cell(**config["cell"]), Path(config["folder"]), config["facts"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Leave the last cell and begin another."""
        self.cleanup()
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train to the next point of the curve; after the last one write the result."""
        run = self._run
        if run is None:
            return {"done": True, _FINISHED: False}
        score = run.advance()
        if run.is_trained:
            record = run.finish()
            returns = record["returns"]
            score = sum(returns) / len(returns) if returns else None
        is_late = time.time() >= self._deadline
        if is_late and not run.is_trained:
            run.save()
        return {
            "done": run.is_trained or is_late,
            _FINISHED: run.is_trained,
            _UPDATES: run.num_updates,
            _RETURN: score,
        }

    def cleanup(self) -> None:
        """Free the learner of the last cell."""
        if self._run is not None:
            self._run.stop()
            self._run = None
            gc.collect()  # RLlib's learners hold themselves, with their table, in a cycle


class _StopAtDeadline(Stopper):
    """Forgets the cells that wait, once those that ran have saved themselves."""

    def __init__(self, progress: _Progress) -> None:
        self._progress = progress

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return time.time() >= self._progress.deadline and self._progress.running == 0


class _Reporter(Callback):
    """Counts what ended, reports it, and writes the errors of cells that failed."""

    def __init__(self, progress: _Progress, folder: Path) -> None:
        self._progress, self._folder = progress, folder
        self._begun = time.monotonic()
        self._starts: dict[str, float] = {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._progress.running += 1
        self._starts[trial.trial_id] = time.monotonic()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        start = self._end(trial)
        result = trial.last_result
        if not result.get(_FINISHED):
            return
        cell = Cell(**trial.config["cell"])
        failure_file(self._folder, cell).unlink(missing_ok=True)
        self._progress.done += 1
        score = result[_RETURN]
        shown = f"{result[_UPDATES]} updates" if score is None else f"return {number(score)}"
        self._report(start, cell, shown)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        start = self._end(trial)
        self._progress.failed += 1
        cell = Cell(**trial.config["cell"])
        # trial.get_error() looks where Tune would copy the file later.
        text = Path(trial.error_file).read_text(encoding="utf-8")
        write_json(failure_file(self._folder, cell), {"cell": cell.identity(), "error": text})
        last_line = text.strip().splitlines()[-1]
        self._report(start, cell, f"FAILED: {last_line}")

    def _end(self, trial: Any) -> float:
        """Return when a trial was started; Tune does not call it so if its setup failed."""
        if trial.trial_id not in self._starts:
            return time.monotonic()
        self._progress.running -= 1
        return self._starts.pop(trial.trial_id)

    def _report(self, start: float, cell: Cell, text: str) -> None:
        progress = self._progress
        ended = progress.done + progress.failed
        seconds = time.monotonic() - start
        rest = (time.monotonic() - self._begun) / ended * (progress.total - ended)
        progress.report(
            f"[{ended}/{progress.total}] {cell.dataset} {cell.method} seed {cell.seed}: {text} "
            f"({seconds:.0f} s; about {rest / 60:.0f} min to go)"
        )


@contextmanager
def _quiet_tune() -> Iterator[None]:
    """Keep Tune's logs and words out of a benchmark, and leave those of later runs as they were."""
    logger = logging.getLogger("ray.tune.tune")
    level, before = logger.level, {name: os.environ.get(name) for name in _QUIET_TUNE}
    logger.setLevel(logging.CRITICAL)  # our lines name what failed
    os.environ.update(_QUIET_TUNE)
    try:
        yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
