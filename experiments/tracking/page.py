"""Pages that need nothing else: no server, no network."""

from __future__ import annotations

from collections.abc import Sequence

_CSS = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1b1b1b; max-width: 1150px;
       margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.4em; margin-bottom: 0; } h2 { font-size: 1.1em; margin-top: 2em; }
table { border-collapse: collapse; } th, td { text-align: left; vertical-align: top;
        padding: .35em 1.2em .35em 0; border-bottom: 1px solid #ddd; overflow-wrap: anywhere; }
th { overflow-wrap: normal; } td.number { white-space: nowrap; font-variant-numeric: tabular-nums; }
.swatch { display: inline-block; width: 1.6em; height: .25em; vertical-align: .25em;
          margin-right: .5em; }
.warning { background: #fff4d6; border-left: 4px solid #E69F00; padding: .3em .8em;
           margin: .4em 0; }
pre { background: #f4f4f4; padding: .6em .8em; white-space: pre-wrap; overflow-wrap: anywhere; }
summary { background: #fff4d6; padding: .3em .8em; cursor: pointer; }
footer { color: #666; font-size: .9em; margin-top: 2em; max-width: 60em; }
"""
CHART = {"displaylogo": False, "responsive": True, "showSendToCloud": False}
"""plotly.js 4 would have a button that uploads the chart unless told otherwise."""


def page(title: str, body: Sequence[str]) -> bytes:
    """A whole page of parts that are HTML; empty ones are left out."""
    text = f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>{title}</title><style>{_CSS}</style></head>
<body>
{chr(10).join(part for part in body if part)}
</body>
</html>
"""
    return text.encode("utf-8", "xmlcharrefreplace")


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Of cells that are HTML; the second column holds numbers."""
    lines = ["<tr>" + "".join(f"<th>{head}</th>" for head in heads) + "</tr>"]
    for row in rows:
        cells = (
            f'<td class="number">{cell}</td>' if place == 1 else f"<td>{cell}</td>"
            for place, cell in enumerate(row)
        )
        lines.append("<tr>" + "".join(cells) + "</tr>")
    return "<table>\n" + "\n".join(lines) + "\n</table>"
