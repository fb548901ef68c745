"""Which of this package's code a step can reach, and a digest of it: what a stored result depends on.

The source is read, nothing is imported. Of a module that a step's function imports, at the top of its own module or
while it runs, everything counts, and so do the modules that it imports in turn, and the data files that lie beside them
or that they name. Of a module that defines steps only what the function itself uses counts: its neighbours' bodies do
not, unless it calls them. What changes no result is left out: comments, docstrings, and the descriptions of settings.
"""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hpe_tasks.pipeline.syntax import (
    Import,
    Mentions,
    Module,
    deciding_parts,
    imports_of,
    mentions_of,
    step_call,
    syntax_digest,
)
from hpe_tasks.storage.files import digest_of, sha256_file

_PACKAGE = Path(__file__).parents[1]

_MACHINERY = "hpe_tasks.pipeline.step"
"""What runs every step: how inputs are found, and how results are kept."""

_DECIDING_LIBRARIES = {
    *("aimet-torch", "aimet-onnx", "torch", "torchvision", "onnx", "onnxruntime"),
    *("numpy", "scipy", "opencv-python-headless", "pillow", "faster-coco-eval", "pycocotools", "great_expectations"),
}
"""Libraries whose code decides results: names as their distributions have them."""


@cache
def code_version(body: Callable[..., Any]) -> str:
    """Digest of the code that a step's function can reach, and of the libraries that decide results."""
    return digest_of([reach_of(body).parts, _libraries()])


@cache
def reach_of(body: Callable[..., Any]) -> Reach:
    """What a step's function can reach."""
    graph = _own_source()
    module, name = body.__module__, body.__qualname__
    if module in graph.modules and name in graph.modules[module].bound:
        return graph.reach((module, name), whole=(_MACHINERY,))
    # Of a step that a function has made, or of one of another package, the whole file counts.
    if module in graph.modules:
        return graph.reach_of_modules(module, _MACHINERY)
    file = Path(inspect.getsourcefile(body) or sys.modules[module].__file__ or "")
    return graph.reach_from_file(file, whole=(_MACHINERY,))


@cache
def _own_source() -> Source:
    return Source(_PACKAGE)


@cache
def _libraries() -> dict[str, str]:
    return {d.name: d.version for d in importlib.metadata.distributions() if d.name in _DECIDING_LIBRARIES}


@dataclass(frozen=True)
class Reach:
    """What a function can reach.

    Attributes:
        parts: Digest of each part: a module by its name, a part of one as `module:name`, a data file by its path.
        modules: The modules that these are, or are parts of.
        files: The data files.
    """

    parts: dict[str, str]
    modules: frozenset[str]
    files: frozenset[Path]


class Source:
    """The source of a package.

    Args:
        package: Its folder.
    """

    def __init__(self, package: Path) -> None:
        self.package = package
        self.modules = {
            name: Module(name, path, is_package=path.name == "__init__.py")
            for path in sorted(package.rglob("*.py"))
            for name in (_name_of(path, package),)
        }
        self.data = tuple(path for path in sorted(package.rglob("*")) if _is_data(path))

    def reach(self, function: tuple[str, str], *, whole: tuple[str, ...] = ()) -> Reach:
        """What a function, given by its module and its name there, can reach, with some whole modules."""
        walk = _Walk(self)
        walk.use(*function, root=True)
        for name in whole:
            walk.enter(name)
        return walk.result()

    def reach_of_modules(self, *names: str) -> Reach:
        """What whole modules can reach, and they themselves."""
        walk = _Walk(self)
        for name in names:
            walk.enter(name)
        return walk.result()

    def reach_from_file(self, file: Path, *, whole: tuple[str, ...] = ()) -> Reach:
        """What a file outside of the package can reach in it, and the file itself."""
        walk, module = _Walk(self), Module(file.stem, file, is_package=False)
        walk.parts[file.name] = module.digest
        for imported in module.mentions.imports:
            walk.follow(imported, root=imported.known_as in module.mentions.called)
        for name in whole:
            walk.enter(name)
        return walk.result()

    def has(self, name: str) -> bool:
        """Whether there is a module of this name."""
        return name in self.modules

    def below(self, package: str) -> Iterator[str]:
        """The modules of a package, and of those inside it."""
        return (name for name in self.modules if name.startswith(f"{package}."))


