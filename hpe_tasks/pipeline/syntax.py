"""One module's source, as syntax: what it defines, imports and names."""

from __future__ import annotations

import ast
import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

_DECORATOR = "step"

_RULES_THAT_DECIDE = ("settings",)
"""Arguments of the decorator that decide the outcome; the others decide whether, when and under which name it runs."""

_FINDS_MODULES = {"import_module", "__import__", "iter_modules", "walk_packages"}


@dataclass
class Module:
    """One file, parsed when it is first asked for."""

    name: str
    path: Path
    is_package: bool

    @cached_property
    def tree(self) -> ast.Module:
        """Its syntax, without what changes no result."""
        tree = ast.parse(self.path.read_bytes(), str(self.path))
        _Bare().visit(tree)
        return tree

    @cached_property
    def digest(self) -> str:
        """Of all that it says."""
        return syntax_digest(self.tree)

    @cached_property
    def package(self) -> str:
        """The package that relative imports start from."""
        return self.name if self.is_package else self.name.rpartition(".")[0]

    @cached_property
    def bound(self) -> dict[str, list[ast.stmt]]:
        """Its statements by the names that they give values to; those that give none are under the empty name."""
        bound: dict[str, list[ast.stmt]] = {}
        for statement in self.tree.body:
            for name in _names_bound(statement) or [""]:
                bound.setdefault(name, []).append(statement)
        return bound

    @cached_property
    def defines_steps(self) -> bool:
        """Whether it holds steps, whose bodies are looked at one by one."""
        return any(step_call(statement) is not None for statement in self.tree.body)

    @cached_property
    def mentions(self) -> Mentions:
        """What all of it imports and names."""
        return mentions_of(self, self.tree)


@dataclass(frozen=True)
class Import:
    """An imported module; `name` is what is taken from it, and empty where that is the module itself."""

    module: str
    name: str = ""
    known_as: str = ""


@dataclass(frozen=True)
class Mentions:
    """What a piece of a module imports and names.

    Attributes:
        texts: Its constant texts.
        called: Names that it calls.
        looks_for_modules: Whether it imports what only the running program knows.
    """

    imports: tuple[Import, ...]
    texts: frozenset[str]
    called: frozenset[str]
    looks_for_modules: bool


class _Bare(ast.NodeTransformer):
    """Takes away what changes no result: docstrings and other loose texts, and what settings say of themselves."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            return ast.copy_location(ast.Pass(), node)
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if isinstance(node.func, ast.Name) and node.func.id == "Field":
            node.keywords = [keyword for keyword in node.keywords if keyword.arg not in ("description", "title")]
        return self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST:
        if _last_name(node.test) == "TYPE_CHECKING":
            return ast.copy_location(ast.If(node.test, [ast.copy_location(ast.Pass(), node)], node.orelse), node)
        return self.generic_visit(node)


def syntax_digest(node: ast.AST) -> str:
    """Digest of a piece of syntax; where it stands does not count."""
    return hashlib.sha256(ast.dump(node).encode()).hexdigest()


def _last_name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _looks_for_modules(call: ast.Call) -> bool:
    """Whether a call imports what only the running program knows."""
    if _last_name(call.func) not in _FINDS_MODULES:
        return False
    first = call.args[0] if call.args else None
    whole_name = isinstance(first, ast.Constant) and isinstance(first.value, str) and not first.value.startswith(".")
    return not whole_name


def _names_bound(statement: ast.stmt) -> list[str]:
    """The names that a statement at the top of a module gives values to."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return [(alias.asname or alias.name).partition(".")[0] for alias in statement.names]
    if isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        return [n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)]
    return []


def mentions_of(module: Module, node: ast.AST) -> Mentions:
    """What a piece of a module imports and names."""
    imports: list[Import] = []
    texts, called, looks = set(), set(), False
    for inner in ast.walk(node):
        if isinstance(inner, ast.Import | ast.ImportFrom):
            imports += imports_of(module, inner)
        elif isinstance(inner, ast.Constant):
            texts |= {inner.value} if isinstance(inner.value, str) else set()
        elif isinstance(inner, ast.Call):
            looks = looks or _looks_for_modules(inner)
            called |= {inner.func.id} if isinstance(inner.func, ast.Name) else set()
    return Mentions(tuple(imports), frozenset(texts), frozenset(called), looks)


def imports_of(module: Module, statement: ast.Import | ast.ImportFrom) -> list[Import]:
    """What one statement imports."""
    if isinstance(statement, ast.Import):
        # `import a.b` gives the name `a`, and makes `a.b` reachable through it.
        return [Import(alias.name, "", (alias.asname or alias.name).partition(".")[0]) for alias in statement.names]
    base = statement.module or ""
    if statement.level:
        start = module.package.split(".")
        above = ".".join(start[: len(start) - statement.level + 1])
        base = f"{above}.{base}".rstrip(".")
    names = [("" if alias.name == "*" else alias.name, alias.asname or alias.name) for alias in statement.names]
    return [Import(base, name, known_as) for name, known_as in names]


def step_call(statement: ast.stmt) -> ast.Call | None:
    """The decorator that makes a step of a function; None of any other statement."""
    if not isinstance(statement, ast.FunctionDef):
        return None
    calls = [d for d in statement.decorator_list if isinstance(d, ast.Call) and _last_name(d.func) == _DECORATOR]
    return calls[0] if calls else None


def deciding_parts(statement: ast.stmt) -> list[ast.AST]:
    """The parts of a definition that decide what it does: of a step its function, and some of the rules."""
    call = step_call(statement)
    if call is None or not isinstance(statement, ast.FunctionDef):
        return [statement]
    rules = [keyword.value for keyword in call.keywords if keyword.arg in _RULES_THAT_DECIDE]
    returns = [] if statement.returns is None else [statement.returns]
    return [statement.args, *returns, *statement.body, *rules]
