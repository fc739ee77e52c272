"""How the page of a run looks, by day and by night, on a screen and on paper."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --ink: #18202b; --soft: #5b6675; --paper: #ffffff; --card: #f4f6f9; --line: #dce2ea;
  --main: #2f6fc4; --was: #c6d3e4; --good: #1c7a4b; --bad: #b42f27; --warn: #8a6100 }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e9f0; --soft: #9aa6b5; --paper: #12161c; --card: #1b2129;
  --line: #2d3541; --main: #6aa5ee; --was: #37475c; --good: #5cc491; --bad: #ef8078; --warn: #dcae4b } }
* { box-sizing: border-box }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 64rem;
  margin: 2.5rem auto; padding: 0 1.25rem; overflow-wrap: anywhere }
h1 { font-size: 1.7rem; margin: 0 0 .2rem } h2 { font-size: 1.15rem; margin: 2.4rem 0 .6rem }
h3 { font-size: 1rem; margin: 1.2rem 0 .4rem } h4 { font-size: .85rem; margin: 0; color: var(--soft); font-weight: 600 }
p { margin: .3rem 0 } header p, section > p, footer, .legend, .card p { color: var(--soft) }
code { font: .92em ui-monospace, monospace; background: var(--card); padding: .05em .3em; border-radius: .25em }
.badge { font-size: .8rem; font-weight: 600; padding: .1rem .55rem; border-radius: 1rem; border: 1px solid currentColor;
  vertical-align: middle; white-space: nowrap }
.good { color: var(--good) } .bad { color: var(--bad) } .warn { color: var(--warn) }
.cards { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.2rem 0 }
.card { flex: 1 1 10.5rem; background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
  padding: .8rem .9rem }
.card p { font-size: .85rem } .card .verdict { font-size: 1.35rem; font-weight: 650; color: var(--ink) }
.card .verdict.good { color: var(--good) } .card .verdict.bad { color: var(--bad) }
.meter, .bar { position: relative; height: .45rem; border-radius: .25rem; background: var(--was); overflow: hidden;
  margin: .4rem 0 } .meter i { position: absolute; inset: 0 auto 0 0; background: var(--main) }
.scroll { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap }
thead th { color: var(--soft); font-size: .85rem } tbody th { font-weight: 600 }
th:first-child, td:first-child, .words td { text-align: left }
.words td { white-space: normal; vertical-align: top }
td .meter { height: .2rem; margin: .1rem 0 0 }
.bars td:nth-child(2) { width: 60%; white-space: normal } .bars th, .bars td { padding: .15rem .6rem; border: 0 }
.bars th { font: .85rem ui-monospace, monospace; white-space: normal }
.bar { height: .9rem; background: none; margin: 0 } .bar i.was { background: var(--was) }
.bar i { position: absolute; inset: 0 auto 0 0; background: var(--main); border-radius: .2rem }
.heat { width: auto; margin: .3rem 0 1rem } .heat th, .heat td { padding: .15rem .6rem; border: 1px solid var(--paper) }
.heat tbody th { font: .85rem ui-monospace, monospace } .heat caption { text-align: left; color: var(--soft) }
.heat td { min-width: 4.6rem; print-color-adjust: exact; -webkit-print-color-adjust: exact }
ul { padding-left: 1.2rem; margin: .2rem 0 } li { margin: .15rem 0 }
.failure { border: 1px solid var(--bad); border-radius: .6rem; padding: .6rem .9rem; margin: 1rem 0 }
details { margin: .25rem 0 } summary { cursor: pointer; font-size: .9rem }
svg { max-width: 100%; height: auto; font: 11px system-ui, sans-serif; fill: currentColor }
svg line { stroke: currentColor; stroke-width: .6 }
footer { margin: 3rem 0 1rem; border-top: 1px solid var(--line); padding-top: .6rem; font-size: .85rem }
section, .card { break-inside: avoid }
"""
