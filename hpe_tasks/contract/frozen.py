"""Frozen records for what the Lambda function ships: `dataclasses` without the time that it takes to define one.

`dataclasses` compiles six functions for every class. For the classes of the function that is a tenth of a cold start;
here they share their functions. Type checkers see a frozen data class.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, dataclass_transform, overload

T = TypeVar("T")


@overload
def frozen(kind: type[T]) -> type[T]: ...
@overload
def frozen(*, eq: bool = True) -> Callable[[type[T]], type[T]]: ...
@dataclass_transform(frozen_default=True)
def frozen(kind: type[T] | None = None, *, eq: bool = True) -> type[T] | Callable[[type[T]], type[T]]:
    """Make a class with annotations a frozen record of them, as `dataclass(frozen=True, eq=eq)` does.

    Defaults, `__post_init__` and properties work as there; inheritance from another record does not.
    """
    if kind is None:
        return lambda kind: _made(kind, eq)
    return _made(kind, eq)


def replace(record: T, **changes: Any) -> T:
    """A copy of a record with other values in some fields, checked as a new one is."""
    return type(record)(**{**vars(record), **changes})


def _made(kind: type[T], eq: bool) -> type[T]:
    names = tuple(kind.__annotations__)
    defaults = {name: getattr(kind, name) for name in names if hasattr(kind, name)}
    check = getattr(kind, "__post_init__", None)

    def init(self: T, *values: Any, **named: Any) -> None:
        given = dict(zip(names, values, strict=False))
        fields = {**defaults, **given, **named}
        if len(fields) != len(names) or len(given) != len(values) or given.keys() & named.keys():
            raise TypeError(_fault(kind, names, fields, given, named, len(values)))
        # In the order of the class, whatever that of the call.
        vars(self).update((name, fields[name]) for name in names)
        if check is not None:
            check(self)

    methods: dict[str, Any] = {"__init__": init, "__setattr__": _refuse, "__delattr__": _refuse, "__repr__": _shown}
    methods["__match_args__"] = names
    methods |= {"__eq__": _equal, "__hash__": _hashed} if eq else {}
    for name, method in methods.items():
        setattr(kind, name, method)
    return kind


def _fault(
    kind: type, names: tuple[str, ...], fields: dict[str, Any], given: dict[str, Any], named: dict[str, Any], count: int
) -> str:
    if count > len(given):
        return f"{kind.__name__} takes {len(names)} values, not {count}"
    for what, wrong in (
        ("is given twice", sorted(given.keys() & named.keys())),
        ("is not a field", sorted(fields.keys() - set(names))),
        ("is missing", [name for name in names if name not in fields]),
    ):
        if wrong:
            return f"{kind.__name__}: {', '.join(wrong)} {what}"
    raise AssertionError


def _refuse(self: object, name: str, _: Any = None) -> None:
    raise AttributeError(f"{type(self).__name__}.{name} cannot be changed: a record is frozen")


def _shown(self: object) -> str:
    return f"{type(self).__qualname__}({', '.join(f'{name}={held!r}' for name, held in vars(self).items())})"


def _equal(self: object, other: object) -> bool:
    return vars(self) == vars(other) if type(self) is type(other) else NotImplemented


def _hashed(self: object) -> int:
    return hash((type(self), *vars(self).values()))
