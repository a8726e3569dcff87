// Elements and numbers. Text enters the page as text nodes only: nothing here or elsewhere writes markup.

const D = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return node;
}
const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

const isNumber = (v) => typeof v === "number";
const pct = (v) => (isNumber(v) ? (100 * v).toFixed(1) : "–");
function points(v) {
  if (!isNumber(v)) return "–";
  const text = Math.abs(100 * v).toFixed(1);
  return (text === "0.0" ? "" : v < 0 ? "−" : "+") + text;
}
const pValue = (p) => (!isNumber(p) ? "–" : p < 0.001 ? "< 0.001" : p.toFixed(3));
const plural = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;

function large(v) {
  if (!isNumber(v)) return "–";
  const units = [[1e18, "E"], [1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];
  const unit = units.find(([size]) => v >= size);
  if (!unit) return v.toFixed(v % 1 ? 1 : 0);
  const scaled = v / unit[0];
  return scaled.toFixed(scaled < 10 ? 2 : scaled < 100 ? 1 : 0).replace(/\.0+$/, "") + " " + unit[1];
}

function duration(s) {
  if (!isNumber(s)) return "–";
  if (s >= 5400) return (s / 3600).toFixed(1) + " h";
  if (s >= 90) return (s / 60).toFixed(1) + " min";
  return s.toFixed(s < 10 ? 1 : 0) + " s";
}

// Colour, dash and mark of an arm: three ways to tell its line.
const DASHES = ["", "7 4", "2 3", "10 3 2 3"];
const look = (a) => ({ colour: `var(--c${a % 8})`, dash: DASHES[Math.floor(a / 8) % 4], mark: a % 4 });

function mark(kind, x, y, colour) {
  const shapes = [
    () => svg("circle", { cx: x, cy: y, r: 4 }),
    () => svg("rect", { x: x - 3.6, y: y - 3.6, width: 7.2, height: 7.2 }),
    () => svg("path", { d: `M${x} ${y - 5}l4.8 8.4h-9.6z` }),
    () => svg("path", { d: `M${x} ${y - 5.2}l5.2 5.2-5.2 5.2-5.2-5.2z` }),
  ];
  return fill(shapes[kind](), { style: `fill:${colour}`, class: "mark" }, []);
}

// A short piece of an arm's line, for legends and tables.
function swatch(a) {
  const { colour, dash, mark: kind } = look(a);
  return svg("svg", { class: "swatch", width: 30, height: 12, "aria-hidden": "true" },
    svg("line", { x1: 1, x2: 29, y1: 6, y2: 6, "stroke-dasharray": dash, style: `stroke:${colour};stroke-width:2` }),
    mark(kind, 15, 6, colour));
}

// A table that scrolls in its own box. Columns: {head, number, wide}; rows: arrays of children, or {row, class}.
function table(columns, rows, caption) {
  const cell = (tag, column, content, first) =>
    el(tag, { class: (column.number ? "num" : "") + (column.wide ? " wide" : ""), scope: tag === "th" ? (first ? "row" : "col") : null }, content);
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    el("table", {}, el("caption", { class: "hidden" }, caption),
      el("thead", {}, el("tr", {}, columns.map((c) => cell("th", c, c.head)))),
      el("tbody", {}, rows.map((r) => {
        const cells = Array.isArray(r) ? r : r.row;
        return el("tr", { class: r.class || null }, cells.map((content, i) => cell(i ? "td" : "th", columns[i], content, true)));
      }))));
}

// Radio buttons that look like one control.
let controls = 0;
function segmented(label, options, value, choose) {
  const name = `control-${controls++}`;
  return el("fieldset", { class: "segmented" }, el("legend", {}, label),
    el("div", {}, options.map((o) => el("label", { title: o.title },
      el("input", { type: "radio", name, value: o.id, checked: o.id === value, disabled: o.disabled, onchange: () => choose(o.id) }),
      el("span", {}, o.label)))));
}

function select(label, options, value, choose) {
  const node = el("select", { onchange: (e) => choose(e.target.value) },
    options.map((o) => el("option", { value: o.id, selected: String(o.id) === String(value) }, o.label)));
  return el("label", { class: "select" }, el("span", {}, label), node);
}
