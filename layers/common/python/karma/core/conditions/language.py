"""Conditions over JSON values: a small, bounded part of CEL (Common Expression Language), compiled where it is written.

    args.command == 'move' && (has(args.params) && args.params.speed > 0.5 || args.device_id in ['arm-1', 'arm-2'])

- values     `null`, `true`, `false`, whole numbers of 64 bits, doubles, strings in `'` or `"`, lists; paths by `.name`
             and `[...]`, which begin with a name that the place offers
- operators  `||`, `&&`, `!`, `==`, `!=`, `<`, `<=`, `>`, `>=`, `in` (a list, or the names of an object)
- functions  `has(path.name)`, `size(x)`, `x.size()`, `x.startsWith(y)`, `x.endsWith(y)`, `x.contains(y)`

Types are CEL's: nothing is converted, and nothing but `true` and `false` is true or false. Whole numbers and doubles
are compared as numbers; other different types are unequal, and have no order. A member that is not there is a fault;
`&&` and `||` pass over a fault where their other side decides. There is no loop, no regular expression and no call with
an effect: a condition costs microseconds, and a budget of steps bounds it whatever it is given.

Each rule is CEL's, so that another implementation can be the oracle of a differential test, and a condition can move to
one. What is not in this part of the language is refused when a condition is compiled.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

from karma.core.conditions.nodes import (
    INT64,
    ORDERS,
    ConditionInvalid,
    ConditionUnanswered,
    Evaluation,
    Node,
    Run,
    comparison_of,
    constant_of,
    element_of,
    logic_of,
    membership_of,
    presence_of,
    selection_of,
    size_of,
    text_test_of,
    truth,
)

MAX_CHARS: Final = 2_000
MAX_TOKENS: Final = 500
MAX_DEPTH: Final = 40

_TOKEN = re.compile(
    r"""\s*(?:(?P<number>\d+\.\d+(?:[eE][+-]?\d+)?|\d+)|(?P<name>[A-Za-z_]\w*)
    |(?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')|(?P<sign>\|\||&&|[=!<>]=|[<>!().,\-]|\[|\]))""",
    re.VERBOSE | re.ASCII,
)
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|(.))")
_ESCAPED: Final = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", "'": "'", '"': '"'}
_WORDS: Final = frozenset({"true", "false", "null", "in"})
_METHODS: Final = ("startsWith", "endsWith", "contains", "size")


class Condition:
    """A compiled condition."""

    __slots__ = ("_run", "text")

    def __init__(self, text: str, run: Run) -> None:
        self.text = text
        self._run = run

    def holds(self, values: Mapping[str, object]) -> bool:
        """Tell whether the condition holds for values, by the names that it was compiled for.

        Raises:
            ConditionUnanswered: it has no answer for these values.
        """
        found = self._run(Evaluation(values))
        if not isinstance(found, bool):
            raise ConditionUnanswered("the condition yields neither true nor false")
        return found


def compile_condition(text: str, names: Collection[str]) -> Condition:
    """Compile a condition whose paths may begin with `names`.

    Raises:
        ConditionInvalid: the text is too long or too deep, is not of the language, names something else, or can
            never yield true or false.
    """
    if len(text) > MAX_CHARS:
        raise ConditionInvalid(MAX_CHARS + 1, f"must be at most {MAX_CHARS} characters")
    return Condition(text, _Parser(_tokens(text), names).whole())


class _Token(NamedTuple):
    kind: str
    text: str
    at: int


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    at, end = 0, len(text.rstrip())
    while at < end:
        found = _TOKEN.match(text, at)
        if found is None:
            gap = len(text[at:]) - len(text[at:].lstrip())
            raise ConditionInvalid(at + gap + 1, f"is not readable: {text[at + gap : at + gap + 12]!r}")
        kind = str(found.lastgroup)
        tokens.append(_Token(kind, found[kind], found.start(kind) + 1))
        at = found.end()
        if len(tokens) > MAX_TOKENS:
            raise ConditionInvalid(tokens[-1].at, f"must have at most {MAX_TOKENS} parts")
    return [*tokens, _Token("end", "", end + 1)]


