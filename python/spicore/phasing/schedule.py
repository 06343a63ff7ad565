"""Schedules of iterations in words: ``100DM 200RAAR 100ER``, ``3*(20ER+180HIO)+20ER``."""

from __future__ import annotations

import re

from ..errors import InputError

ALGORITHMS = ("ER", "SF", "HIO", "HPR", "RAAR", "DM", "ASR", "RRR", "DRAP")
"""Names that `iterate` takes; their updates are in its documentation."""

_TOKEN = re.compile(r"\s*(?:(?P<number>\d+)|(?P<name>[A-Za-z]+)|(?P<sign>\S))")


def parse_schedule(text: str) -> list[tuple[str, int]]:
    """Return the steps of a schedule in order.

    Parameters
    ----------
    text : str
        Steps ``<iterations><algorithm>``, separated by spaces or ``+``; ``<times>*(...)``
        repeats a group, which may hold others. Upper or lower case.

    Returns
    -------
    list of (algorithm, iterations)

    Raises
    ------
    InputError
        The text is no schedule; the message names the place.

    Examples
    --------
    >>> parse_schedule("100DM 2*(20ER + 180HIO)")
    [('DM', 100), ('ER', 20), ('HIO', 180), ('ER', 20), ('HIO', 180)]
    """
    if not isinstance(text, str):
        raise InputError(f"schedule must be a string, got {type(text).__name__}")
    parser = _Parser(text)
    steps = parser.steps()
    if parser.next[0] is not None:
        raise parser.error("a step such as 100ER")
    if not steps:
        raise InputError(f"schedule must have a step such as 100ER, got {text!r}")
    return steps


class _Parser:
    """Recursive descent over tokens; `next` is the one to come: (kind, word, position)."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.advance()

    def advance(self) -> str:
        """Step to the next token and return the word of the one left."""
        word = self.next[1] if self.position else ""
        match = _TOKEN.match(self.text, self.position)
        if match is None:
            self.next = (None, "the end", len(self.text))
        else:
            kind = match.lastgroup
            self.next = (kind, match.group(kind), match.start(kind))
            self.position = match.end()
        return word

    def error(self, expected: str) -> InputError:
        _, word, at = self.next
        return InputError(
            f"schedule must have {expected} at character {at + 1}, got {word!r} in {self.text!r}"
        )

    def accept(self, word: str) -> bool:
        if self.next[1] != word:
            return False
        self.advance()
        return True

    def steps(self) -> list[tuple[str, int]]:
        result: list[tuple[str, int]] = []
        while self.next[0] == "number":
            result += self.step()
            if self.accept("+") and self.next[0] != "number":
                raise self.error("a step such as 100ER")
        return result

    def step(self) -> list[tuple[str, int]]:
        count = int(self.advance())
        if self.accept("*"):
            if not self.accept("("):
                raise self.error("( after *")
            group = self.steps()
            if not self.accept(")"):
                raise self.error(") or a step")
            return count * group
        if self.next[0] != "name" or self.next[1].upper() not in ALGORITHMS:
            raise self.error(f"one of {', '.join(ALGORITHMS)}")
        return [(self.advance().upper(), count)]
