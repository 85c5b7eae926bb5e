"""Answers that show a record: the record's fields give their fields, schemas and values."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from coinspace.endpoint.values import AgeMs, EpochMs, Number, decimal, milliseconds, price, ratio
from coinspace.method.record import Kind, facts

T = TypeVar("T", bound=Struct)


# kind of a field -> its type in an answer, and the expression that makes its value
_KINDS: dict[Kind | None, tuple[Any, str]] = {
    Kind.NAME: (str, "{0}"),
    Kind.NAMES: (list[str], "{0}"),
    Kind.FLAG: (bool, "{0}"),
    # beyond 2^53 a JSON number loses digits in many readers
    Kind.COUNT: (str, "None if {0} is None else str({0})"),
    Kind.AGE: (AgeMs, "None if {0} is None else int({0})"),
    Kind.INSTANT: (EpochMs | None, "milliseconds({0})"),
    Kind.ROUNDED: (Number, "decimal({0})"),
    Kind.EXACT: (Number, "price({0})"),
    Kind.PRICE: (Number, "price({0})"),
    Kind.SHARE: (Number, "ratio({0})"),
    Kind.RATIO: (Number, "ratio({0})"),
}
_CALLED = {"decimal": decimal, "milliseconds": milliseconds, "price": price, "ratio": ratio}
# model -> the function that makes it from a record and the fields that the model declares
_MAKERS: dict[type[Struct], Callable[..., Any]] = {}


def shows(record: type[Struct], **words: Any) -> Callable[[type[T]], type[T]]:
    """Return a decorator that adds the record's fields to those that a model declares.

    All are in the order of the record. A declared field that the record does not have follows the
    field that is declared before it.

    Args: words: field -> type of a name that is one of a few words.
    """

    def extend(model: type[T]) -> type[T]:
        own = {one.name: one.type for one in msgspec.structs.fields(model)}
        shown = {
            one.served: one
            for one in facts(record)
            if one.served and (one.served in own or one.kind in _KINDS)
        }
        order = list(shown)
        for before, name in pairwise(["", *own]):
            if name not in shown:
                order.insert(order.index(before) + 1 if before else 0, name)
        fields: list[tuple[str, Any]] = []
        values = []
        for name in order:
            if name in own:
                fields.append((name, own[name]))
                values.append(f"{name}={name}")
                continue
            one = shown[name]
            kind, value = _KINDS[one.kind]
            kind = words.get(name, kind)
            fields.append((name, kind | None if one.optional else kind))
            values.append(f"{name}={value.format(f'record.{one.attribute}')}")
        made = msgspec.defstruct(
            model.__name__,
            fields,
            namespace={"__doc__": model.__doc__},
            module=model.__module__,
            kw_only=True,
        )
        # compiled once, as dataclasses do: a loop would take as long as making the texts
        source = f"lambda {', '.join(['record', *own])}: made({', '.join(values)})"
        _MAKERS[made] = eval(source, {"made": made, **_CALLED})
        return made  # type: ignore[return-value]

    return extend


def show(model: type[T], record: Struct, **own: Any) -> T:
    """Return an answer that shows a record. Args: own: the fields that the model declares."""
    made: T = _MAKERS[model](record, **own)
    return made
