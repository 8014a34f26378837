"""LaTeX text and booktabs tables; they need \\usepackage{booktabs}."""

from __future__ import annotations

from collections.abc import Sequence

_SIGNS = {
    "\\": r"\textbackslash{}",
    **{char: "\\" + char for char in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def escape(text: str) -> str:
    """Text that LaTeX prints as it stands."""
    return "".join(_SIGNS.get(char, char) for char in text)


def tabular(align: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A booktabs tabular of cells that are LaTeX already."""
    lines = [rf"\begin{{tabular}}{{{align}}}", r"\toprule", _line(header), r"\midrule"]
    return "\n".join([*lines, *(_line(row) for row in rows), r"\bottomrule", r"\end{tabular}"]) + "\n"


def float_table(caption: str, body: str) -> str:
    """A table environment with the caption above, around a tabular. `caption` is LaTeX already."""
    return "\n".join([r"\begin{table}", r"\centering", rf"\caption{{{caption}}}", body + r"\end{table}"]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"
