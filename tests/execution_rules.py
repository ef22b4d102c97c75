"""What in a source file could run code that comes from data: found in its syntax tree.

A name counts where it is used, called or not, under whatever alias it was imported.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("fastanf", "envs", "profiling")

MODULES = {
    "pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "jsonpickle", "shelve",
    "marshal", "yaml", "code", "codeop", "imp", "multiprocessing", "concurrent.futures.process",
    "torch.multiprocessing", "torch.package", "torch.hub",
}  # fmt: skip
"""Never imported: they run what they load, or exchange pickles."""
NAMES = {
    "torch.load", "torch.jit.load", "torch.export.load", "torch.package.PackageImporter",
    "torch.hub.load", "torch.ops.load_library", "torch.classes.load_library", "ctypes.CDLL",
    "ctypes.PyDLL", "ctypes.cdll", "pandas.read_pickle", "numpy.lib.format.read_array",
    "concurrent.futures.ProcessPoolExecutor", "logging.config.listen", "logging.config.fileConfig",
    "logging.config.dictConfig", "os.system", "os.popen", "os.startfile", "os.posix_spawn",
    "subprocess.getoutput", "subprocess.getstatusoutput", "pty.spawn", "runpy.run_path",
    "runpy.run_module", "eval", "exec", "compile", "__import__", "breakpoint",
    "importlib.util.spec_from_file_location", "importlib.machinery.SourceFileLoader",
}  # fmt: skip
PREFIXES = ("os.exec", "os.spawn")
ARRAYS = "numpy.load"
"""Allowed with allow_pickle=False, said there."""
IMPORTER = "importlib.import_module"
"""Allowed with the name of the module, said there."""
PROCESSES = ("subprocess.run", "subprocess.Popen", "subprocess.call", "subprocess.check_call",
             "subprocess.check_output")  # fmt: skip
"""Allowed with a list of arguments and no shell."""
_SHORT = {"np": "numpy", "pd": "pandas"}


def sources() -> list[Path]:
    """The program: every file that is installed or run."""
    folders = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    return [*folders, ROOT / "train.py"]


def findings(source: str) -> set[str]:
    """What is forbidden in the text of a file, by name."""
    tree = ast.parse(source)
    aliases, found = dict(_SHORT), set()
    for node in ast.walk(tree):
        for name, alias in _imported(node):
            found |= {module for module in MODULES if f"{name}.".startswith(f"{module}.")}
            aliases[alias] = name
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    types = {id(part) for kind in _annotations(tree) for part in ast.walk(kind)}
    for node in ast.walk(tree):
        name = None if id(node) in types else _dotted(node, aliases)
        if name is not None and not _is_allowed(name, calls.get(id(node))):
            found.add(name)
    return found


def _annotations(tree: ast.AST) -> Iterator[ast.expr]:
    for node in ast.walk(tree):
        for name in ("annotation", "returns"):
            if isinstance(kind := getattr(node, name, None), ast.expr):
                yield kind


def _imported(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Full names that a statement imports, and what they are called from then on."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            first = alias.name.split(".")[0]
            yield alias.name, alias.asname or alias.name
            if alias.asname is None:
                yield first, first
    elif isinstance(node, ast.ImportFrom):
        for alias in node.names:
            yield f"{node.module}.{alias.name}", alias.asname or alias.name


def _dotted(node: ast.AST, aliases: dict[str, str]) -> str | None:
    """The full name of what a name or a chain of attributes stands for."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return None
    name = ".".join([aliases.get(node.id, node.id), *reversed(parts)])
    return name.removeprefix("builtins.")


def _is_allowed(name: str, call: ast.Call | None) -> bool:
    if name in NAMES or name.startswith(PREFIXES):
        return False
    if name not in (ARRAYS, IMPORTER, *PROCESSES):
        return True
    if call is None:  # handed on, to be called with who knows what
        return False
    keywords = {word.arg: word.value for word in call.keywords}
    if name == ARRAYS:
        value = keywords.get("allow_pickle")
        return isinstance(value, ast.Constant) and value.value is False
    first = call.args[0] if call.args else None
    if name == IMPORTER:
        return isinstance(first, ast.Constant) and isinstance(first.value, str)
    is_text = isinstance(first, ast.JoinedStr | ast.BinOp | ast.Constant) or first is None
    return not is_text and not {"shell", "executable", "preexec_fn", None} & set(keywords)
