"""The look of the page, in light and dark."""

from __future__ import annotations

__all__ = ["STYLE"]

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #57606a; --page: #fdfdfc; --line: #d5d9de;
  --band: #f3f4f6; --kept: #6b7280; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --soft: #a3abb5; --page: #15181c; --line: #353b43; --band: #1f242a;
    --kept: #9aa3ad; } }
body { margin: 2rem auto; max-width: 78rem; padding: 0 1.2rem; background: var(--page);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
h3 { font-size: 1rem; margin: 1.6rem 0 .3rem; }
code { font: .88em ui-monospace, monospace; overflow-wrap: break-word; }
td.fabric { min-width: 12rem; }
.scroll, figure { overflow-x: auto; margin: .8rem 0; }
img { background: #fff; border-radius: 4px; height: auto; }
table { border-collapse: collapse; font-size: .86rem; }
th, td { text-align: left; vertical-align: top; padding: .25rem .7rem .25rem 0;
  border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; white-space: nowrap; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.name { font-family: ui-monospace, monospace; overflow-wrap: anywhere; min-width: 11rem; }
td.nowrap { white-space: nowrap; }
tr.keep td { color: var(--kept); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; }
dt { color: var(--soft); } dd { margin: 0; }
section { border-top: 1px solid var(--line); margin-top: 1.2rem; }
details { color: var(--soft); overflow-wrap: anywhere; } summary { cursor: pointer; }
td details[open] { min-width: 20rem; }
details ul { margin: .2rem 0; padding-left: 1.1rem; }
.scores { columns: 3 19rem; column-gap: 2rem; font-size: .86rem; padding: 0; list-style: none; }
.scores li { display: flex; justify-content: space-between; gap: 1rem; break-inside: avoid;
  border-bottom: 1px solid var(--line); }
"""
