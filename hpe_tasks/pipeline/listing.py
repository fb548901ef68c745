"""Commands of the pipelines and their steps, read from the source: `hpe --help` answers without importing them."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hpe_tasks.config.rungs import RUNGS

_ROOT = Path(__file__).parents[2]
_LIST = ("hpe_tasks.pipeline.pipelines", "PIPELINES")
_LADDER = ("hpe_tasks.pipeline.steps.ladder", "TRY_RUNGS")
_RUNGS = {rung.step: rung.summary for rung in RUNGS}


@dataclass(frozen=True)
class ListedPipeline:
    """What the command line shows of a pipeline.

    Attributes:
        steps: (name, what it does), in their order.
        rungs: Names of those that try a recipe of the ladder.
        sharded: Names of those whose work several workers may do in parts.
    """

    name: str
    command: str
    summary: str
    steps: tuple[tuple[str, str], ...]
    rungs: Set[str] = frozenset()
    sharded: Set[str] = frozenset()


@cache
def listed_pipelines() -> tuple[ListedPipeline, ...]:
    """The pipelines of `hpe_tasks.pipeline.pipelines`."""
    module, name = _LIST
    return tuple(_pipeline(*_origin(module, one)) for one in _elements(_value(module, name)))


def _pipeline(module: str, name: str) -> ListedPipeline:
    call = _value(module, name)
    if not isinstance(call, ast.Call):
        raise TypeError(f"{module}.{name} is not written as a call of Pipeline")
    given = {str(keyword.arg): keyword.value for keyword in call.keywords}
    texts = {key: _text(module, given[key]) for key in ("name", "command", "summary")}
    listed = [step for one in _elements(given["steps"]) for step in _steps(module, one)]
    named = [_origin(module, one) for one in _elements(given["steps"]) if not isinstance(one, ast.Starred)]
    return ListedPipeline(
        **texts,
        steps=tuple(listed),
        rungs=_RUNGS.keys() & dict(listed).keys(),
        sharded=frozenset(name for origin, name in named if _is_sharded(_function(origin, name))),
    )


def _steps(module: str, node: ast.expr) -> Iterable[tuple[str, str]]:
    """One step; or those of a ladder, which are made of its rungs."""
    if not isinstance(node, ast.Starred):
        return (_step(*_origin(module, node)),)
    if _origin(module, node.value) != _LADDER:
        raise TypeError(f"{module} takes in {ast.unparse(node)}; of lists of steps only that of the ladder is known")
    return _RUNGS.items()


def _function(module: str, name: str) -> ast.FunctionDef:
    while origin := _imported(module, name):
        module, name = origin
    return next(n for n in _tree(module).body if isinstance(n, ast.FunctionDef) and n.name == name)


def _is_sharded(function: ast.FunctionDef) -> bool:
    calls = (decorator for decorator in function.decorator_list if isinstance(decorator, ast.Call))
    return any(keyword.arg == "sharding" for call in calls for keyword in call.keywords)


def _step(module: str, name: str) -> tuple[str, str]:
    function = _function(module, name)
    return function.name, " ".join((ast.get_docstring(function) or name).partition("\n\n")[0].split())


def _text(module: str, node: ast.expr) -> str:
    while not isinstance(node, ast.Constant):
        module, name = _origin(module, node)
        node = _value(module, name)
    return str(node.value)


def _elements(node: ast.expr) -> Iterator[ast.expr]:
    if not isinstance(node, ast.Tuple):
        raise TypeError("the pipelines and their steps are written as tuples")
    yield from node.elts


def _origin(module: str, node: ast.expr) -> tuple[str, str]:
    """The module in which a name of this one, such as `steps.gate`, gets its value, and the name there."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return ".".join(_imported(module, node.value.id)), node.attr
    if isinstance(node, ast.Name):
        return _imported(module, node.id) or (module, node.id)
    raise SyntaxError(f"{module} holds {ast.unparse(node)}, which is not a name")


def _imported(module: str, name: str) -> tuple[str, str] | tuple[()]:
    for statement in _tree(module).body:
        if isinstance(statement, ast.ImportFrom):
            for alias in statement.names:
                if (alias.asname or alias.name) == name:
                    return str(statement.module), alias.name
    return ()


def _value(module: str, name: str) -> ast.expr:
    for statement in _tree(module).body:
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        if isinstance(statement, ast.AnnAssign):
            targets = [statement.target]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            value: ast.expr | None = statement.value  # type: ignore[attr-defined]
            if value is not None:
                return value
    raise SyntaxError(f"{module} gives {name} no value")


@cache
def _tree(module: str) -> ast.Module:
    path = _ROOT.joinpath(*module.split("."))
    return ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_bytes())
