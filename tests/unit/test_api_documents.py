"""OpenAPI and AsyncAPI: everything described, with examples that the schemas accept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest

from coinspace.endpoint.http import asyncapi, openapi
from coinspace.endpoint.http.app import OPERATIONS
from coinspace.endpoint.http.problem import TYPES
from coinspace.endpoint.meanings import FIELDS, PARAMETERS
from coinspace.endpoint.routes.streams import EVENTS, REPLIES

OPENAPI = openapi.document(OPERATIONS)
ASYNCAPI = asyncapi.document(EVENTS, REPLIES)
DOCUMENTS = {"openapi": OPENAPI, "asyncapi": ASYNCAPI}
# strings that are names, texts or opaque: every other string is a number or one of a few words
FREE = {
    *("asset", "exchange", "market", "base", "quote", "venue", "publisher", "process"),
    *("buy", "sell"),
    *("reason", "curve_reason", "cursor", "next", "title", "detail"),
    *("trade_id", "epoch", "sequence", "method_version", "parameter_hash"),
    *("network", "category", "url", "delisting"),
    *("source", "usd_krw_source"),
    *("boot", "channel", "id", "last_event_id"),
}
# its types are listed; clients must accept later ones
LISTED = {"type"}


def properties(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for name, schema in document["components"]["schemas"].items():
        for field, one in schema.get("properties", {}).items():
            yield name, field, one


def answers() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in OPENAPI["paths"].items():
        for status, answer in methods["get"]["responses"].items():
            for media, content in answer.get("content", {}).items():
                yield f"{path} {status} {media}", status, content


def valid(document: dict[str, Any], schema: dict[str, Any], value: Any, where: str) -> None:
    whole = {**schema, "components": document["components"]}
    errors = list(jsonschema_rs.Draft202012Validator(whole).iter_errors(value))
    assert not errors, (where, [one.message for one in errors])


@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)
def test_every_property_is_described(document: dict[str, Any]) -> None:
    found = list(properties(document))
    assert len(found) > 150
    assert not [(name, field) for name, field, one in found if not one.get("description")]
    # no text is left from the type alone, which says nothing of the field
    bare = {"decimal number", "milliseconds", "milliseconds since 1970-01-01T00:00:00Z"}
    assert not [(name, field) for name, field, one in found if one["description"] in bare]


def test_every_number_and_time_names_its_unit() -> None:
    units = (
        "ms since", "ms ", "µs", "s since", "in base units", "USDT", "KRW", "fraction", "percent",
        "0 to 1", "in `currency`", "in the market's quote", "per unit of base",
    )  # fmt: skip
    without = {
        field
        for _, field, one in properties(OPENAPI)
        if any("pattern" in part for part in (one, *one.get("anyOf", ())))
        or field.endswith(("_ms", "_us", "_s"))
        if not any(unit in one["description"] for unit in units)
    }
    assert not without


def test_every_parameter_is_described() -> None:
    listed = [one for path in OPENAPI["paths"].values() for one in path["get"]["parameters"]]
    assert len(listed) > 60
    assert not [one for one in listed if not one.get("description")]
    # "Try it out" of the documentation is filled in where a value is needed
    needed = [one for one in listed if one["required"]]
    assert needed
    assert not [one["name"] for one in needed if "example" not in one]


def test_every_answer_has_an_example_that_its_schema_accepts() -> None:
    for where, status, content in answers():
        shown = [one["value"] for one in content.get("examples", {}).values()]
        shown += [content["example"]] if "example" in content else []
        if not where.endswith(("text/csv", "arrow.stream", "parquet")):
            assert shown, where
        for one in shown:
            valid(OPENAPI, content["schema"], one, where)
            if content["schema"].get("$ref", "").endswith("ProblemBody"):
                assert str(one["status"]) == status
    assert {"200", "404", "503"} <= {status for _, status, _ in answers()}


@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)
def test_examples_of_properties_fit(document: dict[str, Any]) -> None:
    shown = 0
    for name, field, one in properties(document):
        for value in one.get("examples", ()):
            shown += 1
            valid(document, one, value, f"{name}.{field}")
    assert shown > 100


@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)
def test_one_of_a_few_words_is_an_enum(document: dict[str, Any]) -> None:
    free = {
        field
        for _, field, one in properties(document)
        if field not in LISTED
        and any(
            part.get("type") == "string" and not part.keys() & {"pattern", "enum"}
            for part in (one, *one.get("anyOf", ()))
        )
    }
    assert free <= FREE


def test_no_meaning_is_left_over() -> None:
    shown = {
        one["description"] for document in DOCUMENTS.values() for *_, one in properties(document)
    }
    assert not [name for name, meaning in FIELDS.items() if meaning.text not in shown]
    asked = [one for path in OPENAPI["paths"].values() for one in path["get"]["parameters"]]
    shown = {one["description"] for one in asked}
    assert not [name for name, meaning in PARAMETERS.items() if meaning.text not in shown]


def test_every_problem_is_shown_where_it_can_occur() -> None:
    shown = {
        name
        for path in OPENAPI["paths"].values()
        for answer in path["get"]["responses"].values()
        for content in answer.get("content", {}).values()
        for name in content.get("examples", {})
    }
    # a path without a route, and a refusal before there is a route
    assert TYPES.keys() - shown == {"unknown-route"}


def test_examples_of_messages_fit() -> None:
    messages = ASYNCAPI["components"]["messages"]
    assert len(messages) == 2 * len(EVENTS) + len(REPLIES) + 1 + len(asyncapi.OPS)
    for name, message in messages.items():
        assert message["examples"], name
        for one in message["examples"]:
            valid(ASYNCAPI, message["payload"], one["payload"], name)
        described = message["payload"].get("properties", {}).values()
        assert all(one.get("description") for one in described), name


def test_the_document_of_the_streams_is_whole() -> None:
    references = set(_references(ASYNCAPI))
    assert references
    for reference in references:
        at: Any = ASYNCAPI
        for part in reference.removeprefix("#/").split("/"):
            at = at[part]
    assert {one["address"] for one in ASYNCAPI["channels"].values()} <= OPENAPI["paths"].keys()


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, one in value.items():
            if key == "$ref":
                yield one
            else:
                yield from _references(one)
    elif isinstance(value, list):
        for one in value:
            yield from _references(one)
