"""How the demo tells what it does: commands as typed, what they said, and what that proves."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.text import Text

INDENT = "    "


class Narrator:
    """Writes to a terminal in colour, and to a log as plain lines; keeps count of its claims."""

    def __init__(self) -> None:
        # A line is never wrapped or cut, so that real output stays as it was.
        self._console = Console(highlight=False, soft_wrap=True)
        encodes = (sys.stdout.encoding or "").lower().startswith("utf")
        self._tick, self._cross = ("✓", "✗") if encodes else ("ok", "FAILED")
        self._steps = 0
        self._said_once: set[str] = set()
        self.claims = 0
        self.failures: list[str] = []

    def heading(self, text: str) -> None:
        """Begin a step."""
        self._steps += 1
        self._print(f"\n{self._steps}. {text}", "bold")

    def say(self, text: str) -> None:
        """Add a remark, or a picture."""
        for line in text.splitlines():
            self._print(f"  {line}".rstrip(), "")

    def say_once(self, text: str) -> None:
        """Add a remark, unless it has been added before."""
        if text not in self._said_once:
            self._said_once.add(text)
            self.say(text)

    def command(self, where: str, words: str, output: str) -> None:
        """Show a command as typed somewhere, and what it said."""
        self._print(f"  {where}# {words}", "cyan")
        self.output(output)

    def output(self, text: str) -> None:
        """Show what a program said."""
        for line in text.strip("\n").splitlines():
            self._print(f"{INDENT}  {line}".rstrip(), "dim")

    def claim(self, holds: bool, sentence: str) -> None:
        """State what was proved, or that it was not."""
        self.claims += 1
        if holds:
            self._print(f"  {self._tick} {sentence}", "green")
        else:
            self.failures.append(sentence)
            self._print(f"  {self._cross} does not hold: {sentence}", "bold red")

    def _print(self, text: str, style: str) -> None:
        self._console.print(Text(text, style=style))
