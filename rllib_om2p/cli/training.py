"""The command that trains."""

from __future__ import annotations

import argparse
import logging
import math
import shutil
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rllib_om2p import __all__ as PUBLIC
from rllib_om2p.cli.common import (
    AddCommand,
    add_prey,
    at_least,
    checkpoint_path,
    hint,
    shortest,
)
from rllib_om2p.core.settings import apply_settings, parse_settings

if TYPE_CHECKING:
    from rllib_om2p.core.config import OfflineConfig
    from rllib_om2p.core.run import Iteration, Run

TERMINATED = 143
NUM_UPDATES = 10_000


def add_commands(command: AddCommand) -> None:
    """Add train."""
    train = command("train", _train, "Train on a dataset; checkpoints and progress go to --out.")
    train.add_argument("input", metavar="DATASET", help="directory, file, glob or URI")
    train.add_argument("--out", required=True, metavar="DIR", help="directory of the run")
    # Their package would be slow to import for a text.
    others = [n for n in PUBLIC if f"{n}Config" in PUBLIC and n != "OM2P"]
    algorithms = textwrap.fill(f"OM2P (default), {', '.join(others)}", 60)
    train.add_argument("--algorithm", metavar="NAME", help=algorithms)
    train.add_argument(
        "--updates",
        type=at_least(1),
        metavar="N",
        help="gradient updates in total, those of a resumed run included,\n"
        f"rounded up to whole iterations ({NUM_UPDATES:,}; with --resume that run's total)",
    )
    train.add_argument(
        "--set",
        dest="settings",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="hyperparameters, such as eta=0.3 lr=1e-3 actor_hidden=128,128;\n"
        "`rllib-om2p settings` lists them",
    )
    train.add_argument("--seed", type=int, help="of weights, batches and noise (0)")
    train.add_argument(
        "--num-learners", type=at_least(0), metavar="N", help="0 (default): in this process"
    )
    train.add_argument("--env", help="evaluate in it; by default the dataset's, if we have it")
    add_prey(train)
    train.add_argument(
        "--eval-every",
        type=at_least(0),
        metavar="N",
        help="iterations between evaluations; 0: never (1)",
    )
    train.add_argument(
        "--eval-episodes", type=at_least(1), metavar="N", help="episodes of an evaluation (20)"
    )
    train.add_argument(
        "--resume",
        metavar="CHECKPOINT",
        help="continue from it, with its settings; this run's own --out,\n"
        "where nothing is saved yet, begins anew",
    )

    settings = command("settings", _settings, "List an algorithm's hyperparameters.")
    settings.add_argument("algorithm", nargs="?", default="OM2P", help=algorithms)


def _settings(options: argparse.Namespace) -> None:
    from rllib_om2p.algorithms import ALGORITHMS
    from rllib_om2p.core.setting_docs import RLLIBS, setting_docs

    _require_algorithm(options.algorithm)
    _, config_class = ALGORITHMS[options.algorithm]
    width = shutil.get_terminal_size().columns
    print(f"Settings of {config_class.__name__}, and of train --set, with their defaults in it:")
    method = None
    for found in setting_docs(config_class):
        if found.method != method:
            method = found.method
            print(f"\n{method}():")
        print(f"  {found.name} = {found.default!r}")
        print(textwrap.fill(found.text, width, initial_indent=" " * 6, subsequent_indent=" " * 6))
    fresh = config_class()
    print("\ntraining(), as in any RLlib algorithm (help(AlgorithmConfig.training)):")
    for name in RLLIBS:
        print(f"  {name} = {getattr(fresh, name)!r}")


def _require_algorithm(name: str, option: str = "ALGORITHM") -> None:
    from rllib_om2p.algorithms import ALGORITHMS

    if name not in ALGORITHMS:
        raise ValueError(f"{option} must be one of {list(ALGORITHMS)}, got {name!r}.")


def _train(options: argparse.Namespace) -> None:
    from rllib_om2p.core.console import quiet_ray
    from rllib_om2p.core.run import Run

    quiet_ray()
    if not options.traceback:
        # It logs the remote traceback of an error that reaches us as an exception anyway.
        logging.getLogger("ray.rllib.utils.actor_manager").setLevel(logging.CRITICAL)
    if options.resume and _has_saved_nothing(options):
        print(f"nothing is saved in {options.out} yet: beginning anew", flush=True)
        options.resume = None
    resume = checkpoint_path(options.resume) if options.resume else None
    with Run(options.out, resume=resume) as run:
        finished = _train_into(run, options)
    if not finished:
        resuming = f"; continue with --resume {shortest(run.checkpoint)}"
        print("ended by SIGTERM" + (resuming if run.checkpoint.exists() else ""), flush=True)
        raise SystemExit(TERMINATED)
    print(f"checkpoint: {run.checkpoint}")
    print(f"next: {hint('evaluate', shortest(run.checkpoint), '--gif', 'team.gif')}")
    print(f"      tensorboard --logdir {shortest(run.directory)}")


def _has_saved_nothing(options: argparse.Namespace) -> bool:
    """Whether --resume names what this run itself would have saved, before it saved anything.

    A job that always says so starts and, when it is tried again, goes on by one command.
    """
    from rllib_om2p.core.checkpoint import standing
    from rllib_om2p.core.run import CHECKPOINT

    own = Path(options.out).expanduser().resolve()
    given = Path(options.resume).expanduser().resolve()
    return given in (own, own / CHECKPOINT) and not standing(own / CHECKPOINT).exists()


