"""A page as a reader, a screen reader and a browser find it."""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import pytest

VOID = {"meta", "img", "link", "br"}


@dataclass
class Element:
    """A tag with what is in it."""

    tag: str
    attributes: dict[str, str]
    children: list[Element | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(c if isinstance(c, str) else c.text for c in self.children)

    def all(self, *tags: str) -> list[Element]:
        """This element and those below it with one of these tags (all without), in order."""
        below = [found for c in self.children if isinstance(c, Element) for found in c.all(*tags)]
        return ([self] if not tags or self.tag in tags else []) + below

    def one(self, tag: str) -> Element:
        (found,) = self.all(tag)
        return found


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open = [Element("", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, attrs)
        made = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(made)
        if tag not in VOID:
            self.open.append(made)

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def read(text: str) -> Element:
    """The page; every tag is closed where it was opened."""
    reader = _Reader()
    reader.feed(text)
    reader.close()
    assert len(reader.open) == 1
    return reader.open[0]


def tables(page: Element) -> dict[str, list[list[Element]]]:
    """By caption: the rows of cells, the head first."""
    found = {t.one("caption").text: [row.all("th", "td") for row in t.all("tr")] for t in page.all("table")}
    assert len(found) == len(page.all("table")), "two tables have one caption"
    return found


def values(row: list[Element]) -> list[list[float]]:
    """The numbers that stand behind each cell."""
    return [[float(d.attributes["value"]) for d in cell.all("data")] for cell in row]


# What a browser makes of it: the page stands in a frame of some width, and what is measured comes back as an attribute.
_PROBE = """
const numbers = (table, column) => [...table.tBodies[0].rows].map(row => row.cells[column].querySelector('data')?.value)
const rises = values => values.every((value, at) => at === 0 || Number(values[at - 1]) <= Number(value))
// Every column of numbers that are all known: sorted by a click, and the other way round by another.
const sorting = page => {
  let sortable = 0, sorted = 0
  for (const table of page.querySelectorAll('table')) {
    for (const [column, head] of [...table.tHead.rows[0].cells].entries()) {
      const button = head.querySelector('button')
      if (!button || numbers(table, column).includes(undefined)) continue
      sortable += 1
      button.click()
      const up = rises(numbers(table, column)) && head.getAttribute('aria-sort') === 'ascending'
      button.click()
      const down = rises(numbers(table, column).reverse()) && head.getAttribute('aria-sort') === 'descending'
      sorted += up && down
    }
  }
  return { sortable, sorted }
}
addEventListener('load', () => {
  const frame = document.querySelector('iframe').contentWindow, page = frame.document
  page.querySelectorAll('details').forEach(e => e.open = true)
  const all = [...page.querySelectorAll('body *')]
  const found = {
    width: frame.innerWidth,
    needed: page.documentElement.scrollWidth,
    outside: all.filter(e => !e.closest('.box') && e.getBoundingClientRect().right > frame.innerWidth + 1).length,
    images: page.images.length,
    drawn: [...page.images].filter(i => i.complete && i.naturalWidth > 0).length,
    boxes: [...page.querySelectorAll('.box')].filter(b => b.scrollWidth > b.clientWidth + 1).length,
    hints: page.querySelectorAll('.box.scrolls').length,
    filled: page.querySelector('main').clientWidth / frame.innerWidth,
    ...sorting(page),
    loaded: frame.performance.getEntriesByType('resource').filter(r => !r.name.startsWith('data:')).length,
    type: Math.min(...all.map(e => parseFloat(frame.getComputedStyle(e).fontSize)))
  }
  document.documentElement.dataset.found = Object.entries(found).map(e => e.join('=')).join(' ')
})
"""


def in_browser(page: Path, width: int) -> dict[str, float]:
    """What Chromium measures of the page in a window of this width; skips the test where there is none."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("there is no browser: Debian's package chromium is not installed")
    frame = page.with_name("frame.html")
    inner = f'<iframe style="border:0;width:{width}px;height:900px" srcdoc="{html.escape(page.read_text())}"></iframe>'
    frame.write_text(f"<!DOCTYPE html><meta charset=utf-8><script>{_PROBE}</script><body style=margin:0>{inner}")
    # Root has no sandbox to start; nothing but the page of this test is shown.
    alone = ["--no-sandbox"] if os.geteuid() == 0 else []
    quiet = [
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-gpu",
        "--hide-scrollbars",
    ]
    profile = f"--user-data-dir={page.parent / 'profile'}"
    done = subprocess.run(
        [browser, "--headless=new", *alone, *quiet, profile, "--window-size=1400,1000", "--dump-dom", frame.as_uri()],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    found = re.search(r'data-found="([^"]*)"', done.stdout)
    assert found is not None, done.stderr
    return {key: float(value) for key, _, value in (item.partition("=") for item in found[1].split())}