class _Parser:
    """Recursive descent; each method compiles one level of the grammar, from the weakest operator to the strongest."""

    def __init__(self, tokens: list[_Token], names: Collection[str]) -> None:
        self._tokens = tokens
        self._names = names
        self._i = 0
        self._depth = 0

    @property
    def _next(self) -> _Token:
        return self._tokens[self._i]

    def _take(self) -> _Token:
        token = self._tokens[self._i]
        self._i += 1
        return token

    def _has(self, sign: str) -> bool:
        """Take a sign, or the word `in`, if it comes next."""
        token = self._next
        if token.text == sign and token.kind in {"sign", "name"}:
            self._i += 1
            return True
        return False

    def _need(self, sign: str) -> None:
        if not self._has(sign):
            raise self._unexpected(f"expected '{sign}'")

    def _unexpected(self, wanted: str) -> ConditionInvalid:
        token = self._next
        return ConditionInvalid(token.at, f"{wanted}, found {repr(token.text) if token.text else 'the end'}")

    def whole(self) -> Run:
        found = self._either()
        if self._next.kind != "end":
            raise self._unexpected("expected an operator")
        return truth(found).run

    def _either(self) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ConditionInvalid(self._next.at, f"must be nested at most {MAX_DEPTH} levels")
        left = self._both()
        while self._has("||"):
            left = logic_of(truth(left), truth(self._both()), decides=True)
        self._depth -= 1
        return left

    def _both(self) -> Node:
        left = self._relation()
        while self._has("&&"):
            left = logic_of(truth(left), truth(self._relation()), decides=False)
        return left

    def _relation(self) -> Node:
        left = self._unary()
        sign = self._next
        if sign.kind == "sign" and sign.text in {"==", "!=", *ORDERS}:
            self._take()
            left = comparison_of(left, sign.text, self._unary())
        elif self._has("in"):
            left = membership_of(left, self._unary())
        if self._next.text in {"==", "!=", "in", *ORDERS} and self._next.kind != "string":
            raise self._unexpected("comparisons do not chain: put one in parentheses")
        return left

    def _unary(self) -> Node:
        signs = 0
        at = self._next.at
        while self._has("!"):
            signs += 1
        found = self._postfix()
        if not signs:
            return found
        inner, odd = truth(found).run, signs % 2 == 1

        def negated(work: Evaluation) -> object:
            work.step()
            value = inner(work)
            if not isinstance(value, bool):
                raise ConditionUnanswered("'!' needs true or false")
            return value is not odd

        return Node(negated, bool, at)

    def _postfix(self) -> Node:
        found = self._primary()
        while True:
            if self._has("."):
                name = self._take()
                if name.kind != "name" or name.text in _WORDS:
                    raise ConditionInvalid(name.at, "expected a name behind '.'")
                if name.text in _METHODS and self._has("("):
                    found = self._method(found, name)
                else:
                    found = selection_of(found, name.text)
            elif self._next.text == "[" and self._next.kind == "sign":
                self._take()
                index = self._either()
                self._need("]")
                found = element_of(found, index)
            else:
                return found

    def _method(self, on: Node, name: _Token) -> Node:
        if name.text == "size":
            self._need(")")
            return size_of(on)
        argument = self._either()
        self._need(")")
        for each in (on, argument):
            if each.kind not in {None, str}:
                raise ConditionInvalid(each.at, f"{name.text} takes strings")
        return text_test_of(name.text, on, argument, name.at)

    def _primary(self) -> Node:
        token = self._next
        if token.kind == "number" or (token.kind == "sign" and token.text == "-"):
            return self._number()
        self._take()
        if token.kind == "string":
            return constant_of(_unquoted(token), token.at)
        if token.kind == "name":
            return self._named(token)
        if token.kind == "sign" and token.text == "(":
            found = self._either()
            self._need(")")
            # Without its parent: has((a.b)) is not CEL.
            return Node(found.run, found.kind, found.at)
        if token.kind == "sign" and token.text == "[":
            return self._list(token.at)
        self._i -= 1
        raise self._unexpected("expected a value")

    def _number(self) -> Node:
        token = self._take()
        at, negative = token.at, token.text == "-"
        if negative:
            token = self._take()
            if token.kind != "number":
                raise ConditionInvalid(token.at, "'-' stands before numbers only")
        value = float(token.text) if "." in token.text else int(token.text)
        value = -value if negative else value
        if isinstance(value, int) and value not in INT64:
            raise ConditionInvalid(at, "must be a whole number of 64 bits")
        return constant_of(value, at)

    def _named(self, token: _Token) -> Node:
        if token.text in {"true", "false", "null"}:
            return constant_of({"true": True, "false": False, "null": None}[token.text], token.at)
        if token.text in {"has", "size"}:
            self._need("(")
            inner = self._either()
            self._need(")")
            return size_of(inner) if token.text == "size" else presence_of(inner)
        if token.text not in self._names:
            known = ", ".join(sorted(self._names))
            raise ConditionInvalid(token.at, f"{token.text[:64]!r} is not known here; paths begin with {known}")
        name = token.text

        def named(work: Evaluation) -> object:
            work.step()
            return work.values[name]

        return Node(named, None, token.at)

    def _list(self, at: int) -> Node:
        members: list[Run] = []
        while not self._has("]"):
            if members:
                self._need(",")
            members.append(self._either().run)

        def listed(work: Evaluation) -> object:
            work.step()
            return [member(work) for member in members]

        return Node(listed, list, at)


def _unquoted(token: _Token) -> str:
    def unescape(found: re.Match[str]) -> str:
        if found[1]:
            return chr(int(found[1], 16))
        if found[2] not in _ESCAPED:
            raise ConditionInvalid(token.at, f"has an escape that is not known: {found[0]}")
        return _ESCAPED[found[2]]

    text = _ESCAPE.sub(unescape, token.text[1:-1])
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise ConditionInvalid(token.at, "has half a character")
    return text
