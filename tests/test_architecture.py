"""Rules that hold over all files: who imports whom, who prints, which words never appear."""

from __future__ import annotations

import ast
import itertools
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import LONGEST

ROOT = Path(__file__).parents[1]
PACKAGES = ("fastanf", "envs", "profiling")
MJX_FILES = re.compile(r"envs/mjx_\w+\.py")

# Lowest first; a module imports from its own level or below. What is not named is at the level of
# `fastanf.config`: options, plans, records and their presentation.
LEVELS: tuple[tuple[str, ...], ...] = (
    ("fastanf.kernels", "fastanf.instrument"),
    ("fastanf.rng", "fastanf.lanes", "fastanf.activations", "fastanf.activation_functions"),
    ("fastanf.nets", "fastanf.chain", "fastanf.sparse", "fastanf.features", "fastanf.replay",
     "fastanf.final_slots", "fastanf.replay_state", "fastanf.observation_statistics",
     "envs.interface", "envs.noise",
     "envs.registry", "envs.empirical", "envs"),
    ("fastanf.algorithms",),
    ("fastanf.learner", "fastanf.quarantine", "fastanf.graphs", "fastanf.collect",
     "fastanf.evaluate", "envs.episode_log",
     "envs.envpool_backend", "envs.gymnasium_backend", "envs.mjx_backend",
     "envs.mjx_simulation", "envs.mjx_tasks", "envs.mjx_frames", "envs.playback",
     "envs.rendering", "envs.rendering_process", "envs.window", "fastanf.simulator"),
    ("fastanf.config", "fastanf"),
    ("fastanf.runner", "fastanf.cluster"),
    ("fastanf.__main__", "fastanf.report", "fastanf.view", "train", "profiling"),
)  # fmt: skip
LEVEL_OF = {name: level for level, names in enumerate(LEVELS) for name in names}
PRINTERS = {"fastanf/runner.py", "fastanf/cli.py", "fastanf/__main__.py", "fastanf/progress.py",
            "fastanf/view.py", "fastanf/cluster/command.py"}  # fmt: skip


def level_of(module: str) -> int:
    """Of the longest known prefix of a dotted name."""
    parts = module.split(".")
    for end in range(len(parts), 0, -1):
        level = LEVEL_OF.get(".".join(parts[:end]))
        if level is not None:
            return level
    raise AssertionError(f"{module} belongs to no level")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {
    module_name(path): path
    for path in [
        *itertools.chain.from_iterable(sorted((ROOT / p).rglob("*.py")) for p in PACKAGES),
        ROOT / "train.py",
    ]
}


def is_for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def nodes_of(tree: ast.AST, with_types: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(tree):
        if with_types or not is_for_types_only(child):
            yield child
            yield from nodes_of(child, with_types)


def imports_of(path: Path, with_types: bool = True) -> set[str]:
    """Dotted names that a file imports anywhere; `from package import module` names the module."""
    names: set[str] = set()
    for node in nodes_of(ast.parse(path.read_text(encoding="utf-8")), with_types):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            module = node.module or ""
            for alias in node.names:
                submodule = f"{module}.{alias.name}"
                names.add(submodule if submodule in SOURCES else module)
    return names


IMPORTS = {module: imports_of(path) for module, path in SOURCES.items()}


def own(names: set[str]) -> set[str]:
    return {name for name in names if name.split(".")[0] in (*PACKAGES, "train")}


@pytest.mark.parametrize("module", SOURCES)
def test_imports_go_downward(module: str) -> None:
    for imported in own(IMPORTS[module]):
        assert imported in SOURCES, f"{module} imports {imported}, which does not exist"
        assert level_of(imported) <= level_of(module), f"{module} imports {imported} from above"


def test_every_named_layer_is_where_it_was_meant_to_be() -> None:
    assert level_of("fastanf.kernels.noise") < level_of("fastanf.rng") < level_of("fastanf.nets")
    assert level_of("fastanf.sparse.masks") == level_of("envs.noise")
    assert level_of("fastanf.records") == level_of("fastanf.checkpoint") == level_of("fastanf.cli")
    assert level_of("fastanf.records") < level_of("fastanf.runner") < level_of("train")
    for name in ("fastanf.kernels", "fastanf.rng", "fastanf.nets", "fastanf.algorithms", "envs"):
        assert name in SOURCES


def test_imports_have_no_cycle() -> None:
    graph = {
        module: {name for name in own(imports_of(path, with_types=False)) if name != module}
        for module, path in SOURCES.items()
    }
    # A package and its modules import each other by design: the package's names are re-exports.
    for module, imported in graph.items():
        graph[module] = {name for name in imported if not module.startswith(f"{name}.")}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"cycle: {' -> '.join((*path, module))}"
        if module not in done:
            for imported in sorted(graph[module]):
                visit(imported, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_environments_know_nothing_of_the_learner() -> None:
    for module, names in IMPORTS.items():
        if module.split(".")[0] == "envs":
            assert not any(name.split(".")[0] == "fastanf" for name in names), module


def test_engines_stay_in_their_files() -> None:
    for module, path in SOURCES.items():
        file = path.relative_to(ROOT).as_posix()
        roots = {name.split(".")[0] for name in IMPORTS[module]}
        if not MJX_FILES.fullmatch(file):
            assert not roots & {"jax", "jaxlib"}, file
        if not file.startswith("fastanf/kernels/"):
            assert "triton" not in roots, file
        if not file.startswith(("envs/", "profiling/")):
            assert not roots & {"mujoco", "envpool", "gymnasium"}, file


def test_libraries_do_not_print() -> None:
    for path in SOURCES.values():
        file = path.relative_to(ROOT).as_posix()
        if file in PRINTERS or file.startswith("profiling/"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "print", f"{file}:{node.lineno} prints"


def test_every_file_opens_with_what_it_is() -> None:
    for path in SOURCES.values():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), f"{path.relative_to(ROOT)} has no docstring"


def project_files() -> list[Path]:
    """Every file of the project; without git, those of its folders."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others"]
    try:
        listed = subprocess.run([*command, "--exclude-standard"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        folders = [ROOT / name for name in (*PACKAGES, "tests", "docs")]
        return [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    return [path for path in paths if path.is_file()]


# Spelled in parts, so that this file does not contain them.
FORBIDDEN = re.compile("|".join(("ses" + "sion", "issue" + " #", "/wo" + "rk/")), re.IGNORECASE)
OTHERS_NAMES = re.compile(f'scope="{"ses" + "sion"}"|(Ses{"sion"}Log|ses{"sion"}_log)')
"""Of pytest and of TensorBoard."""


def test_files_that_are_tested_first_are_there() -> None:
    assert set(LONGEST) <= {path.name for path in (ROOT / "tests").rglob("test_*.py")}


def test_words_of_the_workshop_do_not_appear() -> None:
    files = project_files()
    assert len(files) > 50
    for path in files:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # data
            continue
        for number, line in enumerate(text.splitlines(), start=1):
            found = FORBIDDEN.search(OTHERS_NAMES.sub("", line))
            assert found is None, f"{path.relative_to(ROOT)}:{number} has {found[0]!r}"
