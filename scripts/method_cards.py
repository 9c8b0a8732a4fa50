"""Write one card for each policy, transform, monitor and analysis from its docstring, and the index of them.

A script of mkdocs-gen-files. What a card says stands in the docstring, in sections that the contract tests demand
(``When to use``, ``Cost``, ``Deviations``, ``Source``); the schedules of policies are drawn from a short training.
"""

from __future__ import annotations

import ast
import doctest
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from card_figures import figure_of_monitor, figure_of_policy, figure_of_transform
from card_figures_of_analyses import FIGURES
from docstring_roles import to_markdown

SECTIONS = ("When to use", "Cost", "Deviations", "Source")
PICTURES = {
    "monitors/representation": ("participation-ratio-rows.png", "Participation ratio over the number of rows"),
    "analyses/cka": ("analyze-cka.png", "Similarity of each layer with the initial and the final network"),
    "analyses/neural_collapse": ("analyze-collapse.png", "Neural collapse through training on digits"),
    "analyses/heavy_tails": ("analyze-tails.png", "Spectra of the weights of an MLP"),
    "analyses/connectivity": ("landscape-curve.png", "Loss along a Bezier curve between two networks"),
    "analyses/surface": ("landscape-surface.png", "Loss in two random directions"),
    "analyses/density": ("landscape-density.png", "Density of the Hessian's eigenvalues"),
    "analyses/llc": ("learning-coefficient.png", "Sampled and exact learning coefficients"),
    "analyses/progress": ("grokking-circuit.png", "Restricted and excluded loss through training"),
}
_HEADING = re.compile(r"^([A-Z][A-Za-z ]*):$", re.MULTILINE)
_ARXIV = re.compile(r"arXiv\s+((?:math/)?\d{4}\.?\d{3,5})")


@dataclass(frozen=True)
class Part:
    """Something with a card."""

    kind: str
    name: str
    value: Any
    title: str

    @property
    def page(self) -> str:
        """Its place below ``docs/cards``, without the ending."""
        return f"{self.kind}/{self.name}"


def parts() -> Iterator[Part]:
    """Everything that has a card, kind by kind."""
    from surgecollapse.attaching.row_norms import clip_rows
    from surgecollapse.attaching.sharpness import single_step_sam
    from surgecollapse.gradients.clip import ClipNorm
    from surgecollapse.gradients.equalize import EqualizeSpectrum
    from surgecollapse.gradients.gradient_filter import GradientFilter
    from surgecollapse.gradients.grokfast import Grokfast, GrokfastMA
    from surgecollapse.gradients.orthograd import OrthoGrad
    from surgecollapse.observe.monitors import MONITORS
    from surgecollapse.policies import POLICIES
    from surgecollapse.report.analyses.registry import ANALYSES, TITLES

    for name, value in POLICIES.items():
        yield Part("policies", name, value, value.__name__)
    weights = (clip_rows, single_step_sam)
    for value in (Grokfast, GrokfastMA, GradientFilter, OrthoGrad, EqualizeSpectrum, ClipNorm, *weights):
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", value.__name__).lower()
        yield Part("transforms", {"ortho_grad": "orthograd"}.get(name, name), value, value.__name__)
    for name, value in MONITORS.items():
        yield Part("monitors", name, value, value.__name__)
    for name, value in ANALYSES.items():
        yield Part("analyses", name, value, TITLES[name])


def sections(value: Any) -> dict[str, str]:
    """The docstring by section; what comes before the first stands under the empty name, doctests under ``Example``."""
    text = inspect.getdoc(value) or ""
    found: dict[str, list[str]] = {"": []}
    here = ""
    for line in text.split("\n"):
        heading = _HEADING.match(line)
        if heading:
            here = heading[1]
        elif line and not line.startswith(" ") and here:
            here = "Example" if line.startswith(">>>") or here == "Example" else ""
        elif line.startswith(">>>"):
            here = "Example"
        if not heading:
            found.setdefault(here, []).append(line)
    return {name: textwrap.dedent("\n".join(lines)).strip() for name, lines in found.items()}


def _prose(text: str) -> str:
    """Markdown of a docstring's text: equations that stand indented after ``::`` become code blocks."""

    def equation(match: re.Match[str]) -> str:
        # What stands beside an equation has a line of its own, so that it fits on a phone.
        lines = re.sub(r",  +(?=\S)", ",\n", textwrap.dedent(match[1]).rstrip())
        return f":\n\n```text\n{lines}\n```\n"

    text = _ARXIV.sub(r"[arXiv \1](https://arxiv.org/abs/\1)", to_markdown(text))
    return re.sub(r"::\n\n((?: {4}.+\n?)+)", equation, text)


def _options(args: str, value: Any) -> Iterator[str]:
    """Rows of the table of options: name, default, meaning."""
    given = inspect.signature(value).parameters
    for entry in re.split(r"\n(?=\S)", args):
        name, _, meaning = " ".join(entry.split()).partition(": ")
        default = given[name].default if name in given else inspect.Parameter.empty
        shown = "" if default is inspect.Parameter.empty else f"`{default!r}`"
        yield f"| `{name}` | {shown} | {_prose(meaning).replace('|', chr(92) + '|')} |"


