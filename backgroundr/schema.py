"""Check a value against the subset of JSON Schema that our tool arguments use.

Understood: type (a name or a list), enum, properties, required, additionalProperties (false, or
a schema), items, minItems, maxItems, minLength, maxLength, minimum, exclusiveMinimum, maximum.
Any other word is for the reader of the schema alone (title, description, default).
"""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List

    Schema = Dict[str, Any]

# More would help nobody to mend a call, and nothing is checked any further: so a list of a
# million wrong items costs no more than a short one.
_PROBLEMS = 10
_SHOWN_CHARS = 60


def check(value: Any, schema: Schema, where: str) -> List[str]:
    """Return what is wrong with `value`, a sentence each, the first ten; an empty list when it
    conforms.

    where: what to call the value, such as "cwd"; "" for the object of all arguments.
    """
    problems: List[str] = []
    _add_problems(value, schema, where, problems)
    return problems[:_PROBLEMS]


def _add_problems(value: Any, schema: Schema, where: str, problems: List[str]) -> None:
    """Add to `problems` what is wrong with `value`."""
    types = schema.get("type", [])
    names = types if isinstance(types, list) else [types]
    if names and not any(_has_type(value, name) for name in names):
        wanted = " or ".join(_ARTICLED[name] for name in names)
        problems.append("%s must be %s, not %s" % (where or "the arguments", wanted, _shown(value)))
        return
    if "enum" in schema and value not in schema["enum"]:
        choices = ", ".join(_shown(choice) for choice in schema["enum"])
        problems.append("%s must be one of %s, not %s" % (where, choices, _shown(value)))
    if isinstance(value, str):
        if len(value) < schema.get("minLength", 0):
            problems.append("%s must not be empty" % where)
        if len(value) > schema.get("maxLength", len(value)):
            problems.append(
                "%s must have at most %d characters, not %d"
                % (where, schema["maxLength"], len(value))
            )
    elif isinstance(value, dict):
        _add_object_problems(value, schema, where, problems)
    elif isinstance(value, list):
        if len(value) < schema.get("minItems", 0):
            problems.append("%s must not be empty" % where)
        if len(value) > schema.get("maxItems", len(value)):
            problems.append(
                "%s must have at most %d items, not %d" % (where, schema["maxItems"], len(value))
            )
            return
        for index, item in enumerate(value if "items" in schema else ()):
            if len(problems) >= _PROBLEMS:
                return
            _add_problems(item, schema["items"], "%s[%d]" % (where, index), problems)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        if value < schema.get("minimum", value):
            least = schema["minimum"]
            problems.append("%s must be at least %s, not %s" % (where, least, _shown(value)))
        if "exclusiveMinimum" in schema and value <= schema["exclusiveMinimum"]:
            least = schema["exclusiveMinimum"]
            problems.append("%s must be more than %s, not %s" % (where, least, _shown(value)))
        if value > schema.get("maximum", value):
            most = schema["maximum"]
            problems.append("%s must be at most %s, not %s" % (where, most, _shown(value)))


def _add_object_problems(
    value: Dict[str, Any], schema: Schema, where: str, problems: List[str]
) -> None:
    prefix = where + "." if where else ""
    properties = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            problems.append("%s%s is required" % (prefix, name))
    others = schema.get("additionalProperties", True)
    for name, item in value.items():
        if len(problems) >= _PROBLEMS:
            return
        if name in properties:
            _add_problems(item, properties[name], prefix + name, problems)
        elif others is False:
            missing = [name for name in schema.get("required", ()) if name not in value]
            problems.append(_unknown(prefix + name, list(properties), missing))
        elif isinstance(others, dict):
            _add_problems(item, others, prefix + name[:_SHOWN_CHARS], problems)


def _unknown(name: str, known: List[str], missing: List[str]) -> str:
    import difflib  # only a mistaken call pays for it

    name = name[:_SHOWN_CHARS]
    # "cmd" is nearer to "cwd" than to the "command" that is not there.
    near = difflib.get_close_matches(name, missing, 1) or difflib.get_close_matches(name, known, 1)
    if near:
        return "there is no argument %s (did you mean %s?)" % (_shown(name), near[0])
    if known:
        return "there is no argument %s (there are %s)" % (_shown(name), ", ".join(known))
    return "there is no argument %s" % _shown(name)


_ARTICLED = {
    "string": "a string",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "object": "an object",
    "array": "a list",
    "null": "null",
}


def _has_type(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    if name == "integer":
        # JSON Schema 2020-12: 5.0 is an integer too.
        return isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if name == "number":
        return isinstance(value, (int, float))
    if value is None:
        return name == "null"
    expected = {"string": str, "object": dict, "array": list}.get(name)
    return expected is not None and isinstance(value, expected)


def _shown(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return _ARTICLED["object" if isinstance(value, dict) else "array"]
    if isinstance(value, str):
        value = value[: _SHOWN_CHARS + 1]
    text = json.dumps(value)
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "..."
