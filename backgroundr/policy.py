"""StartPolicy: which commands may be started, where, and with what, on a locked-down machine.

An allow-list is only as good as the programs on it: one that runs what its arguments or its
input say, as every interpreter does, lets everything through.
"""

from __future__ import annotations

import os
import re
import shlex
from fnmatch import fnmatchcase, translate

from .arguments import check_text, working_directory
from .errors import InvalidValue, NotAllowed, SpawnFailed
from .proctree import native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Mapping, Optional, Sequence, Tuple

    from .arguments import TaskSettings

# The last word of a pattern: any number of words.
_ANY_WORDS = "**"
# Quoted text, a quoted character, text in double quotes, and what is not quoted.
_QUOTED_OR_NOT = re.compile(
    r"""'(?P<single>[^']*)' | (?P<escaped>\\.) | "(?P<double>(?:[^"\\]|\\.)*)"
    | (?P<plain>[^'"\\]+)""",
    re.DOTALL | re.VERBOSE,
)
# What means something to a shell (POSIX, Shell Command Language, 2.2 "Quoting").
_SHELL_SYNTAX = re.compile(r"[|&;<>()$`\n*?\[]|(?<!\S)[~#]")
# In double quotes, and behind a backslash, which removes a line break.
_EXPANDED = re.compile(r"[$`]|(?<=\\)\n")
_LINE_BREAK = re.compile(r"\n")
_NEVER = re.compile(r"(?!)")
# What a pattern cannot have in quotes, for the matching would not see them.
_WILDCARDS = re.compile(r"[*?\[]")
# What not even a pattern can have: there wildcards are its own.
_OPERATORS = re.compile(r"[|&;<>()$`\n]")
_WITHOUT_A_SHELL = (
    "Commands run without a shell here, one program with its arguments: no pipes or redirections,"
    " no ';', '&&' or '&', no variables, no $(...), no wildcards."
)
_SHOWN_PATTERNS_CHARS = 500
# The time that shlex takes grows with the square of a word's length: this is some hundredths of
# a second, in which no other call is answered.
_LONGEST_ALLOWED_CHARS = 32768
_WORD_BREAKS = " \t\n"  # all that separates words of a shell; not what else Unicode has


class StartPolicy:
    """What may be started.

    allow: patterns, of which a command has to match one; it is split as a shell would do it and
    run without one. None: every command, by a shell. A pattern is split in the same way, and
    matched word by word; each word may have the wildcards of `fnmatch`, of which "*" stands for
    any text with "/" in it too, but not for a path that leads upwards by "..", and "[*]" for the
    character itself. A last word "**" stands for any further words, or none.
    deny_env: no command gets entries of its own in its environment.
    cwd_roots: directories; where there are any, every working directory is one of them or lies
    under one, with all links resolved.
    Raises InvalidValue.
    """

    def __init__(
        self, allow: Optional[Sequence[str]], deny_env: bool, cwd_roots: Sequence[str]
    ) -> None:
        self._allow = [] if allow is None else _listed("allow", allow)
        self.patterns = None if allow is None else [pattern_words(one) for one in self._allow]
        self.deny_env = deny_env
        try:
            self.roots = [working_directory(one) for one in _listed("cwd_roots", cwd_roots)]
        except InvalidValue as error:
            raise InvalidValue("cwd_roots", error.problem) from None

    def directory(self, cwd: Optional[str]) -> str:
        """Return where a command is to run that asks for `cwd`: the path as it was asked for.

        None: this process's directory or, where no command may run there, the first root.
        Raises InvalidValue.
        """
        if cwd is None and self.roots:
            try:
                cwd = os.getcwd()
            except OSError:
                cwd = ""
            if not cwd or not self._is_under_a_root(cwd):
                cwd = self.roots[0]
        return working_directory(cwd)

    def admit(self, settings: TaskSettings) -> Tuple[Optional[List[str]], str]:
        """Return program and arguments of a command, None where a shell takes it as it is, and
        the directory to run it in. Raises NotAllowed, and SpawnFailed where there is no such
        program."""
        command = settings.command
        words = None if self.patterns is None else self._words(command)
        if self.deny_env and settings.env:
            raise NotAllowed(
                command,
                "this server lets no command have environment variables of its own",
                "Start it without env.",
            )
        directory = settings.cwd
        if self.roots:
            directory = _real(directory)  # and there it runs, whatever becomes of the link
        if self.roots and not self._is_under_a_root(directory):
            really = "" if directory == settings.cwd else ", which is really %r," % directory
            raise NotAllowed(
                command,
                "the directory %r%s does not lie under %s"
                % (settings.cwd, really, " or ".join(map(repr, self.roots))),
                "Give a cwd that does.",
            )
        if words is not None:
            words[0] = _program_path(command, words[0], directory, settings.env)
        return words, directory

    def allowed_text(self) -> str:
        """Return the patterns, as many as are read easily."""
        if not self._allow:
            return "nothing"
        shown: List[str] = []
        chars = 0
        for pattern in self._allow:
            chars += len(pattern)
            if shown and chars > _SHOWN_PATTERNS_CHARS:
                break
            shown.append("'%s'" % pattern[:_SHOWN_PATTERNS_CHARS])
        left = len(self._allow) - len(shown)
        return ", ".join(shown) + (" and %d more" % left if left else "")

    def _words(self, command: str) -> List[str]:
        assert self.patterns is not None
        allowed = "Allowed are, word by word: %s." % self.allowed_text()
        if len(command) > _LONGEST_ALLOWED_CHARS:
            raise NotAllowed(
                command,
                "it has %d characters, and at most %d are looked at"
                % (len(command), _LONGEST_ALLOWED_CHARS),
                allowed,
            )
        text = command.strip(_WORD_BREAKS)
        syntax = _first_of(text, _SHELL_SYNTAX)
        if syntax:
            shown = "a line break" if syntax == "\n" else "'%s'" % syntax
            raise NotAllowed(
                command,
                "%s in it means something to a shell only" % shown,
                "%s For a directory there is cwd; what is meant as it stands goes into '...'. %s"
                % (_WITHOUT_A_SHELL, allowed),
            )
        try:
            words = _split(text)
        except ValueError as error:
            advice = "%s %s" % (_WITHOUT_A_SHELL, allowed)
            raise NotAllowed(command, "it cannot be split (%s)" % error, advice) from None
        # What begins with "-" is no program, and where a shell takes the terminal its option.
        if words[0].startswith("-") or not any(
            _command_matches(words, one) for one in self.patterns
        ):
            raise NotAllowed(
                command,
                "it matches nothing that this server allows",
                "%s %s" % (allowed, _WITHOUT_A_SHELL),
            )
        return words

    def _is_under_a_root(self, path: str) -> bool:
        """Whether a path is one of the roots or lies under one, all links resolved."""
        path = os.path.normcase(_real(path))
        for root in self.roots:
            root = os.path.normcase(_real(root))
            if path == root or path.startswith(os.path.join(root, "")):
                return True
        return False