def example_of(part: Part) -> str:
    """Its doctest with the imports that it needs, which the module of the docstring has; empty where it has none."""
    example = sections(part.value).get("Example", "")
    source = "".join(piece.source for piece in doctest.DocTestParser().get_examples(example))
    module = sys.modules[part.value.__module__]
    nodes = list(ast.walk(ast.parse(source)))
    made = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    made |= {
        alias.asname or alias.name
        for node in nodes
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    used = {node.id for node in nodes if isinstance(node, ast.Name)} - made
    imports = [f">>> {_import_of(name, getattr(module, name))}" for name in sorted(used) if hasattr(module, name)]
    return "\n".join([*imports, example])


def _import_of(name: str, value: Any) -> str:
    """The statement that imports something from the shortest package that has it."""
    if inspect.ismodule(value):
        package, _, last = value.__name__.rpartition(".")
        return f"from {package} import {last}" if package else f"import {last}"
    parts = value.__module__.split(".")
    packages = [".".join(parts[:n]) for n in range(1, len(parts) + 1)]
    package = next(package for package in packages if getattr(sys.modules[package], name, None) is value)
    return f"from {package} import {name}"


def _use(part: Part) -> str:
    """The call that puts a part to use."""
    if part.kind == "analyses":
        return f"surgecollapse analyze RUN --what {part.name}"
    needed = [p.name for p in inspect.signature(part.value).parameters.values() if p.default is p.empty]
    given = {
        "policies": f'policy="{part.name}"',
        "transforms": f"transforms=[{part.value.__name__}({', '.join(needed)})]",
        "monitors": f'monitors=["{part.name}"]',
    }[part.kind]
    return f"surgecollapse.attach(\n    model, optimizer, 0.9, 10_000,\n    {given},\n)"  # a phone shows all of it


def card(part: Part, figure: str) -> str:
    """The page of one part."""
    said = sections(part.value)
    idea, _, rest = said[""].partition("\n\n")
    lines = [f"# {part.title}", "", _prose(idea), ""]
    if part.title != part.name:
        lines += [f"Name: `{part.name}`.", ""]
    lines += [
        "```" + ("console" if part.kind == "analyses" else "python"),
        _use(part),
        "```",
        "",
        _prose(rest),
        "",
        figure,
        "",
    ]
    for name in SECTIONS:
        lines += [f"## {name}", "", _prose(said[name]), ""]
    if args := said.get("Args"):
        lines += ["## Options", "", "| option | default | meaning |", "|---|---|---|", *_options(args, part.value), ""]
    if example := example_of(part):
        lines += ["## Example", "", "```pycon", example, "```", ""]
    where = f"{part.value.__module__}.{part.value.__qualname__}"
    if part.kind != "analyses":
        lines += [f"API: [`{part.value.__name__}`][{where}].", ""]
    return "\n".join([*lines, "[All cards](../index.md)", ""])


_INTRO = {
    "policies": ("Policies", "When to prune and regrow, and how deep: `attach(policy=…)`, `--policy`."),
    "transforms": ("Transforms", "Of the final gradient: `attach(transforms=[…])`, `transform_gradients`."),
    "monitors": ("Monitors", "What is measured during training: `attach(monitors=…)`, `--monitors`."),
    "analyses": ("Analyses", "Of the checkpoints of a run: `surgecollapse analyze RUN --what …`."),
}


def index(all_parts: Sequence[Part]) -> str:
    """The page that lists all cards."""
    lines = [
        "# Method cards",
        "",
        "One page for each part: idea, a figure, when to use it, cost, source and deviations.",
        "",
    ]
    for kind, (title, what) in _INTRO.items():
        lines += [f"## {title}", "", what, "", "| name | idea |", "|---|---|"]
        for part in all_parts:
            if part.kind == kind:
                idea = _prose(sections(part.value)[""].partition("\n\n")[0].replace("\n", " "))
                lines.append(f"| [`{part.name}`]({part.page}.md) | {idea.replace('|', chr(92) + '|')} |")
        lines.append("")
    return "\n".join(lines)


def figure_of(part: Part) -> str:
    """Markdown, or inline SVG, of the one figure of a card."""
    if part.page in PICTURES:
        file, caption = PICTURES[part.page]
        return f"![{caption}](../../images/{file})"
    if part.kind == "policies":
        return figure_of_policy(part.name)
    if part.kind == "monitors":
        return figure_of_monitor(part.name)
    if part.kind == "transforms":
        return figure_of_transform(part.name)
    return FIGURES[part.name]()


def write(opened: Callable[[str], Any]) -> None:
    """Write all cards and their index."""
    every = list(parts())
    for part in every:
        with opened(f"cards/{part.page}.md") as out:
            out.write(card(part, figure_of(part)))
    with opened("cards/index.md") as out:
        out.write(index(every))


if __name__ == "<run_path>":  # as mkdocs-gen-files runs it; the tests import it
    import mkdocs_gen_files

    write(lambda page: mkdocs_gen_files.open(page, "w"))
