"""Lines that stay, and below them a live line on a terminal."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, ClassVar, TextIO, TypeVar

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

Self = TypeVar("Self", bound="LiveLines")


class LiveLines:
    """Base of what shows long work: `HEAD` first, then `_print`, and `_live_line` on a terminal.

    Parameters
    ----------
    stream : file, optional
        Default: stderr.
    """

    HEAD: ClassVar[tuple[str, ...]] = ()

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self._console: Console | None = None
        self._stack = ExitStack()

    def __enter__(self: Self) -> Self:
        if self.stream.isatty():
            from rich.console import Console
            from rich.live import Live

            self._console = Console(file=self.stream)
            live = Live(
                console=self._console,
                get_renderable=self._live_line,
                refresh_per_second=5,
                transient=True,
            )
            self._stack.enter_context(live)
        for text in self.HEAD:
            self._print(text)
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def _print(self, text: str) -> None:
        if self._console is None:
            print(text, file=self.stream, flush=True)
        else:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _live_line(self) -> RenderableType:
        raise NotImplementedError


def row(stage: str, fraction: float, share: str, rest: str) -> RenderableType:
    """Return a live line with a bar; it pulses at fraction 0."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    table = Table.grid(padding=(0, 1))
    for _ in range(4):
        table.add_column(no_wrap=True)
    bar = ProgressBar(total=1.0, completed=fraction, width=24, pulse=fraction == 0.0)
    table.add_row(stage, bar, share, rest)
    return table
