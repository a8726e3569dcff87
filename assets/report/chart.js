// Line charts as SVG: lines with bands, drawn again when the width of their box changes.

function ticks(low, high, most) {
  const span = high - low || 1;
  const power = 10 ** Math.floor(Math.log10(span / most));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => span / s <= most) || power * 10;
  const out = [];
  for (let v = Math.floor(low / step) * step; v <= high + step * 1e-6; v += step) out.push(Math.abs(v) < step * 1e-9 ? 0 : v);
  if (out[out.length - 1] < high) out.push(out[out.length - 1] + step);
  return out;
}

// chart({title, series, xLabel, yLabel, xFormat, yFormat, height, xTicks, rule, labels})
// series: [{label, a, points: [{x, y, lo, hi}], flat}]; rule: {y, label}
function chart(options) {
  const box = el("div", { class: "chart" });
  let drawn = 0;
  const draw = () => {
    const width = Math.round(box.clientWidth);
    if (!width || width === drawn) return;
    drawn = width;
    box.replaceChildren(...drawing(options, width));
  };
  new ResizeObserver(draw).observe(box);
  return box;
}

function drawing(o, width) {
  const yFormat = o.yFormat || ((v) => (Math.abs(v) < 1e-3 && v !== 0 ? v.toExponential(1) : String(+v.toFixed(Math.abs(v) < 1 ? 3 : 2))));
  const xFormat = o.xFormat || String;
  const series = o.series.filter((s) => s.points.length);
  if (!series.length) return [el("p", { class: "note" }, "Nothing to draw with this choice.")];
  const all = series.flatMap((s) => s.points);
  const ys = all.flatMap((p) => [p.y, p.lo, p.hi]).concat(o.rule && isNumber(o.rule.y) ? [o.rule.y] : []).filter(isNumber);
  let [low, high] = [Math.min(...ys), Math.max(...ys)];
  if (high - low < 1e-9) [low, high] = [low - (Math.abs(low) || 1) * 0.1, high + (Math.abs(high) || 1) * 0.1];
  const yTicks = ticks(low, high, o.height < 200 ? 4 : 6);
  const tickText = (() => {
    const all = yTicks.map(yFormat);
    const whole = all.every((t) => /\.0+$/.test(t) || !t.includes("."));
    return (v) => (whole ? yFormat(v).replace(/\.0+$/, "") : yFormat(v));
  })();
  [low, high] = [yTicks[0], yTicks[yTicks.length - 1]];
  const xs = all.map((p) => p.x);
  const xLow = Math.min(...xs);
  const xHigh = Math.max(...xs) > xLow ? Math.max(...xs) : xLow + 1;
  const xTicks = o.xTicks || ticks(xLow, xHigh, width < 420 ? 4 : 7).filter((v) => v >= xLow && v <= xHigh);

  const named = o.labels && width >= 620;
  const room = named ? Math.min(230, 24 + 7.1 * Math.max(...series.map((s) => s.label.length))) : 12;
  const left = 16 + 7 * Math.max(...yTicks.map((v) => tickText(v).length));
  const [top, bottom] = [12, o.xLabel ? 44 : 26];
  const height = o.height;
  const x = (v) => left + ((width - left - room) * (v - xLow)) / (xHigh - xLow);
  const y = (v) => top + ((height - top - bottom) * (high - v)) / (high - low);
  const f = (v) => v.toFixed(1);

  const root = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": describe(o, series, yFormat, xFormat) });
  for (const v of yTicks) {
    root.append(svg("line", { class: "grid", x1: left, x2: width - room, y1: f(y(v)), y2: f(y(v)) }),
      svg("text", { class: "tick", x: left - 8, y: f(y(v) + 4), "text-anchor": "end" }, tickText(v)));
  }
  for (const v of xTicks) {
    root.append(svg("text", { class: "tick", x: f(x(v)), y: height - bottom + 20, "text-anchor": "middle" }, xFormat(v)));
  }
  if (o.xLabel) root.append(svg("text", { class: "axis", x: f((left + width - room) / 2), y: height - 6, "text-anchor": "middle" }, o.xLabel));
  if (o.rule && isNumber(o.rule.y)) {
    root.append(svg("line", { class: "rule", x1: left, x2: width - room, y1: f(y(o.rule.y)), y2: f(y(o.rule.y)) }),
      svg("text", { class: "tick", x: width - room - 4, y: f(y(o.rule.y) - 5), "text-anchor": "end" }, o.rule.label));
  }
  for (const s of series) {
    const { colour } = look(s.a);
    const banded = s.points.filter((p) => isNumber(p.lo) && isNumber(p.hi));
    if (banded.length > 1) {
      const edge = banded.map((p) => `${f(x(p.x))},${f(y(p.hi))}`).concat(banded.slice().reverse().map((p) => `${f(x(p.x))},${f(y(p.lo))}`));
      root.append(svg("polygon", { class: "band", points: edge.join(" "), style: `fill:${colour};opacity:${series.length > 8 ? 0.05 : 0.13}` }));
    } else if (banded.length === 1 && !s.flat) {
      const p = banded[0];
      root.append(svg("line", { x1: f(x(p.x)), x2: f(x(p.x)), y1: f(y(p.lo)), y2: f(y(p.hi)), style: `stroke:${colour};opacity:.5;stroke-width:2` }));
    }
  }
  const ends = [];
  for (const s of series) {
    const { colour, dash, mark: kind } = look(s.a);
    const line = s.points.map((p) => `${f(x(p.x))},${f(y(p.y))}`);
    const end = s.points[s.points.length - 1];
    // What is not trained stays where it is.
    if (s.flat) line.push(`${f(x(xHigh))},${f(y(end.y))}`);
    root.append(svg("polyline", { class: s.thin ? "line thin" : "line", points: line.join(" "), "stroke-dasharray": s.dash || dash, style: `stroke:${colour}` }));
    if (!s.thin) for (const p of s.points) root.append(mark(kind, x(p.x), y(p.y), colour));
    ends.push({ at: y(end.y), s, colour });
  }
  if (named) {
    ends.sort((a, b) => a.at - b.at);
    const gap = 16;
    ends.forEach((e, i) => { e.y = i ? Math.max(e.at, ends[i - 1].y + gap) : e.at; });
    for (let i = ends.length - 1, limit = height - bottom + 6; i >= 0; i--, limit -= gap) ends[i].y = Math.min(ends[i].y, limit);
    for (const e of ends) {
      root.append(svg("text", { class: "name", x: width - room + 10, y: f(e.y + 4), style: `fill:${e.colour}` }, e.s.label));
    }
  }
  const guide = svg("line", { class: "guide", y1: top, y2: height - bottom, visibility: "hidden" });
  root.append(guide);
  const tip = el("div", { class: "tip", hidden: true });
  const stops = [...new Set(xs)].sort((a, b) => a - b);
  const show = (event) => {
    const at = event.clientX - root.getBoundingClientRect().left;
    const near = stops.reduce((best, v) => (Math.abs(x(v) - at) < Math.abs(x(best) - at) ? v : best), stops[0]);
    const rows = series.map((s) => [s, s.points.find((p) => p.x === near)]).filter(([, p]) => p).sort((a, b) => b[1].y - a[1].y);
    if (!rows.length || rows.length > 24) return;
    guide.setAttribute("x1", x(near));
    guide.setAttribute("x2", x(near));
    guide.setAttribute("visibility", "visible");
    tip.replaceChildren(el("strong", {}, `${o.xName || "iteration"} ${xFormat(near)}`), ...rows.slice(0, 12).map(([s, p]) => el("div", {},
      swatch(s.a), el("span", { class: "who" }, s.label), el("b", {}, yFormat(p.y)),
      isNumber(p.lo) && isNumber(p.hi) ? el("i", {}, `${yFormat(p.lo)} to ${yFormat(p.hi)}`) : null)));
    tip.hidden = false;
    const left = Math.max(0, Math.min(x(near) + 14, width - tip.offsetWidth - 4));
    tip.style.left = (x(near) + 14 + tip.offsetWidth > width ? Math.max(0, x(near) - 14 - tip.offsetWidth) : left) + "px";
  };
  const hide = () => { tip.hidden = true; guide.setAttribute("visibility", "hidden"); };
  root.addEventListener("pointermove", show);
  root.addEventListener("pointerdown", show);
  root.addEventListener("pointerleave", hide);
  return [root, tip];
}

