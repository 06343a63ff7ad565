"""The page of a report: HTML and style in one file, without any link."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Card:
    """A main number: what, how much, and a few words."""

    name: str
    value: str
    words: str


@dataclass(frozen=True)
class Picture:
    """A figure as a data URI, what it shows for those who cannot see it, and a caption."""

    name: str
    uri: str
    alt: str
    caption: str
    third: bool = False  # three in a row, else two
    tall: bool = False  # beside two others


@dataclass(frozen=True)
class Section:
    """A heading, a sentence and figures."""

    title: str
    intro: str
    pictures: Sequence[Picture]


_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: #1f2933; font: 16px/1.5 system-ui, -apple-system,
  "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 24px 16px 48px; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 40px 0 4px; padding-top: 16px; border-top: 1px solid #e3e8ed; }
p { margin: 4px 0 12px; max-width: 70ch; }
.sub { color: #52606d; font-size: .85rem; overflow-wrap: anywhere; max-width: none; }
.cards { display: grid; gap: 12px; grid-template-columns: repeat(auto-fit, minmax(160px, 1fr));
  margin: 20px 0; }
.card { border: 1px solid #dde3e9; border-radius: 8px; padding: 10px 14px; }
.card b { display: block; font-size: 1.4rem; line-height: 1.3; font-weight: 600; }
.card span { color: #52606d; font-size: .85rem; display: block; }
.notes { border-left: 4px solid #d55e00; background: #fdf4ee; margin: 0 0 12px; padding: 8px 16px;
  list-style: none; }
.notes li + li { margin-top: 6px; }
.figures { display: grid; gap: 20px 24px; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 420px), 1fr)); margin-top: 12px; }
.figures.third { grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)); }
figure { margin: 0; break-inside: avoid; }
.tall { grid-row: span 2; }
figure img { display: block; width: 100%; max-width: 520px; height: auto; margin: 0 auto; }
figcaption { color: #52606d; font-size: .85rem; max-width: 520px; margin: 4px auto 0; }
.options { columns: 300px; margin-top: 8px; }
.options div { display: flex; gap: 12px; break-inside: avoid; font-size: .9rem; }
.options dt { color: #52606d; flex: 0 0 11em; }
.options dd { margin: 0; overflow-wrap: anywhere; }
@page { margin: 12mm; }
@media print {
  body { font-size: 11pt; }
  main { padding: 0; max-width: none; }
  h2 { break-after: avoid; margin-top: 20px; }
  .figures { grid-template-columns: 1fr 1fr; }
  .figures.third { grid-template-columns: 1fr 1fr 1fr; }
  .card, .notes { break-inside: avoid; }
}
"""


def page(
    *,
    title: str,
    subtitle: str,
    cards: Sequence[Card],
    notes: Sequence[str],
    sections: Sequence[Section],
    options: Sequence[tuple[str, str]],
) -> str:
    """Return the page as HTML text."""
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>",
        f'<h1>{escape(title)}</h1><p class="sub">{escape(subtitle)}</p>',
        '<div class="cards">',
        *(_card(card) for card in cards),
        "</div>",
    ]
    if notes:
        items = "".join(f"<li>{escape(note)}</li>" for note in notes)
        parts.append(f'<ul class="notes">{items}</ul>')
    parts += [_section(section) for section in sections]
    rows = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in options
    )
    parts.append(f'<section><h2>Options</h2><dl class="options">{rows}</dl></section>')
    parts.append("</main></body></html>\n")
    return "\n".join(parts)


def _card(card: Card) -> str:
    return (
        f'<div class="card"><span>{escape(card.name)}</span><b>{escape(card.value)}</b>'
        f"<span>{escape(card.words)}</span></div>"
    )


def _section(section: Section) -> str:
    intro = f"<p>{escape(section.intro)}</p>" if section.intro else ""
    rows = []
    for third in (True, False):
        chosen = [picture for picture in section.pictures if picture.third is third]
        if chosen:
            kind = "figures third" if third else "figures"
            rows.append(f'<div class="{kind}">{"".join(map(_figure, chosen))}</div>')
    return f"<section><h2>{escape(section.title)}</h2>{intro}{''.join(rows)}</section>"


def _figure(picture: Picture) -> str:
    caption = f"<figcaption>{escape(picture.caption)}</figcaption>" if picture.caption else ""
    kind = ' class="tall"' if picture.tall else ""
    return (
        f'<figure id="{escape(picture.name)}"{kind}><img src="{picture.uri}" '
        f'alt="{escape(picture.alt)}">{caption}</figure>'
    )
