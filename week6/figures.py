"""The picture of the course: RLHF in LLMs, from a pretrained model to an aligned chatbot. `make figures` draws it.

The same drawing serves as the roadmap at the head of each notebook, with its nine stops.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, PathPatch
from matplotlib.path import Path as Outline

from week6.plots import BLACK, BLUE, ORANGE

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
            panel = FancyBboxPatch(
                (left, 0.55), right - left, 4.65, "round,pad=0,rounding_size=0.14", fc=PALE, ec="none", zorder=0
            )
            self.axes.add_patch(panel)
            self.text((left + 0.15, 4.93), title, 12, weight="bold", color=DARK, ha="left")
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


def main(folder: Path) -> None:
    """Write RLHF-in-LLMs.png and .svg into `folder`, the same bytes each time."""
    folder.mkdir(parents=True, exist_ok=True)
    figure = rlhf_pipeline()
    with plt.rc_context(STYLE):
        figure.savefig(folder / "RLHF-in-LLMs.png", dpi=150, metadata={"Software": None})
        figure.savefig(folder / "RLHF-in-LLMs.svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)


if __name__ == "__main__":
    main(Path(*(sys.argv[1:] or ["imgs"])))
