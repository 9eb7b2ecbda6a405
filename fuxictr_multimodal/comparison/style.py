"""Style and script of the page; it needs no other file and no network."""

from __future__ import annotations

CSS = """
:root{color-scheme:light dark;
--ink:light-dark(#16202e,#e8edf4);--soft:light-dark(#566274,#9fadc0);--paper:light-dark(#f5f7fa,#0e131b);
--card:light-dark(#fff,#161d28);--line:light-dark(#dfe5ec,#2a3442);--grid:light-dark(#e9edf2,#242d3a);
--accent:light-dark(#0b63c5,#6ab4ff);--good:light-dark(#0b7a4b,#4fd39a);--bad:light-dark(#b3372a,#ff8d80);
--c0:light-dark(#0b63c5,#6ab4ff);--c1:light-dark(#c4500a,#ff9d5c);--c2:light-dark(#0c7f72,#45d3bd);
--c3:light-dark(#8a3fc0,#cb9bff);--c4:light-dark(#b9285f,#ff8ab5);--base:light-dark(#16202e,#f2f5f9);
--rest:light-dark(#a3aebb,#5c6a7d)}
:root[data-theme=light]{color-scheme:light}:root[data-theme=dark]{color-scheme:dark}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
sans-serif;-webkit-text-size-adjust:100%}
main{max-width:1340px;margin:0 auto;padding:28px 20px 56px}
header{display:flex;gap:16px;align-items:flex-start;justify-content:space-between}
h1{font-size:28px;line-height:1.2;margin:0;letter-spacing:-.02em}
h2{font-size:18px;margin:40px 0 12px;letter-spacing:-.01em}
h3{font-size:15px;margin:0}
p{margin:0}
.over{color:var(--soft);font-size:13px;margin-top:4px}
.lead{font-size:16.5px;margin:18px 0 0;max-width:78ch}
button{font:inherit;color:inherit;background:none;border:0;padding:0;cursor:pointer}
:focus-visible{outline:2px solid var(--accent);outline-offset:2px;border-radius:4px}
#theme{border:1px solid var(--line);background:var(--card);border-radius:8px;padding:5px 11px;font-size:13px;
white-space:nowrap}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(200px,1fr));gap:12px;margin:22px 0 0}
.card,figure,.table,details{background:var(--card);border:1px solid var(--line);border-radius:12px}
.card{padding:13px 16px}
.card b{display:block;font-size:23px;line-height:1.25;letter-spacing:-.02em;font-weight:650}
.card span{color:var(--soft);font-size:13px;display:block}
.legend{position:sticky;top:0;z-index:2;display:flex;flex-wrap:wrap;gap:6px;padding:10px 0;background:var(--paper);
margin-top:8px}
.legend button{display:inline-flex;gap:6px;align-items:center;border:1px solid var(--line);background:var(--card);
border-radius:99px;padding:2px 11px 2px 7px;font-size:12.5px;white-space:nowrap}
.swatch{width:13px;height:13px;flex:none;overflow:visible}
.grid2{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(430px,100%),1fr));gap:14px}
figure{margin:0;padding:15px 16px 10px;min-width:0}
figcaption p{color:var(--soft);font-size:12.5px;line-height:1.4;margin-top:2px}
.plot svg{overflow:visible;display:block}
.plot>svg{margin-top:14px}
.grid{stroke:var(--grid);stroke-width:1}.axis{stroke:var(--line);stroke-width:1}
.mark{stroke:var(--soft);stroke-width:1.2;stroke-dasharray:4 3}
.tick{font-size:11.5px;fill:var(--soft);font-variant-numeric:tabular-nums}.faint{opacity:.75}
.lab{font-size:12px;fill:currentColor;paint-order:stroke;stroke:var(--card);stroke-width:3px}.mid{text-anchor:middle}.end{text-anchor:end}
.c0{color:var(--c0)}.c1{color:var(--c1)}.c2{color:var(--c2)}.c3{color:var(--c3)}.c4{color:var(--c4)}
.base{color:var(--base)}.rest{color:var(--rest)}
.rest .lab{fill:var(--soft)}
.dot{fill:currentColor;stroke:var(--card);stroke-width:1.5}
.rest .dot{fill:var(--card);stroke:currentColor;stroke-width:1.6}
.base .dot{stroke:var(--card)}
.small{transform:scale(.72)}
.whisker{stroke:currentColor;stroke-width:2;stroke-linecap:round}
.band{stroke:currentColor;stroke-width:11;opacity:.17}
.seed{stroke:currentColor;stroke-width:1.2;opacity:.75}
.line,.hit,.frontier,.published{fill:none;vector-effect:non-scaling-stroke;stroke-linejoin:round;stroke-linecap:round}
.line{stroke:currentColor;stroke-width:1.7}
.published{stroke:var(--soft);stroke-width:1.4;stroke-dasharray:1.5 3.5}
.rest .line{stroke-width:1.1;opacity:.65}.base .line{stroke-dasharray:5 3.5}
.hit{stroke:transparent;stroke-width:11;pointer-events:stroke}
.frontier{stroke:var(--soft);stroke-width:1.3;stroke-dasharray:1 4}
.plot .clip>svg{overflow:hidden}
.e{transition:opacity .12s}
.lit .e:not(.on){opacity:.13}.lit .legend .e:not(.on){opacity:.55}
.lit .rest.on{color:var(--ink)}.lit .on .line{stroke-width:2.6;opacity:1}
.lit .on .lab{font-weight:650;fill:currentColor}
.table{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:12.5px;font-variant-numeric:tabular-nums}
th,td{padding:6px 7px;text-align:right;white-space:nowrap;border-bottom:1px solid var(--grid);vertical-align:top}
tbody tr:last-child td,tbody tr:last-child th{border-bottom:0}
thead th{font-weight:600;font-size:12.5px;color:var(--soft);border-bottom-color:var(--line);vertical-align:bottom}
thead button{font-weight:600}
thead [aria-sort] button{color:var(--ink)}
[aria-sort=ascending] button::after{content:" \\2191"}[aria-sort=descending] button::after{content:" \\2193"}
th:first-child,td.text{text-align:left}
tbody th{font-weight:500;position:sticky;left:0;background:var(--card);z-index:1;color:var(--ink)}
tbody th .swatch{margin-right:7px;vertical-align:-2px}tbody th small{padding-left:20px}
th:first-child,td:first-child{padding-left:14px}
tbody th a,tbody th sup{color:var(--soft)}
td small,th small{display:block;font-weight:400;color:var(--soft);font-size:11px;line-height:1.3}
td.best b{color:var(--accent)}td b{font-weight:650}
.up{color:var(--good)}.down{color:var(--bad)}
tr.ref th,tr.ref td{color:var(--soft);font-style:italic}
tr.on th,tr.on td{background:color-mix(in srgb,var(--accent) 9%,var(--card))}
.wrap td{white-space:normal;overflow-wrap:anywhere;min-width:90px}
details{padding:11px 16px;margin-top:12px}details .table{border:0;margin-top:8px}
details h3{margin-top:18px}summary{cursor:pointer;font-weight:600;font-size:14px}
ul{margin:0;padding-left:20px}li{margin:5px 0;max-width:95ch}
code{font:12.5px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
#tip{position:fixed;z-index:9;pointer-events:none;background:var(--ink);color:var(--paper);font-size:12.5px;
line-height:1.35;padding:5px 9px;border-radius:7px;max-width:min(320px,90vw);opacity:0;transition:opacity .1s}
#tip.seen{opacity:1}
@media (max-width:640px){main{padding:18px 12px 40px}h1{font-size:23px}.lead{font-size:15.5px}
.legend{flex-wrap:nowrap;overflow-x:auto;scrollbar-width:none}figure{padding:13px 11px 8px}
.rest .near,.odd{display:none}.card b{font-size:20px}.cards{grid-template-columns:1fr 1fr;gap:9px}}
@media (prefers-reduced-motion:reduce){*{transition:none!important}}
@media print{#theme,.legend{display:none}figure,.card{break-inside:avoid}}
"""

