"""Draw `docs/tiny.svg` from the rates in `docs/tiny.md`; `make docs` calls it, a test checks it."""

from __future__ import annotations

import re
from pathlib import Path

from istar.lab.report import Rate

SOURCE = Path(__file__).with_name("tiny.md")
TARGET = Path(__file__).with_name("tiny.svg")

# The table that is drawn: of seeds on which no setting was chosen.
TABLE = "--count 200 --seed 40000"
SCENES = 200

WIDTH, LEFT, RIGHT, TOP, ROW = 640, 120, 84, 64, 30
PAPER, INK, FAINT, PART, WHOLE = "#ffffff", "#1f2430", "#626a7a", "#8fa3f0", "#5b70e0"


def generated() -> str:
    """The chart as it should be."""
    bars = measured()
    height = TOP + ROW * len(bars) + 40
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'role="img" font-family="system-ui, sans-serif" font-size="14">',
        f"<title>How often istar-tiny draws what the prompt says: "
        f"{', '.join(f'{name} {rate.share:.0%}' for name, rate in bars.items())}</title>",
        # Paper of its own: so it can be read on light and on dark pages.
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="{PAPER}"/>',
        _text(20, 28, "How often istar-tiny draws what the prompt says", weight=600),
        _text(
            20,
            48,
            f"{SCENES} videos of scenes that training left out; lines are intervals of 95 %",
            fill=FAINT,
            size=12,
        ),
    ]
    floor = TOP + ROW * len(bars)
    for percent in (0, 25, 50, 75, 100):
        x = _across(percent / 100)
        lines.append(f'<path d="M{x} {TOP}V{floor}" stroke="#e3e6ec"/>')
        lines.append(_text(x, floor + 18, f"{percent} %", anchor="middle", fill=FAINT, size=12))
    for row, (name, rate) in enumerate(bars.items()):
        y = TOP + ROW * row
        middle = y + ROW / 2
        low, high = (_across(end) for end in rate.interval)
        colour = WHOLE if name == "all right" else PART
        lines += [
            _text(LEFT - 10, middle + 5, name, anchor="end"),
            f'<rect x="{LEFT}" y="{y + 5}" width="{_across(rate.share) - LEFT:.1f}" '
            f'height="{ROW - 10}" fill="{colour}"/>',
            f'<path d="M{low} {middle}H{high}M{low} {middle - 5}v10M{high} {middle - 5}v10" '
            f'stroke="{INK}" stroke-width="1.5" fill="none"/>',
            _text(WIDTH - RIGHT + 12, middle + 5, f"{100 * rate.share:.1f} %"),
        ]
    return "\n".join([*lines, "</svg>"]) + "\n"


def measured() -> dict[str, Rate]:
    """The rates of videos from a prompt, as the table has them: the parts, then the whole."""
    _, after = SOURCE.read_text(encoding="utf-8").split(TABLE, 1)
    heads, cells = (
        [cell.strip() for cell in line.strip("|\n").split("|")[1:]]
        for line in re.findall(r"^\| (?:\| all right|`t2v`).*\n", after, re.MULTILINE)[:2]
    )
    hits = [round(float(cell.removesuffix(" %")) / 100 * SCENES) for cell in cells]
    rates = {name: Rate(hits=found, count=SCENES) for name, found in zip(heads, hits, strict=True)}
    whole = rates.pop("all right")
    del rates["kept"]  # no part of it
    return {**rates, "all right": whole}


def _across(share: float) -> float:
    return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)


def _text(
    x: float,
    y: float,
    words: str,
    *,
    anchor: str = "start",
    fill: str = INK,
    size: int = 14,
    weight: int = 400,
) -> str:
    return (
        f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{fill}" '
        f'font-size="{size}" font-weight="{weight}">{words}</text>'
    )


if __name__ == "__main__":
    TARGET.write_text(generated(), encoding="utf-8")