def _train_into(run: Run, options: argparse.Namespace) -> bool:
    """Train and return whether all updates were made, which a SIGTERM prevents."""
    from rllib_om2p.core.console import start_ray

    config = _train_config(options)
    config.validate()
    per_iteration = config.num_updates_per_iteration
    total = math.ceil(_num_updates(options) / per_iteration) * per_iteration
    print(
        f"{type(config).__name__.removesuffix('Config')} on {config.dataset_spec.dataset_id}: "
        f"{total} updates, a line for every {per_iteration}",
        flush=True,
    )
    start_ray()
    algo = config.build_algo()
    try:
        if options.resume:
            algo.restore_from_path(checkpoint_path(options.resume))
            print(f"resumed at update {algo.num_updates}", flush=True)
            if options.seed is not None:
                print(
                    "--seed does not change weights, batches and noise: they go on from there",
                    flush=True,
                )
            if algo.num_updates >= total:
                raise ValueError(
                    f"{options.resume!r} has made {algo.num_updates} updates of {total} in total; "
                    "nothing is left to train. To go on, raise the total with --updates."
                )
        return run.train(
            algo, total, report=lambda iteration: print(_line(iteration, total), flush=True)
        )
    except KeyboardInterrupt:
        if run.checkpoint.exists():
            print(f"\nthe last checkpoint is {run.checkpoint}; continue with --resume", flush=True)
        raise
    finally:
        algo.stop()


def _num_updates(options: argparse.Namespace) -> int:
    """Return the total that is asked for now, or was when the resumed run began."""
    from rllib_om2p.core.run import planned_updates

    if options.updates is not None:
        return int(options.updates)
    planned = planned_updates(checkpoint_path(options.resume)) if options.resume else None
    return NUM_UPDATES if planned is None else planned


def _train_config(options: argparse.Namespace) -> OfflineConfig:
    """Return the config of the checkpoint or the algorithm, with the given options on top."""
    from rllib_om2p.algorithms import ALGORITHMS
    from rllib_om2p.core.checkpoint import read_config

    name = options.algorithm or "OM2P"
    _require_algorithm(name, "--algorithm")
    config: OfflineConfig
    if options.resume:
        config = read_config(checkpoint_path(options.resume))
        if options.algorithm and config.algo_class is not ALGORITHMS[name][0]:
            raise ValueError(f"{options.resume!r} is not a checkpoint of {name}; leave it out.")
    else:
        config = ALGORITHMS[name][1]()
        config.debugging(seed=0)
    config.offline_data(input_=options.input)
    settings = parse_settings(options.settings)
    apply_settings(config, settings)
    if options.seed is not None:
        config.debugging(seed=options.seed)
    if options.num_learners is not None:
        config.learners(num_learners=options.num_learners)
    config.num_updates_per_iteration = min(config.num_updates_per_iteration, _num_updates(options))
    _set_evaluation(config, options, settings)
    return config.debugging(log_level="ERROR")


def _set_evaluation(
    config: OfflineConfig, options: argparse.Namespace, settings: Mapping[str, Any]
) -> None:
    from rllib_om2p import envs
    from rllib_om2p.core.environments import dataset_settings, require_environment

    spec = config.dataset_spec
    env, every = options.env or spec.env, options.eval_every
    for flag, value, name in (
        ("--eval-every", every, "evaluation_interval"),
        ("--eval-episodes", options.eval_episodes, "evaluation_duration"),
    ):
        if value is not None and name in settings:
            raise ValueError(f"{flag} and --set {name}=... say the same; give one of them.")
    if "evaluation_interval" in settings:
        every = settings["evaluation_interval"] or 0
    if every is None and options.resume:
        every = config.evaluation_interval or (1 if options.env else 0)
    if every is None:
        every = 1 if options.env or spec.env in envs.names() else 0
    if options.env:
        require_environment(options.env)
        config.environment(options.env)
    if options.prey:
        if spec.env is None or env != spec.env:
            raise ValueError(
                f"--prey belongs to the dataset's own environment, {spec.env!r}; got {env!r}. "
                "Leave --prey out."
            )
        config.environment(env, env_config=dataset_settings(spec, options.prey))
    config.evaluation(evaluation_interval=every or None)
    is_given = options.resume or "evaluation_duration" in settings
    if options.eval_episodes is not None or not is_given:
        config.evaluation(evaluation_duration=options.eval_episodes or 20)


def _line(iteration: Iteration, total: int) -> str:
    from rllib_om2p.evaluation.scores import number

    names = {"actor_loss": "actor", "bc_loss": "bc", "critic_loss": "critic", "q": "q"}
    width = len(str(total))
    parts = [
        f"update {iteration.num_updates:{width}d}/{total}",
        f"{iteration.updates_per_second:.0f}/s",
    ]
    parts += [
        f"{short} {iteration.metrics[name]:.3f}"
        for name, short in names.items()
        if name in iteration.metrics
    ]
    if iteration.team_return is not None:
        score = iteration.normalised
        shown = "" if score is None else f" (normalised {score:.1f})"
        parts.append(f"return {number(iteration.team_return)}{shown}")
    parts += [f"{team} {number(value)}" for team, value in iteration.team_returns.items()]
    if iteration.fqe_return is not None:
        lower = iteration.fqe_return_lower
        shown = "" if lower is None else f" (lower {number(lower)})"
        parts.append(f"expected return {number(iteration.fqe_return)}{shown}")
    return "  ".join(parts)
