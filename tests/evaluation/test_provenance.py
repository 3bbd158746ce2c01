"""Provenance: complete, writable as json, and without a folder or a foreign commit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rllib_om2p.evaluation import provenance as module
from rllib_om2p.evaluation.provenance import describe_machine, provenance


def test_facts_are_complete_and_writable() -> None:
    facts = provenance("make demo")
    assert json.loads(json.dumps(facts)) == facts
    assert facts["command"] == "make demo"
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))
    packages = facts["packages"]
    assert isinstance(packages, dict)
    assert {"ray", "torch", "numpy"} <= set(packages)


def test_machine_is_one_line_with_cores_and_memory() -> None:
    line = describe_machine(module.machine())
    assert f"{len(os.sched_getaffinity(0))} cores" in line
    assert "GiB" in line
    assert "\n" not in line


def test_gpus_are_named() -> None:
    facts = {"cpu": "CPU", "cores": 4, "memory_gib": 1.0, "gpus": ["GPU A"]}
    assert describe_machine(facts) == "CPU, 4 cores, 1.0 GiB, GPU A"


def test_arguments_are_quoted_as_a_shell_needs_them() -> None:
    assert provenance(["train", "--name", "two words"])["command"] == "train --name 'two words'"


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["/venv/bin/python", "-m", "package.tool", "x"], "python -m package.tool x"),
        (["/venv/bin/python3", "/venv/bin/rllib-om2p", "audit", "x"], "rllib-om2p audit x"),
        (["/venv/bin/python", "HERE/examples/demo.py"], "python examples/demo.py"),
        (["/venv/bin/x", "/venv/bin/x", "--data=/mnt/a/set", "in=HERE/b"], "x --data=set in=b"),
    ],
)
def test_own_command_names_no_folder_of_this_machine(
    monkeypatch: pytest.MonkeyPatch, argv: list[str], expected: str
) -> None:
    here = str(Path.cwd())
    monkeypatch.setattr(sys, "orig_argv", [word.replace("HERE", here) for word in argv])
    assert provenance()["command"] == expected


def test_installed_inside_another_checkout_the_commit_is_not_borrowed(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    shutil.copy(module.__file__, tmp_path / "copied.py")
    code = "import copied; print(copied.provenance('x')['commit'])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "None"


def test_what_a_command_writes_does_not_make_its_commit_dirty(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        who = ["-c", "user.name=n", "-c", "user.email=e"]
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    package = tmp_path / "package"
    (tmp_path / "cards").mkdir()
    package.mkdir()
    shutil.copy(module.__file__, package / "copied.py")
    written = [tmp_path / "cards" / "a.json", tmp_path / "RESULTS.md"]
    for file in (*written, tmp_path / "recipe.py"):
        file.write_text("before")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "all")

    def dirty() -> str:
        code = (
            "import copied, pathlib as p; print(copied.provenance('x')['dirty'], copied.provenance("
            "'x', outputs=[p.Path('../cards'), p.Path('../RESULTS.md'), p.Path('/')])['dirty'])"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=package, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    assert dirty() == "False False"
    for file in written:
        file.write_text("after")
    assert dirty() == "True False"
    (tmp_path / "recipe.py").write_text("after")
    assert dirty() == "True True"
