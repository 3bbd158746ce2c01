"""Commands that make, import and check datasets."""

from __future__ import annotations

import argparse

from rllib_om2p.cli.common import AddCommand, hint, say
from rllib_om2p.disk import local_path


def add_commands(command: AddCommand) -> None:
    """Add make-dataset, make-behaviour, make-prey, import and audit."""
    make = command("make-dataset", _make_dataset, "Write a dataset with the behaviour policies.")
    make.add_argument("env", metavar="ENV", help="such as mpe/simple_spread")
    make.add_argument(
        "quality", metavar="QUALITY", help="random, medium-replay, medium, medium-expert or expert"
    )
    make.add_argument(
        "--steps", type=int, help="joint steps (100,000; medium-replay: as in the papers)"
    )
    make.add_argument("--out", required=True, metavar="DIR", help="where to write it")
    make.add_argument("--seed", type=int, default=0, help="of start states and noise (0)")
    make.add_argument(
        "--expert-fraction",
        type=float,
        help="part of the expert in medium-expert (mpe: 0.1, mamujoco and lbf: 0.5)",
    )
    make.add_argument("--policies", metavar="DIR", help="where make-behaviour wrote (our own)")
    make.add_argument(
        "--prey",
        metavar="FILE",
        help="simple_tag, simple_world: prey (our own); agent: our own as a fourth agent",
    )
    make.add_argument(
        "--discrete", action="store_true", help="mpe: five actions in place of the forces"
    )
    make.add_argument(
        "--observations", help="what a robot's agents see: local or full (as in the papers)"
    )
    make.add_argument(
        "--workers",
        type=int,
        default=0,
        metavar="N",
        help="Ray tasks that play a robot's episodes; 0: in this process (0)",
    )
    make.add_argument("--overwrite", action="store_true", help="replace a dataset that is there")

    behave = command("make-behaviour", _make_behaviour, "Train behaviour policies.")
    behave.add_argument("env", metavar="ENV", help="such as mamujoco/3x1-Hopper")
    behave.add_argument("--out", required=True, metavar="DIR", help="where to write them")
    behave.add_argument("--seed", type=int, default=0, help="of everything (0)")
    behave.add_argument(
        "--minutes",
        type=float,
        metavar="M",
        help="mamujoco: stop after M minutes; the same command goes on from there",
    )
    behave.add_argument("--prey", metavar="FILE", help="simple_tag, simple_world: prey (our own)")

    prey = command("make-prey", _make_prey, "Train the prey of simple_tag or simple_world.")
    prey.add_argument("env", metavar="ENV", help="mpe/simple_tag or mpe/simple_world")
    prey.add_argument("--out", required=True, metavar="DIR", help="where to write it")
    prey.add_argument("--seed", type=int, default=0, help="of everything (0)")

    _add_import(command("import", _import, "Bring a public dataset into this package's files."))

    audit = command("audit", _audit, "Check a dataset and show what is in it.")
    audit.add_argument("input", metavar="DATASET", help="directory, file, glob or URI")
    audit.add_argument("--out", metavar="DIR", help="write audit.md, audit.json, returns.png there")


def _make_dataset(options: argparse.Namespace) -> None:
    from rllib_om2p.behaviour import make_dataset

    if options.workers > 0:
        from rllib_om2p.core.console import start_ray

        start_ray(num_cpus=options.workers)
    out = make_dataset(
        options.env,
        options.quality,
        steps=options.steps,
        out=options.out,
        seed=options.seed,
        expert_fraction=options.expert_fraction,
        policy_folder=options.policies,
        prey=options.prey,
        observations=options.observations,
        continuous_actions=not options.discrete,
        workers=options.workers,
        overwrite=options.overwrite,
        progress=say,
    )
    from rllib_om2p.data.reader import OfflineDataset
    from rllib_om2p.evaluation.scores import number

    summary = OfflineDataset.open(str(out)).statistics().team_return
    print(f"{out}: team return {number(summary.mean)} on average, {number(summary.std)} sd")
    print(f"next: {hint('audit', out)}, or {hint('train', out, '--out', 'runs/NAME')}")


def _make_behaviour(options: argparse.Namespace) -> None:
    from rllib_om2p.behaviour import make_behaviour

    files = make_behaviour(
        options.env,
        options.out,
        seed=options.seed,
        minutes=options.minutes,
        prey=options.prey,
        progress=say,
    )
    for quality, file in files.items():
        print(f"{quality}: {file}")
    if "medium" in files:
        prey = ["--prey", options.prey] if options.prey else []
        request = [options.env, "medium", "--policies", options.out, *prey, "--out", "DIR"]
        print(f"next: {hint('make-dataset', *request)}")


def _make_prey(options: argparse.Namespace) -> None:
    from rllib_om2p.behaviour.prey import make_prey

    file = make_prey(
        options.env,
        options.out,
        seed=options.seed,
        progress=say,
    )
    print(f"next: {hint('make-behaviour', options.env, '--prey', file, '--out', 'DIR')}")


def _add_import(parser: argparse.ArgumentParser) -> None:
    from rllib_om2p.data.importers.options import add_arguments

    parser.add_argument("source", help="omar, og-marl, omiga, minari or rllib")
    parser.add_argument(
        "path", metavar="PATH", help="folder, file, or URI such as hf://datasets/..."
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="where to write it")
    parser.add_argument("--overwrite", action="store_true", help="replace a dataset that is there")
    add_arguments(parser)


def _import(options: argparse.Namespace) -> None:
    from rllib_om2p.data.importers.options import from_arguments
    from rllib_om2p.data.importers.stream import import_dataset

    found = import_dataset(
        options.source,
        options.path,
        out=options.out,
        options=from_arguments(options),
        overwrite=options.overwrite,
        progress=say,
    )
    print(found.summary())
    train = hint("train", options.out, "--out", "runs/NAME")
    print(f"next: {hint('audit', options.out)}, or {train}")


def _audit(options: argparse.Namespace) -> None:
    from rllib_om2p.data.audit import audit
    from rllib_om2p.data.reader import OfflineDataset
    from rllib_om2p.evaluation.figures import save_return_histogram

    found = audit(OfflineDataset.open(options.input))
    print(found.to_markdown())
    if options.out:
        files = [*found.save(options.out), local_path(options.out) / "returns.png"]
        save_return_histogram(
            files[-1],
            found.returns.edges,
            found.returns.counts,
            lines={"mean": found.statistics.team_return.mean},
            title=found.spec.dataset_id,
        )
        for file in files:
            print(f"written: {file}")
