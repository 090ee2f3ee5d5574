"""The JSON report is what its published schema says."""

import json
from importlib import resources

import pytest
from example_report import report

from cellkit_conformance.outcome import Outcome
from cellkit_conformance.report.report import EXIT_CODES, SCHEMA

pytestmark = pytest.mark.one_backend

PUBLISHED = json.loads(
    resources.files("cellkit_conformance").joinpath("report.schema.json").read_text("utf-8")
)

TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}


def errors(value, schema, where="report"):
    """List what does not fit, for the words of JSON Schema that the schema uses."""
    unknown = set(schema) - {
        *("$schema", "$id", "title", "description", "const", "enum", "type"),
        *("required", "properties", "additionalProperties", "items"),
    }
    assert not unknown, f"{where}: this test does not know {unknown}"
    if "const" in schema and value != schema["const"]:
        return [f"{where} is {value!r}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{where} is {value!r}"]
    names = schema.get("type", [])
    names = [names] if isinstance(names, str) else names
    if names and not isinstance(value, tuple(t for n in names for t in _classes(n))):
        return [f"{where} is a {type(value).__name__}"]
    found = []
    if isinstance(value, dict):
        found += [f"{where} lacks {k}" for k in schema.get("required", ()) if k not in value]
        known, others = schema.get("properties", {}), schema.get("additionalProperties")
        for key, entry in value.items():
            if key in known or others:
                found += errors(entry, known.get(key, others), f"{where}.{key}")
            elif "required" in schema:
                found.append(f"{where}.{key} is not in the schema")
    if isinstance(value, list) and "items" in schema:
        for number, entry in enumerate(value):
            found += errors(entry, schema["items"], f"{where}[{number}]")
    return found


def _classes(name):
    found = TYPES[name]
    return found if isinstance(found, tuple) else (found,)


@pytest.mark.parametrize("outcome", list(Outcome))
def test_reports_fit_the_schema(outcome):
    found = report(Outcome.PASS, outcome)
    found.results[0].headroom = float("inf")
    found.results[1].example = {"batch": 3}
    data = json.loads(json.dumps(found.to_json()))
    assert errors(data, PUBLISHED) == []


def test_the_schema_knows_every_outcome_and_exit_code():
    outcomes = PUBLISHED["properties"]["results"]["items"]["properties"]["outcome"]["enum"]
    assert set(outcomes) == {str(outcome) for outcome in Outcome}
    codes = set(PUBLISHED["properties"]["exit_code"]["enum"])
    assert codes == {code for code in EXIT_CODES if code < 64}  # the others write no report
    assert PUBLISHED["properties"]["schema"]["const"] == SCHEMA


def test_what_does_not_fit_is_noticed():
    data = report(Outcome.PASS).to_json()
    assert errors({**data, "seed": "7"}, PUBLISHED) == ["report.seed is a str"]
    assert errors({**data, "new": 1}, PUBLISHED) == ["report.new is not in the schema"]
    data["results"][0]["outcome"] = "fine"
    del data["units"][0]["cell"]
    assert len(errors(data, PUBLISHED)) == 2