class _Walk:
    """From a function on, everything that can be reached, each part once."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.parts: dict[str, str] = {}
        self.entered: set[str] = set()
        self.roots: set[str] = set()

    def use(self, module_name: str, name: str, *, root: bool = False) -> None:
        """A name of a module that defines steps, with all that its value is made of.

        Args:
            module_name: The module.
            name: Of a function, a constant or an import of it.
            root: It is called: of a step its function counts.
        """
        module, part = self.source.modules[module_name], f"{module_name}:{name}"
        if part in (self.roots if root else self.parts) or name not in module.bound:
            return
        if self._is_step(module, name) and not root:
            return  # only a handle: what that step does reaches the asking one as a record
        self.parts[part] = ""
        self.roots |= {part} if root else set()
        self._parents(module_name)
        digests = []
        for statement in module.bound[name]:
            if isinstance(statement, ast.Import | ast.ImportFrom):
                for imported in imports_of(module, statement):
                    if imported.known_as == name:
                        self.follow(imported, root=root)
                continue
            nodes = deciding_parts(statement)
            digests += [syntax_digest(node) for node in nodes]
            for node in nodes:
                self._within(module, node)
        self.parts[part] = digest_of(digests)
        if name:
            self.use(module_name, "")

    def _within(self, module: Module, node: ast.AST) -> None:
        mentions = mentions_of(module, node)
        self._follow_all(module, mentions)
        for inner in ast.walk(node):
            if isinstance(inner, ast.Name):
                self.use(module.name, inner.id, root=inner.id in mentions.called)

    def _is_step(self, module: Module, name: str) -> bool:
        return any(step_call(statement) is not None for statement in module.bound.get(name, ()))

    def follow(self, imported: Import, *, root: bool = False) -> None:
        """What an import makes reachable; with `root` it is called."""
        submodule = f"{imported.module}.{imported.name}"
        if imported.name and self.source.has(submodule):
            self.enter(submodule)
        elif not self.source.has(imported.module):
            return
        elif imported.name and self.source.modules[imported.module].defines_steps:
            self.use(imported.module, imported.name, root=root)
        else:
            self.enter(imported.module)

    def enter(self, name: str) -> None:
        """A whole module, and what it imports."""
        if name in self.entered or not self.source.has(name):
            return
        self.entered.add(name)
        module = self.source.modules[name]
        self.parts[name] = module.digest
        self._parents(name)
        self._follow_all(module, module.mentions)

    def _follow_all(self, module: Module, mentions: Mentions) -> None:
        for imported in mentions.imports:
            self.follow(imported, root=imported.known_as in mentions.called)
        for text in mentions.texts:
            self.enter(text)
            if text.endswith("."):
                # The first part of a name that is put together.
                self._enter_all(text[:-1])
        if mentions.looks_for_modules:
            self._enter_all(module.package)

    def _enter_all(self, package: str) -> None:
        for name in tuple(self.source.below(package)):
            self.enter(name)

    def _parents(self, name: str) -> None:
        """The packages that a module is in: importing it runs them.

        Without the outermost: that is the public surface, which imports for its users what the modules inside have.
        """
        package = name.rpartition(".")[0]
        if "." in package:
            self.enter(package)

    def result(self) -> Reach:
        """All of it, with the data files."""
        known = self.source.modules
        modules = frozenset(name for name in (part.partition(":")[0] for part in self.parts) if name in known)
        files = frozenset(file for file in self.source.data if self._reads(file, modules))
        package = self.source.package
        parts = self.parts | {file.relative_to(package).as_posix(): sha256_file(file) for file in files}
        return Reach(parts, modules, files)

    def _reads(self, file: Path, modules: frozenset[str]) -> bool:
        """Whether the package that the file lies in is reached, or one of the modules names it.

        What lies beside the outermost package counts where it is named, or everywhere if nothing names it.
        """
        owner, package = file.parent, self.source.package
        while not (owner / "__init__.py").is_file():
            owner = owner.parent
        if owner != package:
            return _name_of(owner / "__init__.py", package) in modules or self._named(file, modules)
        return self._named(file, modules) or not self._named(file, frozenset(self.source.modules))

    def _named(self, file: Path, modules: frozenset[str]) -> bool:
        return any(file.name in self.source.modules[name].mentions.texts for name in modules)


def _is_data(path: Path) -> bool:
    return path.is_file() and path.suffix not in (".py", ".pyc", ".so")


def _name_of(path: Path, package: Path) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