def _first_of(
    text: str,
    plain: re.Pattern[str],
    double: re.Pattern[str] = _EXPANDED,
    escaped: re.Pattern[str] = _LINE_BREAK,
    single: re.Pattern[str] = _NEVER,
) -> str:
    """Return the first character that is looked for in its kind of quotes, "" for none."""
    patterns = {"plain": plain, "double": double, "escaped": escaped, "single": single}
    for piece in _QUOTED_OR_NOT.finditer(text):
        assert piece.lastgroup is not None
        found = patterns[piece.lastgroup].search(text, *piece.span(piece.lastgroup))
        if found:
            return found.group()
    return ""


def _split(text: str) -> List[str]:
    """Return the words of a command. Raises ValueError."""
    lexer = shlex.shlex(text, posix=True)
    lexer.whitespace_split = True
    lexer.commenters = ""
    lexer.whitespace = _WORD_BREAKS
    return list(lexer)


def _real(path: str) -> str:
    """Return a path with all links resolved, whatever the locale."""
    try:
        real = os.path.realpath(native(path))
    except OSError:  # it changes meanwhile (Python 3.8 to 3.9)
        return path
    return real if isinstance(real, str) else real.decode("utf-8", "surrogateescape")


def pattern_words(pattern: str) -> List[str]:
    """Return the words of a pattern of `StartPolicy`. Raises InvalidValue."""
    check_text("allow", pattern)
    try:
        words = _split(pattern)
    except ValueError as error:
        raise InvalidValue(
            "allow", "has a pattern %r with a mistake: %s" % (pattern, error)
        ) from None
    if not words:
        raise InvalidValue("allow", "has an empty pattern")
    if _ANY_WORDS in words[:-1]:
        raise InvalidValue("allow", "has a pattern %r with '**' before its last word" % pattern)
    quoted = _first_of(pattern, _NEVER, _WILDCARDS, _WILDCARDS, _WILDCARDS)
    if quoted:
        raise InvalidValue(
            "allow",
            "has a pattern %r with a wildcard in quotes, which do not make it another character:"
            " that is written [%s]" % (pattern, quoted),
        )
    syntax = _first_of(pattern, _OPERATORS)
    if syntax:
        raise InvalidValue(
            "allow",
            "has a pattern %r with %r, which no command can have outside of quotes, for no shell"
            " runs it" % (pattern, syntax),
        )
    return words


def _command_matches(words: List[str], pattern: List[str]) -> bool:
    if pattern[-1] == _ANY_WORDS:
        pattern = pattern[:-1]
        words = words[: len(pattern)]
    return len(words) == len(pattern) and all(map(_word_matches, words, pattern))


def _word_matches(word: str, pattern: str) -> bool:
    """Whether a word matches as `fnmatchcase` has it, and does not lead upwards by a wildcard.

    Piece by piece between the "*", each at its first place: the fnmatch of Python 3.8 tries all
    places of all pieces, for hours if need be.
    """
    if ".." in word.split("/") and ".." not in pattern.split("/"):
        return False
    first, *rest = re.split(r"\*(?![^\[]*\])", pattern)  # not at the one of "[*]"
    if not rest:
        return fnmatchcase(word, first)
    # translate ends in an anchor of two characters.
    found = re.match(translate(first)[:-2], word)
    for piece in rest[:-1]:
        found = found and re.compile(translate(piece)[:-2]).search(word, found.end())
    return bool(found and re.compile(translate(rest[-1])).search(word, found.end()))


def _program_path(command: str, name: str, directory: str, env: Mapping[str, str]) -> str:
    """Return the path of the program that the first word names. Raises SpawnFailed.

    Looked for as a shell would do it, but in no directory of PATH that is relative: there a
    project could have put a program of that name.
    """
    import shutil

    if os.path.dirname(name):
        return os.path.join(directory, name)
    places = env.get("PATH", os.environ.get("PATH", os.defpath)).split(os.pathsep)
    found = shutil.which(name, path=os.pathsep.join(filter(os.path.isabs, places)) or os.devnull)
    if found is None or not os.path.isabs(found):  # Windows looks in the current directory too
        raise SpawnFailed(
            command,
            "there is no program %r in the PATH" % name,
            "No shell runs this command; its first word must be a program that can be run.",
        )
    return found


def _listed(argument: str, texts: Sequence[str]) -> List[str]:
    if isinstance(texts, (str, bytes)) or not hasattr(texts, "__iter__"):
        raise InvalidValue(argument, "must be a list of texts")
    return list(texts)
