// Theme, sorting and lit experiments; then the figures. Without JavaScript the tables still hold every number.
const root = document.documentElement, main = document.querySelector("main");

document.getElementById("theme").onclick = () => {
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
};

// An experiment lights up in all tables and figures at once: its table rows carry its number, its traces a class.
const lit = document.getElementById("lit");
let pinned = null;
const light = number => {
  lit.textContent = number === null ? "" :
    `tr[data-e="${number}"]>*{background:var(--lit)!important}
     .legend button[data-e="${number}"]{border-color:var(--accent);font-weight:650}
     .plot .trace:not([class*="trace-${number}-"]){opacity:.1!important}`;
};
const numberAt = event => event.target.closest("[data-e]")?.dataset.e ?? null;
for (const name of ["pointerover", "focusin"]) main.addEventListener(name, event => light(numberAt(event) ?? pinned));
main.addEventListener("pointerleave", () => light(pinned));
main.addEventListener("click", event => {
  const number = numberAt(event);
  if (number === null) return;
  pinned = number === pinned ? null : number;
  for (const button of main.querySelectorAll(".legend button"))
    button.setAttribute("aria-pressed", button.dataset.e === pinned);
  light(pinned);
});

const compare = (a, b, sign) => a === "" ? 1 : b === "" ? -1 : sign * (isNaN(a) ? a.localeCompare(b) : a - b);
for (const button of document.querySelectorAll("thead button")) {
  button.onclick = () => {
    const head = button.closest("th"), table = head.closest("table");
    const down = head.getAttribute("aria-sort") !== "descending";
    table.querySelector("[aria-sort]").removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = row => row.cells[head.cellIndex].dataset.v;
    const rows = [...table.tBodies[0].rows].filter(row => !row.matches(".ref"));
    table.tBodies[0].prepend(...rows.sort((a, b) => compare(key(a), key(b), down ? -1 : 1)));
  };
}

const unpack = text => new Response(
  new Blob([Uint8Array.from(atob(text), letter => letter.charCodeAt(0))]).stream()
    .pipeThrough(new DecompressionStream("gzip"))).text();
const draw = source => {
  document.head.append(Object.assign(document.createElement("script"), {textContent: source}));
  // A finger scrolls the page; a mouse zooms by dragging, and a double click resets.
  const dragmode = matchMedia("(pointer: coarse)").matches ? false : "zoom";
  for (const place of document.querySelectorAll(".plot")) {
    const {data, layout} = JSON.parse(place.nextElementSibling.textContent);
    if (place.clientWidth < 400) {
      layout.font.size = 10;
      layout.xaxis.nticks = 4;
    }
    Plotly.newPlot(place, data, {...layout, dragmode}, {displayModeBar: false, responsive: true});
    place.on("plotly_hover", event => light(event.points[0].data.uid?.split("-")[1] ?? pinned));
    place.on("plotly_unhover", () => light(pinned));
  }
};
const packed = document.getElementById("plotly").textContent;
if (packed) unpack(packed).then(draw);
