"""The page of the sink, as HTML.

Owns what a person sees of mails, receipts and traces: no script, no request to anywhere, light and dark. Never put a
value into the page without `escape`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape

from headrace.stack.sink.mail import Mail
from headrace.stack.sink.traces import Span, Summary
from headrace.stack.sink.warehouse import Receipt

_REFRESH_SECONDS = 5
_STYLE = """
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 18%, transparent); --accent: #0b7285;
  --soft: color-mix(in srgb, currentColor 5%, transparent); --bad: #c92a2a; }
@media (prefers-color-scheme: dark) { :root { --accent: #3bc9db; --bad: #ff8787; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin: 0; } h2 { font-size: 1.05rem; margin: 2.2rem 0 .6rem; }
a { color: var(--accent); } small, time, .quiet { opacity: .7; } .quiet { font-size: .85rem; }
.count { background: var(--soft); border-radius: 1rem; padding: .05rem .6rem; font-weight: normal; font-size: .85rem; }
article { border: 1px solid var(--line); border-radius: .5rem; padding: .8rem 1rem; margin: 0 0 .8rem; }
article header { display: flex; gap: 1rem; justify-content: space-between; }
article header b { overflow-wrap: anywhere; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--soft); border-radius: .4rem; padding: .7rem;
  margin: .6rem 0 .4rem; font: 13px/1.45 ui-monospace, monospace; max-height: 22rem; overflow: auto; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .35rem .8rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-size: .8rem; font-weight: 600; opacity: .7; } code { font: 13px ui-monospace, monospace; }
.bad { color: var(--bad); } .lane { position: relative; min-width: 20rem; height: 1.3rem; background: var(--soft); }
.bar { position: absolute; top: .3rem; height: .7rem; min-width: 2px; border-radius: 2px; background: var(--accent); }
.bar.failed { background: var(--bad); }
"""


def render_page(mails: Sequence[Mail], receipts: Sequence[Receipt], traces: Sequence[Summary]) -> str:
    """Return the page that shows what arrived."""
    sections = (
        ("Mails", len(mails), "".join(map(_mail, mails)), "No mail has been sent yet."),
        ("Warehouse", len(receipts), _receipts(receipts), "The warehouse has not been called yet."),
        ("Traces", len(traces), _traces(traces), "No trace has arrived yet."),
    )
    body = "".join(_section(title, count, content, empty) for title, count, content, empty in sections)
    note = "Mail, warehouse calls and traces of this stack end here, except those that its settings send elsewhere."
    head = f"<h1>What left Headrace</h1><p class=quiet>{note}</p>"
    return _document("Headrace · what left", head + body, refresh=True)


def render_trace(trace_id: str, spans: Sequence[Span]) -> str:
    """Return a trace as a waterfall; children are indented under their parents."""
    begin, end = min(span.start for span in spans), max(span.end for span in spans)
    width = max(end - begin, 1e-6)
    rows = "".join(_span_row(span, depth, begin, width) for depth, span in _by_parent(spans))
    head = (
        f"<h1>Trace</h1><p><code>{escape(trace_id)}</code> <span class=quiet>{len(spans)} spans, "
        f"{_duration(width)}, from {_moment(begin)}</span></p><p><a href='/'>All that left</a></p>"
    )
    columns = "<tr><th>span<th>service<th>kind<th>time<th>"
    return _document("Headrace · trace", f"{head}<div class=scroll><table>{columns}{rows}</table></div>", refresh=False)


def _document(title: str, body: str, *, refresh: bool) -> str:
    again = f"<meta http-equiv=refresh content={_REFRESH_SECONDS}>" if refresh else ""
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"{again}<title>{escape(title)}</title><style>{_STYLE}</style><body>{body}</body></html>"
    )


def _section(title: str, count: int, content: str, empty: str) -> str:
    return f"<h2>{title} <span class=count>{count}</span></h2>{content or f'<p class=quiet>{empty}</p>'}"


def _mail(mail: Mail) -> str:
    files = " · ".join(
        f"<a href='{escape(each.url)}'>{escape(each.name)}</a> <small>{each.size_bytes:,} bytes</small>"
        for each in mail.attachments
    )
    return (
        f"<article><header><b>{escape(mail.subject) or '(no subject)'}</b>"
        f"<time>{mail.received_at:%Y-%m-%d %H:%M:%S} UTC</time></header>"
        f"<div class=quiet>from {escape(mail.sender)} to {escape(', '.join(mail.to))} · "
        f"<a href='{escape(mail.url)}'>as received</a></div>"
        f"<pre>{escape(mail.text)}</pre>{files}</article>"
    )


def _receipts(receipts: Sequence[Receipt]) -> str:
    if not receipts:
        return ""
    rows = "".join(
        f"<tr><td>{escape(each.reference)}<td><code>{escape(each.order_id)}</code>"
        f"<td>{each.received_at:%Y-%m-%d %H:%M:%S} UTC<td>{each.duplicates}"
        f"<td><code>{escape(each.idempotency_key)}</code>"
        for each in receipts
    )
    columns = "<tr><th>receipt<th>order<th>received<th>repeats<th>idempotency key"
    return f"<div class=scroll><table>{columns}{rows}</table></div>"


def _traces(traces: Sequence[Summary]) -> str:
    if not traces:
        return ""
    rows = "".join(
        f"<tr><td><a href='/traces/{escape(each.trace_id)}/page'>{escape(each.name)}</a>"
        f"{' <span class=bad>failed</span>' if each.failed else ''}<td>{_moment(each.start)}"
        f"<td>{_duration(each.seconds)}<td>{each.spans}<td>{escape(', '.join(each.services))}"
        for each in traces
    )
    columns = "<tr><th>trace<th>from<th>took<th>spans<th>services"
    return f"<div class=scroll><table>{columns}{rows}</table></div>"


def _span_row(span: Span, depth: int, begin: float, width: float) -> str:
    left, size = (span.start - begin) / width * 100, (span.end - span.start) / width * 100
    failed = span.status == "error"
    note = f"<br><small class=bad>{escape(span.status_message)}</small>" if failed else ""
    return (
        f"<tr><td style='padding-left:{depth * 1.1:.1f}rem'>{escape(span.name)}{note}<td>{escape(span.service)}"
        f"<td>{escape(span.kind)}<td>{_duration(span.end - span.start)}<td><div class=lane>"
        f"<div class='bar{' failed' if failed else ''}' style='left:{left:.2f}%;width:{size:.2f}%'></div></div>"
    )


def _by_parent(spans: Sequence[Span]) -> list[tuple[int, Span]]:
    """Return the spans in the order of their tree with their depth; one whose parent is not here stands at the left."""
    known = {span.span_id for span in spans}
    children: dict[str, list[Span]] = {}
    for span in sorted(spans, key=lambda span: span.start, reverse=True):
        children.setdefault(span.parent_id if span.parent_id in known else "", []).append(span)
    ordered: list[tuple[int, Span]] = []
    waiting = [(0, span) for span in children.get("", [])]
    while waiting:
        depth, span = waiting.pop()
        ordered.append((depth, span))
        waiting += [(depth + 1, child) for child in children.get(span.span_id, [])]
    return ordered


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:,.1f} ms"
