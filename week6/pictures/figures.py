"""The pictures of the course, drawn by `make figures`: RLHF in LLMs, DPO's short cut, and DPO's gradient.

The first serves as the roadmap at the head of each notebook too, with its stops.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, PathPatch
from matplotlib.path import Path as Outline

from week6.pictures.plots import BLACK, BLUE, GREEN, ORANGE

Point = tuple[float, float]

WIDTH, HEIGHT = 11.2, 5.8
"""Size of the drawing in its own units: inches of the large figure."""
BOX = (1.42, 0.94)
TOP, LOWER, BOTTOM = 5.5, 1.15, 0.28
"""Heights of the leash to PPO, of the short cut, and of the leash to DPO."""
GREY, DARK, PALE = "#6b7280", "#374151", "#f1f3f5"
LOOKS = {  # fill, edge, line width, radius of the corners by height: told apart in grey prints by shape and weight
    "data": ("#ffffff", GREY, 1.1, 0.0),
    "model": ("#d6e8f5", BLUE, 2.0, 0.15),
    "training": ("#fbe3d2", ORANGE, 2.0, 0.45),
}
STYLE: Any = {"font.family": "DejaVu Sans", "mathtext.fontset": "dejavusans", "svg.hashsalt": "week6"}


@dataclass(frozen=True)
class Box:
    """A station: its kind (data, model or training), its centre, its name, and a second line in symbols."""

    kind: str
    at: Point
    name: str
    symbol: str = ""


BOXES = {
    "demonstrations": Box("data", (1.15, 3.75), "Prompts and\ndemonstrations"),
    "pretrained": Box("model", (1.15, 2.25), "Pretrained\nmodel"),
    "sft": Box("model", (2.95, 3.0), "SFT model", r"$\pi_\mathrm{ref}(y\,|\,x)$"),
    "pairs": Box("data", (4.85, 3.0), "Two answers\nto a prompt", r"$y_1,\ y_2$"),
    "preferences": Box("data", (6.6, 3.0), "Human\npreferences", r"$y_w \succ y_l$"),
    "reward_model": Box("model", (8.35, 4.05), "Reward\nmodel", r"$r_\phi(x, y)$"),
    "ppo": Box("training", (10.1, 4.05), "PPO", r"raises $r_\phi$"),
    "chatbot": Box("model", (10.1, 2.6), "Aligned\nchatbot", r"$\pi_\theta(y\,|\,x)$"),
    "dpo": Box("training", (10.1, LOWER), "DPO", "one loss"),
}
LEASHES = {TOP: r"KL leash: stay close to $\pi_\mathrm{ref}$", BOTTOM: "the same leash, inside the loss of DPO"}
PANELS = {"1 · Show": (0.3, 3.8), "2 · Compare": (4.0, 7.45), "3 · Optimise": (7.55, 10.95)}
"""Title, left and right edge of each of the three stages."""
STOPS = {  # centre of the badge, title of the notebook
    0: ((0.5, 4.22), "Alignment"),
    1: ((5.93, 3.54), "Bradley–Terry"),
    2: ((7.75, 4.52), "Reward modelling"),
    3: ((7.9, TOP), "The RLHF objective"),
    4: ((9.45, 4.52), "Policy gradients and PPO's clip"),
    5: ((10.75, 4.52), "PPO on a language model"),
    6: ((9.45, 1.62), "DPO"),
    7: ((9.45, 3.07), "One frontier"),
    8: ((10.75, 3.07), "Chatbots"),
    9: ((8.95, 3.54), "Rewards that can be checked"),
    10: ((10.75, 1.62), "The variants"),
}


def rlhf_pipeline(highlight: str | None = None) -> Figure:
    """RLHF in LLMs, with one station highlighted: a key of BOXES, or "leash". Raises ValueError for another name.

    Prompts and demonstrations make the SFT model; it answers each prompt twice; people say which answer is better; a
    reward model learns from them; PPO raises its reward on a KL leash to the SFT model. DPO goes from the preferences
    to the policy directly (after Ouyang et al. 2022, fig. 2; Rafailov et al. 2023, fig. 1).
    """
    if highlight not in (None, "leash", *BOXES):
        raise ValueError(f"highlight: got {highlight!r}, expected one of {', '.join(BOXES)}, leash")
    return _Drawing(scale=1.0, height=HEIGHT).pipeline(highlight)


def roadmap(stop: int) -> Figure:
    """The same picture in small, with the notebooks as numbered stops; `stop`, a key of STOPS, is where you are."""
    if stop not in STOPS:
        raise ValueError(f"stop: got {stop!r}, expected a whole number from 0 to {max(STOPS)}")
    drawing = _Drawing(scale=0.78, height=HEIGHT + 0.55)
    figure = drawing.pipeline(None)
    for number, (at, _) in STOPS.items():
        drawing.badge(at, number, here=number == stop)
    drawing.text((0.3, HEIGHT + 0.2), f"You are here: {stop:02d} · {STOPS[stop][1]}", 15, weight="bold", ha="left")
    return figure


def dpo_shortcut() -> Figure:
    """DPO's short cut: RLHF's reward model and loop above, DPO's one loss on the policy below.

    Both start from the same preferences and have the same optimum (after Rafailov et al. 2023, fig. 1).
    """
    drawing = _Drawing(scale=1.0, height=5.6)
    drawing.panel((2.2, 2.4), (10.95, 5.45), "RLHF: a reward model and a loop")
    drawing.panel((2.2, 0.15), (10.95, 2.05), "DPO: the policy is its own reward model")
    for at, models in (
        ((10.8, 5.18), "policy with value head, reference, reward model"),
        ((9.15, 1.78), "policy, reference"),
    ):
        drawing.text(at, f"in memory: {models}", 9.5, color=DARK, ha="right")
    top, middle, low, left, right = 4.4, 3.05, 0.85, 6.3, 9.95
    half_width, half_height = BOX[0] / 2, BOX[1] / 2
    wide = 2.3

    drawing.arrow((1.15, 2.22), (1.15, top), (3.6 - half_width, top))
    drawing.arrow((1.15, 2.22), (1.15, low), (4.6 - wide / 2, low))
    drawing.arrow((3.6 + half_width, top), (left - wide / 2, top))
    drawing.text((3.6, top - 0.75), "fitted first,\nto the preferences", 9.5, color=DARK)
    for points in (
        ((left + wide / 2, top), (right - half_width, top)),
        ((right, top - half_height), (right, middle + half_height)),
        ((right - half_width, middle), (left + wide / 2, middle)),
        ((left, middle + half_height), (left, top - half_height)),
    ):
        drawing.arrow(*points, color=ORANGE)
    drawing.text((8.35, 3.72), "sample, score, step:\nat every update", 10.3, color=DARK, style="italic")
    drawing.arrow((4.6 + wide / 2, low + 0.2), (right - half_width, low + 0.2), color=ORANGE)
    drawing.arrow((right - half_width, low - 0.2), (4.6 + wide / 2, low - 0.2))
    drawing.text((7.5, low + 0.43), "gradient descent, no sampling", 10.3, color=DARK, style="italic")
    implicit = r"implicit reward  $\hat r=\beta\,\log(\pi_\theta\,/\,\pi_\mathrm{ref})$"
    drawing.text((7.5, low - 0.44), implicit, 10.3, color=DARK)
    drawing.arrow((right, 2.0), (right, middle - half_height), color=BLUE)
    drawing.arrow((right, 2.0), (right, low + half_height), color=BLUE)
    drawing.text((right, 2.0), r"same optimum $\pi^*$", 10.3, color=BLUE, bbox={"fc": "white", "ec": BLUE, "pad": 3})

    size, long = BOX, (wide, BOX[1])
    drawing.box(Box("data", (1.15, 2.22), "Human\npreferences", r"$y_w \succ y_l$"), size)
    drawing.box(Box("model", (3.6, top), "Reward\nmodel", r"$r_\phi(x, y)$"), size)
    score = r"$r_\phi-\beta\,\log(\pi_\theta\,/\,\pi_\mathrm{ref})$"
    drawing.box(Box("data", (left, top), "Reward on a leash", score), long)
    drawing.box(Box("training", (right, top), "PPO", "clipped step"), size)
    drawing.box(Box("model", (right, middle), "Policy", r"$\pi_\theta(y\,|\,x)$"), size)
    drawing.box(Box("data", (left, middle), "Fresh answers", r"$y\,\sim\,\pi_\theta(\cdot\,|\,x)$"), long)
    drawing.box(Box("training", (4.6, low), "DPO", r"$-\log\,\sigma(\hat r_w-\hat r_l)$"), long)
    drawing.box(Box("model", (right, low), "Policy", r"$\pi_\theta(y\,|\,x)$"), size)
    return drawing.figure


def dpo_gradient() -> Figure:
    """DPO's gradient, factor by factor; below, the weight σ(r̂_l − r̂_w) against the margin, and three pairs that pull.

    ∇L = −β σ(r̂_l − r̂_w) [∇ log π(y_w|x) − ∇ log π(y_l|x)]       (Rafailov et al. 2023, section 4)
    """
    drawing = _Drawing(scale=1.0, height=6.4)
    chosen, rejected = (rf"$\nabla_\theta\,\log\,\pi_\theta(y_{i}\,|\,x)$" for i in "wl")
    factors = [  # symbols, colour, what the factor does, where its explanation stands under it
        (r"$\nabla_\theta L\;\,=\;\,-$", BLACK, "", ""),
        (r"$\beta$", DARK, "Price of KL:\nthe scale", "right"),
        (r"$\;\;\sigma(\hat r_l-\hat r_w)$", GREEN, "How wrong is it?\n1: ranked wrongly\n0: ranked rightly", "center"),
        (r"$\;\,\left[\;\right.$", BLACK, "", ""),
        (chosen, BLUE, "Raise\nthe chosen answer", "center"),
        (r"$\;\;-\;\;$", BLACK, "", ""),
        (rejected, ORANGE, "Lower\nthe rejected answer", "center"),
        (r"$\left.\;\right]$", BLACK, "", ""),
    ]
    x = 0.8
    for symbols, color, role, side in factors:
        left, right = x, drawing.text_end((x, 5.45), symbols, 23, color=color, va="baseline")
        x = right + 0.02
        if role:
            drawing.brace(left + (0.14 if color == GREEN else 0.04), right - 0.03, 5.15, color)
            look = {"color": color, "weight": "bold", "linespacing": 1.45, "ha": side, "va": "top"}
            drawing.text((right - 0.08 if side == "right" else (left + right) / 2, 4.9), role, 11, **look)
    note = "A step goes against the gradient: it pushes the chosen answer up and the rejected one down."
    drawing.text((WIDTH / 2, 6.12), note, 11, color=DARK, style="italic")

    margin = np.linspace(-6, 6, 241)
    weight = 1 / (1 + np.exp(margin))
    examples = ((-2.0, "A"), (0.0, "B"), (3.0, "C"))
    with plt.rc_context(
        STYLE | {"font.size": 10.5, "axes.spines.right": False, "axes.spines.top": False, "axes.grid": False}
    ):
        curve = drawing.figure.add_axes((0.085, 0.12, 0.45, 0.48))
        pull = drawing.figure.add_axes((0.62, 0.12, 0.355, 0.48))
        curve.axvspan(-6, 0, color=PALE, zorder=0)
        curve.plot(margin, weight, color=GREEN, linewidth=2.5)
        curve.set(xlim=(-6, 6), ylim=(0, 1.06), yticks=(0, 0.5, 1), ylabel=r"weight $\sigma(\hat r_l-\hat r_w)$")
        curve.set_xlabel(r"margin $\hat r_w-\hat r_l$ (reward units)")
        curve.text(-5.7, 0.13, "ranked wrongly:\npulls hard", color=DARK, va="center")
        curve.text(2.2, 0.75, "ranked rightly:\npulls little", color=DARK, va="center")
        for i, (m, name) in enumerate(examples):
            w = 1 / (1 + np.exp(m))
            curve.plot(m, w, "o", color=BLACK, markersize=7)
            curve.text(m + 0.35, w + 0.06, name, weight="bold")
            pull.bar(i - 0.13, w, width=0.26, color=BLUE)
            pull.bar(i + 0.13, -w, width=0.26, color="white", edgecolor=ORANGE, hatch="///", linewidth=2)
            pull.text(i + 0.06, w - 0.02, f"{w:.2f}", va="top" if w > 0.2 else "bottom")
        pull.axhline(0, color=GREY, linewidth=1)
        pull.set(xlim=(-0.5, 2.6), ylim=(-1.05, 1.05), yticks=(-1, 0, 1), ylabel="push on log π (in units of β)")
        pull.set_xticks(range(3), [f"pair {name}\nmargin {m:.0f}".replace("-", "−") for m, name in examples])
        pull.text(2.55, 0.8, r"$y_w$ up", color=BLUE, weight="bold", ha="right")
        pull.text(2.55, -0.85, r"$y_l$ down", color=ORANGE, weight="bold", ha="right")
    return drawing.figure


class _Drawing:
    """One figure in the units of the drawing; sizes of text and lines shrink with `scale`."""

    def __init__(self, scale: float, height: float) -> None:
        with plt.rc_context(STYLE):
            self.figure = plt.figure(figsize=(WIDTH * scale, height * scale), facecolor="white")
            self.axes: Axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, WIDTH), ylim=(0, height))
        self.axes.axis("off")
        self.scale = scale

    def pipeline(self, highlight: str | None) -> Figure:
        for title, (left, right) in PANELS.items():
            self.panel((left, 0.55), (right, 5.2), title)
        half_width, half_height = BOX[0] / 2, BOX[1] / 2
        at = {name: box.at for name, box in BOXES.items()}
        for name, dy in (("demonstrations", 0.2), ("pretrained", -0.2)):
            x, y = at[name]
            self.arrow((x + half_width, y), (2.05, y), (2.05, 3 + dy), (2.95 - half_width, 3 + dy))
        for one, next_ in (("sft", "pairs"), ("pairs", "preferences"), ("reward_model", "ppo")):
            self.arrow((at[one][0] + half_width, at[one][1]), (at[next_][0] - half_width, at[next_][1]))
        x, y = at["preferences"]
        self.arrow((x, y + half_height), (x, 4.05), (8.35 - half_width, 4.05))
        self.arrow((x, y - half_height), (x, LOWER), (10.1 - half_width, LOWER))
        self.text((7.8, LOWER + 0.18), "short cut: no reward model", 9.5, color=DARK)
        self.arrow((10.1, 4.05 - half_height), (10.1, 2.6 + half_height))
        self.arrow((10.1, LOWER + half_height), (10.1, 2.6 - half_height))
        width = 3.2 if highlight == "leash" else 1.8
        for y, side in ((TOP, half_height), (BOTTOM, -half_height)):
            end = (10.1, (4.05 if y == TOP else LOWER) + side)
            rope = Outline([(2.95, 3 + side), (2.95, y), (10.1, y), end])
            self.axes.add_patch(PathPatch(rope, fc="none", ec=BLUE, lw=width * self.scale, ls=(0, (5, 2.5)), zorder=2))
            self.arrow((10.1, end[1] + side / 8), end, color=BLUE)
            self.text((5.3, y), LEASHES[y], 11, color=BLUE, bbox={"fc": "white", "ec": "none", "pad": 3})
        for name, box in BOXES.items():
            self.box(box, BOX, highlighted=name == highlight)
        for x, kind in ((0.75, "data"), (1.55, "model"), (2.35, "training")):
            self.box(Box(kind, (x, 1.05), ""), (0.34, 0.24))
            self.text((x, 0.77), kind, 9.5, color=DARK)
        return self.figure

    def panel(self, low: Point, high: Point, title: str) -> None:
        """A grey ground from its lower left to its upper right corner, with a title at the top."""
        size = high[0] - low[0], high[1] - low[1]
        corners = "round,pad=0,rounding_size=0.14"
        self.axes.add_patch(FancyBboxPatch(low, *size, corners, fc=PALE, ec="none", zorder=0))
        self.text((low[0] + 0.15, high[1] - 0.27), title, 12, weight="bold", color=DARK, ha="left")

    def box(self, box: Box, size: tuple[float, float], highlighted: bool = False) -> None:
        fill, edge, width, roundness = LOOKS[box.kind]
        if highlighted:
            fill, edge, width = "#ffe169", BLACK, 3.2
        (x, y), (w, h) = box.at, size
        line = width * self.scale
        corners = f"round,pad=0,rounding_size={roundness * h}"
        self.axes.add_patch(FancyBboxPatch((x - w / 2, y - h / 2), w, h, corners, fc=fill, ec=edge, lw=line, zorder=3))
        if not box.symbol:
            return self.text(box.at, box.name, 10.3, weight="bold", zorder=4)
        two_lines = "\n" in box.name
        self.text((x, y + (0.14 if two_lines else 0.17)), box.name, 10.3, weight="bold", zorder=4)
        self.text((x, y - (0.3 if two_lines else 0.18)), box.symbol, 11, zorder=4)

    def arrow(self, *points: Point, color: str = DARK) -> None:
        arrow = FancyArrowPatch(
            path=Outline(points),
            arrowstyle="-|>",
            mutation_scale=15 * self.scale,
            color=color,
            linewidth=1.6 * self.scale,
            joinstyle="miter",
            zorder=2,
        )
        self.axes.add_patch(arrow)

    def badge(self, at: Point, number: int, here: bool) -> None:
        fill, edge, text = (BLACK, BLACK, "white") if here else ("white", GREY, DARK)
        self.axes.add_patch(Circle(at, 0.29 if here else 0.21, fc=fill, ec=edge, lw=1.2, zorder=5))
        self.text(at, f"{number:02d}", 14 if here else 10.5, color=text, weight="bold", zorder=6)

    def text(self, at: Point, text: str, size: float, **look: Any) -> None:
        with plt.rc_context(STYLE):
            self.axes.text(*at, text, fontsize=size * self.scale, **({"ha": "center", "va": "center"} | look))

    def text_end(self, at: Point, text: str, size: float, **look: Any) -> float:
        """Write text to the right of a point; returns where it ends."""
        self.text(at, text, size, ha="left", **look)
        extent = self.axes.texts[-1].get_window_extent()
        return float(self.axes.transData.inverted().transform((extent.x1, extent.y0))[0])

    def brace(self, left: float, right: float, y: float, color: str) -> None:
        """A bracket under a factor, with a stem to what is said of it."""
        middle = (left + right) / 2
        for points in ([(left, y + 0.1), (left, y), (right, y), (right, y + 0.1)], [(middle, y), (middle, y - 0.16)]):
            self.axes.add_patch(PathPatch(Outline(points), fc="none", ec=color, lw=2 * self.scale))


PICTURES = {"RLHF-in-LLMs": rlhf_pipeline, "DPO": dpo_shortcut, "DPO-Gradient": dpo_gradient}
"""Name of the file, and what draws it."""


def main(folder: Path) -> None:
    """Write the PICTURES as .png and .svg into `folder`, the same bytes each time."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        figure = draw()
        with plt.rc_context(STYLE):
            figure.savefig(folder / f"{name}.png", dpi=150, metadata={"Software": None})
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Creator": None})
        plt.close(figure)


if __name__ == "__main__":
    main(Path(*(sys.argv[1:] or ["imgs"])))
