"""The words of a run report: a file for each language, and charts put into its words."""

import html
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from openqwq.evaluation.plots import Chart

LANGUAGES = ("en", "zh")
DRAWN_TEXT = re.compile(r">([^<>]+)</text>")
HOVER_TEXT = re.compile(r"<title>(.+), step (\d+): (\S+) (.+)</title>")


@dataclass(frozen=True)
class Words:
    """What a report says in one language: the keys of `report.en.toml`."""

    language: str
    texts: Mapping[str, Any]

    def __getitem__(self, key: str) -> Any:
        return self.texts[key]

    def say(self, key: str, **values: object) -> str:
        """The text of `key` with its {values}."""
        text: str = self.texts[key]
        return text.format(**values)

    def listed(self, names: Collection[str]) -> str:
        """The names in a row, the last one after an "and"."""
        nothing: str = self.texts["nothing"]
        *others, last = names or [nothing]
        if not others:
            return last
        row: str = self.texts["comma"].join(others)
        return f"{row}{self['last_comma']}{last}"

    def chart(self, chart: Chart, names: Collection[str] = ()) -> Chart:
        """`chart` in these words; `names`, such as those of stages and tables, stay as they are."""
        drawn = {
            english: text for english, text in self["drawn"].items() if english not in names
        }

        def label(found: re.Match[str]) -> str:
            english = html.unescape(found[1])
            text = drawn.get(english, english)
            return f">{html.escape(text, quote=False)}</text>"

        def point(found: re.Match[str]) -> str:
            line, step, value, unit = (html.unescape(part) for part in found.groups())
            place = f"{drawn.get('step', 'step')} {step}"
            text = f"{drawn.get(line, line)}, {place}: {value} {drawn.get(unit, unit)}"
            return f"<title>{html.escape(text)}</title>"

        svg = HOVER_TEXT.sub(point, DRAWN_TEXT.sub(label, chart.svg))
        return replace(chart, note=self._note(chart.note), svg=svg)

    def title(self, chart: Chart) -> str:
        """A chart's title in these words."""
        title: str = self["drawn"].get(chart.title, chart.title)
        return title

    def _note(self, note: str) -> str:
        numbers = re.findall(r"\d+", note)
        pattern = re.sub(r"\d+", "{}", note)
        text: str = self["notes"].get(pattern, pattern)
        return text.format(*numbers)


def read_words(language: str) -> Words:
    """The words of one of `LANGUAGES`."""
    path = Path(__file__).with_name(f"report.{language}.toml")
    return Words(language, tomllib.loads(path.read_text(encoding="utf-8")))
