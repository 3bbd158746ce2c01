"""Who may import whom, and what a wheel must hold. The rules stand in pyproject.toml and here."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "rllib_om2p"
MODULES = sorted(PACKAGE.rglob("*.py"))

# import-linter sees the root of an outside package only, so `ray.rllib` apart from `ray.data` is
# checked here, as are imports inside functions and for type checking.
ENVIRONMENTS = {"gymnasium", "gymnasium_robotics", "mpe2", "mujoco", "pettingzoo", "pygame"}
PURE = {"ray", "pyarrow", "pandas", "matplotlib", *ENVIRONMENTS}
BANNED = {
    "ops": PURE,
    "nets": PURE,
    "data": {"torch", "ray.rllib", "ray.tune", "matplotlib", *ENVIRONMENTS},
    # Robots' episodes may be played by Ray tasks.
    "behaviour": {"ray.rllib", "ray.tune", "ray.data"},
}


def imported(source: str) -> Iterator[str]:
    """Yield every dotted name that a module imports, at whatever depth."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def breaches(source: str, banned: set[str]) -> set[str]:
    return {
        name
        for name in imported(source)
        if any(name == ban or name.startswith(f"{ban}.") for ban in banned)
    }


def test_layers_hold() -> None:
    # In a process of its own: import-linter disables all loggers of the process that it runs in.
    program = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports())"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import ray.data", set()),
        ("import rayon", set()),
        ("import ray.rllib.core", {"ray.rllib.core"}),
        ("from ray import rllib", {"ray.rllib"}),
        ("def f():\n    from ray.rllib import x", {"ray.rllib", "ray.rllib.x"}),
    ],
)
def test_the_search_for_breaches_finds_them(source: str, found: set[str]) -> None:
    assert breaches(source, {"ray.rllib"}) == found


@pytest.mark.parametrize("layer", sorted(BANNED))
def test_layer_does_not_know(layer: str) -> None:
    modules = sorted((PACKAGE / layer).rglob("*.py"))
    assert modules
    found = {
        str(module.relative_to(ROOT)): names
        for module in modules
        if (names := breaches(module.read_text(encoding="utf-8"), BANNED[layer]))
    }
    assert not found


@pytest.mark.parametrize(
    ("layer", "absent"),
    [("ops", ("ray", "pyarrow")), ("nets", ("ray", "pyarrow")), ("data", ("torch", "ray"))],
)
def test_importing_a_layer_alone_loads_nothing_it_must_not_know(
    layer: str, absent: tuple[str, ...]
) -> None:
    names = [
        ".".join(module.relative_to(ROOT).with_suffix("").parts)
        for module in (PACKAGE / layer).glob("*.py")
        if module.name not in ("__init__.py", "ray_source.py")  # the one that is Ray's
    ]
    lines = [f"import {name}" for name in names]
    code = "\n".join(
        ["import sys", *lines, f"print({absent!r} and set({absent!r}) & set(sys.modules))"]
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "set()", done.stdout + done.stderr


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module_says_what_it_is_for(module: Path) -> None:
    tree = ast.parse(module.read_text(encoding="utf-8"))
    docstring = ast.get_docstring(tree)
    assert docstring
    assert docstring.splitlines()[0].rstrip().endswith((".", ":", ";"))


def test_every_package_has_an_init() -> None:
    folders = {module.parent for module in MODULES}
    assert not [folder for folder in folders if not (folder / "__init__.py").is_file()]


def test_algorithms_are_public_names_that_type_checkers_see() -> None:
    import rllib_om2p
    from rllib_om2p import algorithms

    names = {cls.__name__: cls for pair in algorithms.ALGORITHMS.values() for cls in pair}
    assert names.keys() | {"ALGORITHMS"} == set(algorithms.__all__)
    assert names.keys() <= set(rllib_om2p.__all__)
    assert all(getattr(rllib_om2p, name) is cls for name, cls in names.items())
    source = (PACKAGE / "__init__.py").read_text(encoding="utf-8")
    stated = {name.rpartition(".")[2] for name in imported(source)}
    own = {"__version__", "register"}
    assert set(rllib_om2p.__all__) - own <= stated


def test_every_public_name_is_there() -> None:
    import rllib_om2p

    assert all(getattr(rllib_om2p, name) is not None for name in rllib_om2p.__all__)


def requirements() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = [line for lines in project["optional-dependencies"].values() for line in lines]
    return [Requirement(line) for line in [*project["dependencies"], *optional]]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def test_every_requirement_is_pinned_within_its_range() -> None:
    pinned = pins()
    for requirement in requirements():
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"constraints.txt does not pin {requirement.name}"
        assert requirement.specifier.contains(version), f"{requirement} excludes {version}"


def test_pins_install_from_any_index() -> None:
    # A local version label such as +cpu names a build that only some index has.
    assert not {name: version for name, version in pins().items() if "+" in version}


def test_what_is_installed_is_what_is_pinned() -> None:
    from importlib import metadata

    for name in ("ray", "torch", "numpy", "pyarrow", "gymnasium", "mpe2", "pettingzoo"):
        assert metadata.version(name).split("+")[0] == pins()[name], "run make setup"


def test_no_file_names_a_folder_of_a_machine_or_a_package_host() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if tracked.returncode:
        pytest.skip("not a git checkout")
    pattern = re.compile(
        r"/(?:home|root|work|Users)/\w|py" r"pi\.org|python" r"hosted|download\.py" r"torch"
    )
    found = []
    for name in filter(None, tracked.stdout.split("\0")):
        path = ROOT / name
        if path == Path(__file__) or not path.is_file():
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{name}: {match.group()}" for match in pattern.finditer(text)]
    assert not found


@pytest.mark.timeout(300)
def test_wheel_holds_the_package_its_types_licence_command_and_policies(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run([*command, "-w", tmp_path, ROOT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("rllib_om2p-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (info,) = {name.split("/")[0] for name in names if ".dist-info/" in name}
        entry_points = archive.read(f"{info}/entry_points.txt").decode()
        facts = archive.read(f"{info}/METADATA").decode()
    assert "rllib-om2p = rllib_om2p.cli:main" in entry_points
    assert "License-Expression: Apache-2.0" in facts
    assert f"{info}/licenses/LICENSE" in names
    assert "rllib_om2p/py.typed" in names
    assert {str(module.relative_to(ROOT)) for module in MODULES} <= names
    home = ROOT / "datasets" / "behaviour"
    policies = {str(path.relative_to(home)) for path in home.rglob("*.safetensors")}
    assert policies
    assert {f"rllib_om2p/behaviour/policies/{name}" for name in policies} <= names
    preys = PACKAGE.joinpath("envs", "prey_policies").glob("*.safetensors")
    shipped = {str(prey.relative_to(ROOT)) for prey in preys}
    assert shipped
    assert shipped <= names
    assert not {name for name in names if name.startswith(("tests/", "datasets/", "examples/"))}
    # It finds its own policies where nothing else of the repository is.
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    policy = (
        "from rllib_om2p.behaviour.policies import path; print(path('mpe/simple_spread/medium'))"
    )
    found = subprocess.run(
        [sys.executable, "-c", policy],
        cwd=tmp_path / "site",
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
    )
    assert found.stdout.startswith(str(tmp_path / "site" / "rllib_om2p")), found.stderr[-2000:]
