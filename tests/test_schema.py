"""schema: what is wrong with a value, told in sentences."""

from __future__ import annotations

import time

import pytest

from backgroundr.schema import check

STRING = {"type": "string"}
INTEGER = {"type": "integer"}
NUMBER = {"type": "number"}

ARGUMENTS = {
    "type": "object",
    "properties": {
        "command": {"type": "string", "minLength": 1, "maxLength": 10},
        "cwd": {"type": ["string", "null"]},
        "timeout_seconds": {"type": "number", "exclusiveMinimum": 0, "maximum": 100},
        "tail_lines": {"type": "integer", "minimum": 0, "maximum": 50},
        "stream": {"type": "string", "enum": ["stdout", "stderr"]},
        "env": {"type": "object", "additionalProperties": {"type": "string"}},
        "words": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["command"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("value", "schema"),
    [
        ("text", STRING),
        ("", STRING),
        (5, INTEGER),
        (-5, INTEGER),
        (5.0, INTEGER),
        (10**400, INTEGER),
        (5, NUMBER),
        (0.5, NUMBER),
        (True, {"type": "boolean"}),
        (False, {"type": "boolean"}),
        (None, {"type": "null"}),
        ({}, {"type": "object"}),
        ([], {"type": "array"}),
        ([1, "two", None], {"type": "array"}),
        (None, {"type": ["string", "null"]}),
        ("x", {"type": ["string", "null"]}),
        ("anything", {}),
        (None, {"description": "only for the reader"}),
        ("b", {"enum": ["a", "b"]}),
        (0, {"minimum": 0, "maximum": 0}),
        (0.1, {"exclusiveMinimum": 0}),
        ("abc", {"minLength": 3, "maxLength": 3}),
        ({"x": 1}, {"type": "object"}),
        ({"x": 1}, {"type": "object", "additionalProperties": True}),
        ({"x": 1}, {"type": "object", "additionalProperties": INTEGER}),
    ],
)
def test_conforming_value_has_no_problems(value, schema):
    """check finds nothing wrong with a value that conforms."""
    assert check(value, schema, "value") == []


@pytest.mark.parametrize(
    ("value", "schema", "problem"),
    [
        (5, STRING, "x must be a string, not 5"),
        (None, STRING, "x must be a string, not null"),
        (["a"], STRING, "x must be a string, not a list"),
        ({"a": 1}, STRING, "x must be a string, not an object"),
        ("5", INTEGER, 'x must be a whole number, not "5"'),
        (5.5, INTEGER, "x must be a whole number, not 5.5"),
        (True, INTEGER, "x must be a whole number, not true"),
        (float("inf"), INTEGER, "x must be a whole number, not Infinity"),
        (True, NUMBER, "x must be a number, not true"),
        (False, {"type": "null"}, "x must be null, not false"),
        (0, {"type": "boolean"}, "x must be true or false, not 0"),
        (None, {"type": "object"}, "x must be an object, not null"),
        ([], {"type": "object"}, "x must be an object, not a list"),
        ({}, {"type": "array"}, "x must be a list, not an object"),
        (5, {"type": ["string", "null"]}, "x must be a string or null, not 5"),
        ("c", {"enum": ["a", "b"]}, 'x must be one of "a", "b", not "c"'),
        (-1, {"minimum": 0}, "x must be at least 0, not -1"),
        (0, {"exclusiveMinimum": 0}, "x must be more than 0, not 0"),
        (51, {"maximum": 50}, "x must be at most 50, not 51"),
        ("", {"minLength": 1}, "x must not be empty"),
        ("abcd", {"maxLength": 3}, "x must have at most 3 characters, not 4"),
        ([1, "a"], {"items": INTEGER}, 'x[1] must be a whole number, not "a"'),
        ({"a": 1}, {"additionalProperties": STRING}, "x.a must be a string, not 1"),
        ({"a": {"b": 1}}, {"properties": {"a": {"required": ["c"]}}}, "x.a.c is required"),
        (
            {"a": [[1]]},
            {"properties": {"a": {"items": {"items": STRING}}}},
            "x.a[0][0] must be a string, not 1",
        ),
    ],
)
def test_problem_is_one_sentence(value, schema, problem):
    """check says what must be and what is, where the value is wrong."""
    assert check(value, schema, "x") == [problem]


@pytest.mark.parametrize("value", [None, 5, "text", []])
def test_arguments_as_a_whole_have_a_name(value):
    """check calls the object of all arguments "the arguments"."""
    (problem,) = check(value, ARGUMENTS, "")
    assert problem.startswith("the arguments must be an object, not ")


@pytest.mark.parametrize(
    "arguments",
    [
        {"command": "make"},
        {"command": "make", "cwd": None, "timeout_seconds": 0.5, "tail_lines": 50},
        {"command": "make", "stream": "stderr", "env": {}, "words": []},
        {"command": "x" * 10, "env": {"A": "1", "B": ""}, "words": ["a", ""]},
    ],
)
def test_good_arguments_pass(arguments):
    """check accepts arguments that have what is required and nothing unknown."""
    assert check(arguments, ARGUMENTS, "") == []


def test_all_problems_are_told_at_once():
    """check tells every problem of one call, so that one correction is enough."""
    arguments = {
        "cwd": 1,
        "tail_lines": 51,
        "env": {"A": 1, "B": "fine", "C": None},
        "words": [1, "fine", 2],
        "bogus": 1,
    }
    assert check(arguments, ARGUMENTS, "") == [
        "command is required",
        "cwd must be a string or null, not 1",
        "tail_lines must be at most 50, not 51",
        "env.A must be a string, not 1",
        "env.C must be a string, not null",
        "words[0] must be a string, not 1",
        "words[2] must be a string, not 2",
        'there is no argument "bogus" (there are command, cwd, timeout_seconds, tail_lines,'
        " stream, env, words)",
    ]


@pytest.mark.parametrize(
    ("value", "schema"),
    [
        ([5] * 1000000, {"items": {"type": "string"}}),
        ({str(number): 1 for number in range(100000)}, {"additionalProperties": False}),
        ({str(number): 1 for number in range(100000)}, {"additionalProperties": {"type": "null"}}),
        ({"x" * 10000000: 1}, {"properties": {"y": {}}, "additionalProperties": False}),
        ({"x" * 10000000: 1}, {"additionalProperties": {"type": "string"}}),
        ("x" * 10000000, {"enum": ["y"]}),
    ],
)
def test_a_huge_mistake_costs_little(value, schema):
    """However much is wrong, check tells a few sentences of it, and soon."""
    began = time.process_time()
    problems = check(value, schema, "it")
    assert time.process_time() - began < 1
    assert 1 <= len(problems) <= 10
    assert sum(map(len, problems)) < 2000


def test_wrong_type_hides_other_problems():
    """check says nothing about the content of a value that has the wrong type."""
    schema = {"type": "string", "enum": ["a"], "minLength": 1}
    assert check(7, schema, "x") == ["x must be a string, not 7"]


@pytest.mark.parametrize(
    ("name", "guess"),
    [("Command", "command"), ("comand", "command"), ("timeout", "timeout_seconds"), ("xyz", None)],
)
def test_unknown_argument_is_compared_with_the_known(name, guess):
    """check names the argument that was probably meant, or all that exist."""
    (problem,) = check({"command": "make", name: 1}, ARGUMENTS, "")
    assert problem.startswith('there is no argument "%s" (' % name)
    if guess is None:
        assert "there are command, cwd, " in problem
    else:
        assert problem.endswith("(did you mean %s?)" % guess)


def test_unknown_argument_is_first_compared_with_the_missing():
    """check takes an unknown name for the required one that is not there."""
    assert check({"cmd": "make"}, ARGUMENTS, "") == [
        "command is required",
        'there is no argument "cmd" (did you mean command?)',
    ]


def test_unknown_argument_where_there_are_none():
    """check has nothing to suggest where an object takes no arguments."""
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    assert check({"x": 1}, schema, "") == ['there is no argument "x"']


def test_long_value_is_shortened():
    """check quotes only the beginning of a long value."""
    (problem,) = check("y" * 10000, INTEGER, "x")
    assert problem.startswith('x must be a whole number, not "yyy')
    assert problem.endswith("yyy...")
    assert len(problem) < 120


def test_text_is_quoted_on_one_line():
    """check quotes a value as JSON, so that a newline in it breaks no sentence."""
    assert check("a\nb\u2028", INTEGER, "x") == ['x must be a whole number, not "a\\nb\\u2028"']