# Without it the page stays whole: tooltips are then the browser's own, and nothing lights up or sorts.
SCRIPT = """
(() => {
  const root = document.documentElement, main = document.querySelector("main");
  document.getElementById("theme").onclick = () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark"
      : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  };
  let pinned = null;
  const light = number => {
    main.classList.toggle("lit", number !== null);
    for (const node of main.querySelectorAll("[data-e]")) {
      node.classList.toggle("on", node.dataset.e === number);
      if (node.tagName === "BUTTON") node.setAttribute("aria-pressed", String(node.dataset.e === pinned));
    }
  };
  const numberAt = event => event.target.closest("[data-e]")?.dataset.e ?? null;
  main.addEventListener("pointerover", event => light(numberAt(event) ?? pinned));
  main.addEventListener("pointerleave", () => light(pinned));
  main.addEventListener("focusin", event => light(numberAt(event) ?? pinned));
  main.addEventListener("click", event => {
    const number = numberAt(event);
    if (number === null && event.target.closest("button, summary")) return;
    pinned = number === pinned ? null : number;
    light(pinned);
  });
  const tip = document.body.appendChild(Object.assign(document.createElement("div"), {id: "tip"}));
  for (const title of document.querySelectorAll(".plot title")) {
    title.parentNode.dataset.tip = title.textContent;
    title.remove();
  }
  document.addEventListener("pointermove", event => {
    const text = event.target.closest?.("[data-tip]")?.dataset.tip;
    tip.classList.toggle("seen", Boolean(text));
    if (!text) return;
    tip.textContent = text;
    const x = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
    const above = event.clientY - tip.offsetHeight - 12;
    tip.style.left = Math.max(8, x) + "px";
    tip.style.top = (above > 4 ? above : event.clientY + 18) + "px";
  });
  for (const button of document.querySelectorAll("thead button")) {
    button.onclick = () => {
      const head = button.closest("th"), table = head.closest("table"), body = table.tBodies[0];
      const down = head.getAttribute("aria-sort") !== "descending";
      for (const other of table.querySelectorAll("[aria-sort]")) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = row => {
        const value = row.cells[head.cellIndex].dataset.v ?? "";
        return value === "" || isNaN(value) ? value : Number(value);
      };
      const rows = [...body.rows].filter(row => !row.classList.contains("ref"));
      const compare = (a, b) => a === "" ? 1 : b === "" ? -1 : (a < b ? -1 : a > b ? 1 : 0) * (down ? -1 : 1);
      rows.sort((a, b) => compare(key(a), key(b)));
      body.prepend(...rows);
    };
  }
})();
"""
