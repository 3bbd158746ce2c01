"""The README's python blocks run, in order, and its commands exist."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest

from rllib_om2p import OM2PConfig, cli
from rllib_om2p.core.settings import apply_settings, parse_settings
from tests.small_data import write_spread

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

# What makes the blocks quick; each must be found, so that a change of the README is noticed.
SMALLER = {
    "actor_hidden=(64, 64), critic_hidden=(64, 64)": "actor_hidden=(8,), critic_hidden=(8,)",
    "num_updates_per_iteration=500": "num_updates_per_iteration=3",
    "evaluation_duration=100": "evaluation_duration=2",
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.timeout(240)
@pytest.mark.usefixtures("ray_cluster")
def test_python_blocks_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_spread(tmp_path / "data" / "simple_spread-medium")
    source = "\n".join(blocks("python"))
    for long, short in SMALLER.items():
        assert long in source
        source = source.replace(long, short)
    names: dict[str, object] = {}
    exec(compile(source, "README.md", "exec"), names)
    assert {"algo", "best", "module", "writer"} <= set(names)
    names["algo"].stop()  # type: ignore[attr-defined]


def commands() -> list[str]:
    lines = [line for block in blocks("bash") for line in block.replace("\\\n", "").splitlines()]
    lines += re.findall(r"`([^`\n]+)`", README)
    return [line.split("#")[0].strip() for line in lines if line.startswith("rllib-om2p ")]


def test_commands_of_the_readme_are_those_of_the_program():
    named = {command.split()[1] for command in commands()} - {"COMMAND"}
    parts = [a for a in cli.build_parser()._actions if isinstance(a, argparse._SubParsersAction)]
    assert named == set(parts[0].choices)
    assert "settings" in named
    for command in commands():
        arguments = shlex.split(command)[1:]
        if arguments[0] == "COMMAND":
            continue
        if arguments[0] in ("make-dataset", "train") and "--out" not in arguments:
            arguments += ["--out", "DIR"]
        arguments = ["1" if word == "N" else word for word in arguments]
        parsed = cli.build_parser().parse_args(arguments)  # exits if an option does not exist
        if arguments[0] == "train" and "NAME=VALUE" not in arguments:
            apply_settings(OM2PConfig(), parse_settings(parsed.settings))


def test_first_commands_are_the_two_of_a_fresh_machine():
    first = blocks("bash")[0].splitlines()
    assert [line.split("#")[0].strip() for line in first] == ["make demo", "make test"]


def test_links_lead_to_files_and_their_sections():
    texts = [f for f in ROOT.rglob("*.md") if not {".venv", "demo"} & set(f.parts)]
    assert len(texts) > 20
    for text in texts:
        for link in re.findall(r"\]\((?!https?://)([^)]+)\)", text.read_text(encoding="utf-8")):
            name, _, section = link.partition("#")
            target = (text.parent / name).resolve() if name else text
            assert target.exists(), (text, link)
            if section:
                titles = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
                anchors = {re.sub(r"[^\w -]", "", t).lower().replace(" ", "-") for t in titles}
                assert section in anchors, (text, link)
