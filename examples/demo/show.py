"""How the demo talks: an act has a title, the code that runs, and facts that were checked."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table


class Surprise(Exception):
    """Something did not happen as the demo says it does."""


class Show:
    """Everything that the demo prints."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.acts = 0
        self.facts = 0

    def opening(self, title: str, text: str) -> None:
        self.console.print(Panel(text, title=f"[bold]{title}", border_style="cyan"))

    def closing(self, text: str) -> None:
        self.console.print()
        self.console.print(Panel(text, border_style="green"))

    def act(self, title: str, text: str) -> None:
        """Begin an act; *text* says in plain words what is to be seen."""
        self.acts += 1
        self.console.print()
        self.console.rule(f"[bold cyan]{self.acts}. {title}", align="left", style="cyan")
        self.console.print(text)

    def code(self, text: str) -> None:
        """Show the lines of Python that do it."""
        self.console.print()
        self._indented(Syntax(text, "python", theme="ansi_dark", background_color="default"), 4)
        self.console.print()

    def table(self, columns: list[str], rows: list[tuple[str, ...]]) -> None:
        table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
        for column in columns:
            table.add_column(column)
        for row in rows:
            table.add_row(*map(escape, row))
        self._indented(table, 4)

    def plain(self, text: str) -> None:
        """Show one line of data."""
        self.console.print(f"    {escape(text)}", overflow="ellipsis", no_wrap=True)

    def hint(self, text: str) -> None:
        """Say something that the reader may want to try."""
        self._indented(f"[italic]{escape(text)}", 4)

    def fact(self, text: str, *, holds: bool = True) -> None:
        """State what was seen; if it does not hold, the demo stops here."""
        if not holds:
            raise Surprise(f"this should be true and is not: {text}")
        self.facts += 1
        self._indented(f"[bold green]✓[/] {escape(text)}", 2)

    @contextmanager
    def expected(self, kind: type[Exception]) -> Iterator[None]:
        """A block that is meant to end in an error of this type: show it, and go on."""
        try:
            yield
        except kind as exc:
            self._indented(f"[yellow]{type(exc).__name__}[/]: {escape(str(exc))}", 4)
        else:
            raise Surprise(f"{kind.__name__} should have been raised, and nothing was")

    def failed(self, error: BaseException) -> None:
        """Say that the demo ends too early, and why."""
        self.console.print(f"\n[bold red]The demo failed.[/] {type(error).__name__}: ", end="")
        self.console.print(str(error), markup=False)

    def _indented(self, content: RenderableType, by: int) -> None:
        self.console.print(Padding(content, (0, 0, 0, by), expand=False))
