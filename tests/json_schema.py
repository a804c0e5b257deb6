"""A small validator of JSON Schema: as much as the schemas of MCP and our own shapes use.

Draft 7 and 2020-12 are the same so far. A keyword that it does not know is an error, so that
nothing goes unchecked in silence.
"""

from __future__ import annotations

import json

# Keywords that only inform; `format` does no more than that in 2020-12.
INFORMING = {"$schema", "$comment", "$defs", "definitions"}
INFORMING |= {"title", "description", "default", "examples", "format"}
_TYPES = {
    "string": str,
    "object": dict,
    "array": list,
    "boolean": bool,
    "null": type(None),
    "number": (int, float),
}
_SHOWN_CHARS = 60


class UnknownKeyword(Exception):
    """A schema uses a word that is neither checked here nor known only to inform."""


class Validator:
    """Checks values against schemas. document: where a $ref such as "#/$defs/Tool" points."""

    def __init__(self, document: dict | None = None) -> None:
        self._document = document or {}

    def problems(self, value: object, schema: dict | bool, path: str = "") -> list[str]:
        """Return what is wrong with `value`, each with its path; an empty list when it conforms.

        path: what to call the value, "" for a whole message. Raises UnknownKeyword.
        """
        if isinstance(schema, bool):
            return [] if schema else [_problem(path, "must not be there")]
        for keyword in schema:
            if keyword not in KEYWORDS and keyword not in INFORMING:
                raise UnknownKeyword(keyword)
        found = []
        for keyword, rule in KEYWORDS.items():
            if keyword in schema:
                found += rule(self, value, schema, path)
        return found

    def _ref(self, value, schema, path):
        root, *names = schema["$ref"].split("/")
        assert root == "#", "%s is in another document" % schema["$ref"]
        target = self._document
        for name in names:
            target = target[name]
        return self.problems(value, target, path)

    def _type(self, value, schema, path):
        wanted = schema["type"]
        names = wanted if isinstance(wanted, list) else [wanted]
        if any(_has_type(value, name) for name in names):
            return []
        return [_problem(path, "must be %s, is %s" % (" or ".join(names), _shown(value)))]

    def _const(self, value, schema, path):
        return _is_one_of(value, [schema["const"]], path)

    def _enum(self, value, schema, path):
        return _is_one_of(value, schema["enum"], path)

    def _required(self, value, schema, path):
        if not isinstance(value, dict):
            return []
        return [
            _problem(_join(path, name), "is required")
            for name in schema["required"]
            if name not in value
        ]

    def _properties(self, value, schema, path):
        found = []
        for name, expected in schema["properties"].items():
            if isinstance(value, dict) and name in value:
                found += self.problems(value[name], expected, _join(path, name))
        return found

    def _additional(self, value, schema, path):
        found = []
        for name in value if isinstance(value, dict) else ():
            if name not in schema.get("properties", {}):
                found += self.problems(
                    value[name], schema["additionalProperties"], _join(path, name)
                )
        return found

    def _items(self, value, schema, path):
        found = []
        for index, item in enumerate(value if isinstance(value, list) else ()):
            found += self.problems(item, schema["items"], "%s[%d]" % (path, index))
        return found

    def _any_of(self, value, schema, path):
        # Where none fits, the one with the least against it is most likely what was meant.
        return min((self.problems(value, one, path) for one in schema["anyOf"]), key=len)

    def _all_of(self, value, schema, path):
        return [problem for one in schema["allOf"] for problem in self.problems(value, one, path)]

    def _minimum(self, value, schema, path):
        if not _has_type(value, "number") or value >= schema["minimum"]:
            return []
        return [_problem(path, "must be at least %s, is %s" % (schema["minimum"], value))]

    def _maximum(self, value, schema, path):
        if not _has_type(value, "number") or value <= schema["maximum"]:
            return []
        return [_problem(path, "must be at most %s, is %s" % (schema["maximum"], value))]

    def _min_items(self, value, schema, path):
        if not isinstance(value, list) or len(value) >= schema["minItems"]:
            return []
        return [_problem(path, "must have at least %d items" % schema["minItems"])]

    def _max_items(self, value, schema, path):
        if not isinstance(value, list) or len(value) <= schema["maxItems"]:
            return []
        return [_problem(path, "must have at most %d items" % schema["maxItems"])]


# What is checked, in the order in which it is told.
KEYWORDS = {
    "$ref": Validator._ref,
    "type": Validator._type,
    "const": Validator._const,
    "enum": Validator._enum,
    "required": Validator._required,
    "properties": Validator._properties,
    "additionalProperties": Validator._additional,
    "items": Validator._items,
    "anyOf": Validator._any_of,
    "allOf": Validator._all_of,
    "minimum": Validator._minimum,
    "maximum": Validator._maximum,
    "minItems": Validator._min_items,
    "maxItems": Validator._max_items,
}


def _has_type(value, name):
    if name == "integer":  # 5.0 is one too
        return _has_type(value, "number") and value == value // 1
    return isinstance(value, _TYPES[name]) and (name == "boolean" or not isinstance(value, bool))


def _is_one_of(value, choices, path):
    # In Python, and not in JSON, True equals 1.
    if any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in choices):
        return []
    wanted = " or ".join(_shown(one) for one in choices)
    return [_problem(path, "must be %s, is %s" % (wanted, _shown(value)))]


def _join(path, name):
    return "%s.%s" % (path, name) if path else name


def _problem(path, text):
    return "%s: %s" % (path or "the message", text)


def _shown(value):
    text = json.dumps(value)
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "..."
