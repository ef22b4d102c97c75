"""The look of the page: one style sheet, light and dark, for screens from a phone's up and for
paper. Fonts are those of the reader's system; figures stand on white in either scheme.
"""

STYLESHEET = """
:root {
  color-scheme: light dark;
  --paper: #fbfaf7; --card: #ffffff; --ink: #1f2328; --quiet: #5b6169; --line: #dedbd3;
  --faint: #f1efe9; --accent: #0b5c8f; --good: #22663b; --wait: #7a5200; --bad: #a1281f;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15171a; --card: #1c1f23; --ink: #e4e4e0; --quiet: #a3a8ae; --line: #363b41;
    --faint: #22262b; --accent: #7fbde8; --good: #7ccf97; --wait: #e0b45c; --bad: #f0938a;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 400 1rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial,
    sans-serif;
  font-variant-numeric: tabular-nums lining-nums; overflow-wrap: break-word;
}
.page { max-width: 66rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
h1, h2 {
  font-family: ui-serif, "Iowan Old Style", "Palatino Linotype", Palatino, Georgia, serif;
  font-weight: 600; line-height: 1.2; text-wrap: balance; overflow-wrap: anywhere;
}
h1 { font-size: clamp(1.75rem, 1.3rem + 2vw, 2.6rem); margin: .2rem 0 .8rem; }
h2 { font-size: 1.55rem; margin: 0 0 .8rem; }
h3 { font-size: 1.05rem; font-weight: 600; margin: 2rem 0 .5rem; }
p { margin: 0 0 .9rem; max-width: 44rem; }
a { color: var(--accent); text-underline-offset: .15em; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
section { margin-top: 3rem; padding-top: 2rem; border-top: 1px solid var(--line); }
.eyebrow {
  margin: 0; color: var(--quiet); font-size: .8rem; letter-spacing: .08em;
  text-transform: uppercase;
}
.lead { font-size: 1.1rem; }
.note, figcaption { color: var(--quiet); font-size: .875rem; line-height: 1.5; }
.note { margin: .5rem 0 1.2rem; max-width: 52rem; }
nav ul { list-style: none; margin: 1.5rem 0 0; padding: 0; display: flex; flex-wrap: wrap;
  gap: .3rem 1.3rem; font-size: .95rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.2rem; margin: 0 0 1rem;
  font-size: .925rem; }
dt { color: var(--quiet); }
dd { margin: 0; overflow-wrap: anywhere; }
pre {
  margin: 0 0 1rem; padding: .75rem .9rem; background: var(--faint); border-radius: .4rem;
  font: .825rem/1.55 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
  white-space: pre-wrap; overflow-wrap: anywhere;
}
.run { margin: 1.5rem 0 0; }
.state { font-weight: 600; }
.finished { color: var(--good); }
.running, .training, .waiting, .interrupted { color: var(--wait); }
.failed, .lost, .stopped { color: var(--bad); }
.bar { height: .4rem; max-width: 44rem; margin: .35rem 0 .9rem; border-radius: 1rem;
  background: var(--line); overflow: hidden; }
.bar span { display: block; height: 100%; background: var(--accent); }
.scroll { overflow-x: auto; margin: .6rem 0 .4rem; -webkit-overflow-scrolling: touch; }
table { border-collapse: collapse; font-size: .9rem; min-width: min(100%, 44rem); }
th, td { padding: .42rem 1.4rem .42rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); font-weight: 400; }
th:last-child, td:last-child { padding-right: 0; }
thead th { color: var(--quiet); font-size: .8rem; line-height: 1.35; vertical-align: bottom;
  border-bottom-color: var(--quiet); }
tbody th { font-weight: 600; }
.number { text-align: right; }
tbody .number { white-space: nowrap; }
.range, .quiet { color: var(--quiet); }
.range { white-space: nowrap; font-size: .825rem; }
.nowrap { white-space: nowrap; }
.unseen { position: absolute; width: 1px; height: 1px; margin: -1px; overflow: hidden;
  clip-path: inset(50%); white-space: nowrap; }
figure { margin: 1.2rem 0 1.8rem; }
.card { overflow-x: auto; padding: .6rem; background: #ffffff; border: 1px solid var(--line);
  border-radius: .5rem; }
.card img { display: block; width: 100%; max-width: var(--width); height: auto; margin: 0 auto; }
figcaption { margin-top: .6rem; max-width: 52rem; }
details { margin: .8rem 0; }
summary { cursor: pointer; color: var(--accent); width: fit-content; }
ul.plain { padding-left: 1.1rem; margin: 0 0 1rem; max-width: 52rem; }
footer { margin-top: 3rem; padding-top: 1rem; border-top: 1px solid var(--line); }
@media (max-width: 40rem) {
  th, td { padding-right: .9rem; }
  .page { padding: 1.5rem 1rem 3rem; }
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .5rem; }
  section { margin-top: 2.2rem; padding-top: 1.5rem; }
  .card { padding: .25rem; }
  .card img { min-width: min(var(--width), max(100%, calc(var(--width) * .55))); }
}
@media print {
  :root { --paper: #fff; --card: #fff; --ink: #000; --quiet: #444; --line: #bbb; --faint: #f4f4f4;
    --accent: #000; --good: #000; --wait: #000; --bad: #000; }
  body { font-size: 10pt; }
  .page { max-width: none; padding: 0; }
  nav { display: none; }
  figure, tr { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  .scroll, .card { overflow: visible; }
  table { font-size: 8pt; }
}
"""
