"""Hooks of the site: formulas as MathML, statements from the claims, measurements from the published ledger.

A page says `<!-- claim C1 -->` where the statement of a claim belongs and `<!-- measured C1 -->` where its rows of
`reports/published/ledger.md` do, so that neither can drift from the code or from the last published run;
`<!-- options -->` becomes the table of `SeqLoRAConfig`. Figures of that run are served as `figures/<name>.png`;
`<!-- figure name -->` shows one, or the command that draws it while it is not published. Nothing is loaded from the
network, neither here nor by the pages.
"""

from __future__ import annotations

import re
from dataclasses import fields
from html import unescape
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
LEDGER = ROOT / "reports" / "published" / "ledger.md"
FIGURES = ROOT / "reports" / "published" / "figures"
ON_IMAGES = ("C9", "C10")  # judged on stored image cells, which are run apart from the claims about layers
ORIGINS = {
    "abstract": "a reconstruction: the abstract asserts it in words, the formula is ours",
    "ours": "ours: the abstract does not say it",
}
DIRECTIVE = re.compile(r"<!-- (claim|measured|options|figure) ?(\w*) -->")
OVERLINE = re.compile(r'<mover><mrow>((?:(?!<mover>).)*)</mrow><mo accent="true">&#x02015;</mo></mover>')
FORMULA = re.compile(r'<(span|div) class="arithmatex">\s*\\([(\[])(.*?)\\[)\]]\s*</\1>', re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Add the published figures."""
    for path in sorted(FIGURES.glob("*.png")):
        files.append(File.generated(config, f"figures/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in statements, measurements and options."""
    parts = {"claim": statement, "measured": measured, "options": options, "figure": figure}
    return DIRECTIVE.sub(lambda match: parts[match[1]](match[2]), markdown)


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Turn what arithmatex marked as a formula into MathML.

    Raises:
        PluginError: a formula that arithmatex took for words, because no empty line stands around it.
    """
    where = page.file.src_uri
    done = FORMULA.sub(lambda match: mathml(unescape(match[3]), match[2] == "[", where), html)
    if "$$" in re.sub(r"<code.*?</code>", "", done, flags=re.DOTALL):
        raise PluginError(f"{where}: a formula between $$ needs an empty line before and after it")
    return done


def statement(claim: str) -> str:
    """Title, LaTeX and origin of a claim, as the code has them."""
    import theory.claims  # noqa: F401 (registers the claims)
    from theory.api import CLAIMS
    from theory.claims.images import STATEMENTS

    known = CLAIMS.get(claim) or STATEMENTS[claim]
    return (
        f'!!! abstract "{claim}: {known.title}"\n\n    $$\n    {known.statement}\n    $$\n\n'
        f"    Origin: {ORIGINS[known.source]}.\n"
    )


def measured(claim: str) -> str:
    """The claim's rows of the published ledger, one paragraph a source of layers."""
    lines = LEDGER.read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith(f"| **{claim}** ") and "| **not checked** |" not in line]
    if not rows and claim in ON_IMAGES:
        return (
            "The last published run has not judged it. Make a row on the models that you have:\n\n```sh\n"
            "python -m bench run --suite images --out results/bench\n"
            "python -m bench predict --out results/bench --json results/theory/images.json\n```\n"
        )
    if not rows:
        raise PluginError(f"{LEDGER} has no row for {claim}; publish a run that checks it")
    text = []
    for row in rows:
        _, _, layers, verdict, evidence, controls = (cell.strip() for cell in row.strip("| ").split(" | "))
        text.append(f'!!! quote "{layers}"\n\n    {verdict}\n\n    {evidence}\n\n    Controls: {controls}.\n')
    return "\n".join(text)


def figure(name: str) -> str:
    """A published figure, or how to draw it."""
    if (FIGURES / f"{name}.png").is_file():
        return f"![{name.replace('_', ' ')}](../figures/{name}.png)"
    return f"Not among the published figures yet: `python -m reports figure {name} --results results` draws it."


def options(_: str) -> str:
    """Every field of `SeqLoRAConfig`: default and meaning."""
    from seqlora import SeqLoRAConfig

    defaults = SeqLoRAConfig()
    rows = [
        f"| `{entry.name}` | `{getattr(defaults, entry.name)!r}` | {entry.metadata['help']} |"
        for entry in fields(SeqLoRAConfig)
    ]
    return "\n".join(["| option | default | meaning |", "|---|---|---|", *rows])


def mathml(latex: str, display: bool, where: str) -> str:
    """A formula that browsers set themselves.

    Raises:
        PluginError: a command that the converter does not know.
    """
    text = convert(latex.strip(), display="block" if display else "inline")
    left = re.search(r"\\[A-Za-z]+", text)
    if left:
        raise PluginError(f"{where}: {left[0]} in {latex.strip()!r} cannot be set; write it another way")
    # A norm's right bar carries the exponent, so only the left one would grow with what is between them.
    text = text.replace("<mo>&#x02016;</mo>", '<mo fence="false" stretchy="false">&#x02016;</mo>')
    # \overline comes as a dash of fixed length over the middle: draw the bar as a border instead.
    text = OVERLINE.sub(r'<mrow class="overline">\1</mrow>', text)
    return f'<div class="formula">{text}</div>' if display else text
