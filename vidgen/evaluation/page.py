"""A result as one HTML page that needs no other file."""

import base64
import html
import json

import numpy as np

from vidgen.evaluation import plots, protocol, scores
from vidgen.evaluation.evaluate import Result
from vidgen.video.encoding import encode

_STYLE = """
body { font: 15px/1.4 sans-serif; margin: 2em auto; max-width: 60em; padding: 0 1em; color: #222 }
td, th { padding: .15em .8em .15em 0; text-align: left; border-bottom: 1px solid #ddd }
td:nth-child(2), td:nth-child(3) { font-variant-numeric: tabular-nums; white-space: nowrap }
.warning { background: #fff3d6; padding: .3em .8em }
.plot { width: 100% }
.clip { image-rendering: pixelated; width: 256px; margin: 0 8px 8px 0 }
pre { max-height: 24em; overflow: auto; background: #f6f6f6; padding: 1em }
"""


def render(result: Result) -> str:
    """Returns the page: scores, plots where matplotlib is installed, clips, and the manifest."""
    title = html.escape(protocol.title(result.manifest))
    subject = html.escape(str(result.subject.get("path", "")))
    real = html.escape(result.real["path"])
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>vidgen: {title}</title>
<style>{_STYLE}</style></head><body>
<h1>{title}</h1>
<p>{subject}, against {result.real["clips"]} clips of {real}</p>
{_warnings(result)}
{_table(result)}
<h2>How they move</h2>
{_distributions(result)}
<h2>Clips, each beside the real one most like it</h2>
<p>{_gallery(result)}</p>
<h2>What was measured</h2><pre>{_json(result.subject)}</pre>
<h2>Real clips</h2><pre>{_json(result.real)}</pre>
<h2>Manifest</h2><pre>{_json(result.manifest)}</pre>
</body></html>
"""


def _warnings(result: Result) -> str:
    return "\n".join(f'<p class="warning">{html.escape(line)}</p>' for line in result.warnings)


def _table(result: Result) -> str:
    headings = "".join(f"<th>{html.escape(heading)}</th>" for heading in scores.HEADINGS)
    rows = "\n".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
        for row in scores.rows(result.scores)
    )
    return f"<table><tr>{headings}</tr>\n{rows}</table>"


def _distributions(result: Result) -> str:
    if not plots.available():
        return (
            "<p>The plots are left out, for matplotlib is not installed: "
            f"<code>{html.escape(plots.INSTALL)}</code></p>"
        )
    svg = base64.b64encode(plots.distributions(result.distributions)).decode()
    return (
        "<p>Share of the clips below each value.</p>\n"
        f'<img class="plot" alt="distributions of {", ".join(result.distributions)}" '
        f'src="data:image/svg+xml;base64,{svg}">'
    )


def _gallery(result: Result) -> str:
    return "\n".join(
        f'<img class="clip" alt="" src="{_animation(np.concatenate([clip, real], 2), result.fps)}">'
        for clip, real in zip(result.clips, result.nearest, strict=True)
    )


def _animation(video: np.ndarray, fps: float) -> str:
    """Returns uint8 `[T, H, W, 3]` as the URL of an animated WebP."""
    data = encode(video, fps, ".webp", quality=80)
    return "data:image/webp;base64," + base64.b64encode(data).decode()


def _json(data: object) -> str:
    return html.escape(json.dumps(data, indent=1))