function describe(o, series, yFormat, xFormat) {
  const of = (s) => {
    const [first, last] = [s.points[0], s.points[s.points.length - 1]];
    return `${s.label}: ${yFormat(first.y)} at ${xFormat(first.x)}${s.points.length > 1 ? `, ${yFormat(last.y)} at ${xFormat(last.x)}` : ""}`;
  };
  return `${o.title}. ${series.slice(0, 20).map(of).join("; ")}.`;
}

// The numbers of a chart as a table, folded.
function numbers(o) {
  const yFormat = o.yFormat || ((v) => String(+v.toPrecision(4)));
  const xFormat = o.xFormat || String;
  const xs = [...new Set(o.series.flatMap((s) => s.points.map((p) => p.x)))].sort((a, b) => a - b);
  const columns = [{ head: "" }].concat(xs.map((v) => ({ head: xFormat(v), number: true })));
  const rows = o.series.filter((s) => s.points.length).map((s) => [s.label].concat(xs.map((v) => {
    const p = s.points.find((q) => q.x === v);
    if (!p) return "";
    return [yFormat(p.y), isNumber(p.lo) && isNumber(p.hi) ? el("small", { class: "below" }, `${yFormat(p.lo)} to ${yFormat(p.hi)}`) : null];
  })));
  return el("details", {}, el("summary", {}, o.summary || "The numbers"), table(columns, rows, `${o.title}: the numbers`));
}

// An interval on a scale shared by the rows of a table.
function strip(scale, v, lo, hi, a, zero) {
  const width = 150;
  const x = (value) => 6 + ((width - 12) * (value - scale[0])) / (scale[1] - scale[0] || 1);
  const { colour, mark: kind } = a === null ? { colour: "var(--muted)", mark: 0 } : look(a);
  return svg("svg", { class: "strip", width, height: 18, "aria-hidden": "true" },
    zero ? svg("line", { class: "rule", x1: x(0), x2: x(0), y1: 0, y2: 18 }) : null,
    isNumber(lo) ? svg("line", { x1: x(lo), x2: x(hi), y1: 9, y2: 9, style: `stroke:${colour};stroke-width:2.5;opacity:.55` }) : null,
    isNumber(v) ? mark(kind, x(v), 9, colour) : null);
}
function scaleOf(values) {
  const all = values.filter(isNumber);
  return all.length ? [Math.min(...all), Math.max(...all)] : [0, 1];
}
