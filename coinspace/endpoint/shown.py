"""Answers that show a record: their fields, schemas and values derive from the record's fields."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from coinspace.endpoint.values import AgeMs, EpochMs, Number, decimal, milliseconds, price, ratio
from coinspace.method.record import Kind, facts

T = TypeVar("T", bound=Struct)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _age(value: float | None) -> int | None:
    return None if value is None else int(value)


# kind of a field -> its type in an answer, and what makes a value of that type
_KINDS: dict[Kind, tuple[Any, Callable[[Any], Any] | None]] = {
    Kind.NAME: (str, None),
    Kind.NAMES: (list[str], None),
    Kind.FLAG: (bool, None),
    # beyond 2^53 a JSON number loses digits in many readers
    Kind.COUNT: (str, _text),
    Kind.AGE: (AgeMs, _age),
    Kind.INSTANT: (EpochMs | None, milliseconds),
    Kind.ROUNDED: (Number, decimal),
    Kind.EXACT: (Number, price),
    Kind.PRICE: (Number, price),
    Kind.SHARE: (Number, ratio),
    Kind.RATIO: (Number, ratio),
}
# model -> (name in the answer, attribute of the record, conversion) of the fields that are derived
_DERIVED: dict[type[Struct], list[tuple[str, str, Callable[[Any], Any] | None]]] = {}


def shows(record: type[Struct]) -> Callable[[type[T]], type[T]]:
    """Return a decorator: it adds the record's fields to those that a model declares itself.

    All are in the order of the record; a declared field that the record has not follows the one
    that it is declared behind.
    """

    def extend(model: type[T]) -> type[T]:
        own = {one.name: one.type for one in msgspec.structs.fields(model)}
        names = list(own)
        known = {one.served for one in facts(record)}
        fields: list[tuple[str, Any]] = []
        derived = []

        def declare(name: str) -> None:
            fields.append((name, own[name]))
            for after in names[names.index(name) + 1 :]:
                if after in known:
                    break
                fields.append((after, own[after]))

        if names and names[0] not in known:
            declare(names[0])
        for one in facts(record):
            if one.served in own:
                declare(one.served)
            elif one.served and one.kind and one.kind in _KINDS:
                kind, convert = _KINDS[one.kind]
                fields.append((one.served, kind | None if one.optional else kind))
                derived.append((one.served, one.attribute, convert))
        made = msgspec.defstruct(
            model.__name__,
            fields,
            namespace={"__doc__": model.__doc__},
            module=model.__module__,
            kw_only=True,
        )
        _DERIVED[made] = derived
        return made  # type: ignore[return-value]

    return extend


def show(model: type[T], record: Struct, **own: Any) -> T:
    """Return an answer that shows a record. Args: own: the fields that the model declares."""
    for name, attribute, convert in _DERIVED[model]:
        value = getattr(record, attribute)
        own[name] = value if convert is None else convert(value)
    return model(**own)
