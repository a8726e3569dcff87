// The page: sections in the order in which they are read.

const armLabel = (a) => D.arms[a].label;
const labelsMark = (a) => (D.arms[a].labels ? el("sup", { title: "its training saw right answers" }, "L") : null);
const named = (a, label, drawn) => el("span", { class: "named" }, drawn ? swatch(a) : null, el("span", { class: "arm" }, label, labelsMark(a)));
const armName = (a) => named(a, armLabel(a), true);
const methodLabel = (id) => (D.methods.find((m) => m.id === id) || { label: id }).label;
const interval = (v, lo, hi, se) => [el("b", {}, pct(v)), " ", el("small", {}, isNumber(lo) ? `[${pct(lo)}, ${pct(hi)}]` : isNumber(se) ? `± ${pct(se)} s.e.` : "")];

// Which arms are shown, in all charts: at first the reference, what it is compared with, and others up to seven.
const state = { shown: new Set() };
{
  const first = D.primary.flatMap((p) => (p.a ? [p.a.a, p.b.a] : []));
  const order = [...first, ...D.arms.map((_, a) => a).filter((a) => D.arms[a].reference), ...D.arms.keys()];
  for (const a of order) if (state.shown.size < 7) state.shown.add(a);
}
const drawers = [];
const redraw = () => drawers.forEach((draw) => draw());

// A part of the page that is drawn again when the choice of arms changes.
function live(make) {
  const host = el("div", {});
  const draw = () => host.replaceChildren(...[make()].flat(Infinity).filter(Boolean));
  drawers.push(draw);
  draw();
  return host;
}

function chips(has) {
  const shown = D.arms.map((_, a) => a).filter(has);
  const set = (keep) => { shown.forEach((a) => (keep(a) ? state.shown.add(a) : state.shown.delete(a))); redraw(); };
  return el("fieldset", { class: "chips" }, el("legend", {}, "Arms"),
    el("div", {}, shown.map((a) => el("label", {},
      el("input", { type: "checkbox", checked: state.shown.has(a), onchange: (e) => { e.target.checked ? state.shown.add(a) : state.shown.delete(a); redraw(); } }),
      el("span", {}, armName(a)))),
    shown.length > 3 ? [el("button", { type: "button", onclick: () => set(() => true) }, "all"), el("button", { type: "button", onclick: () => set(() => false) }, "none")] : null));
}

// ---- what was run

function seedsOf(arms) {
  const counts = arms.map((a) => a.seeds.length);
  const [least, most] = [Math.min(...counts), Math.max(...counts)];
  return least === most ? plural(most, "seed") : `${least} to ${most} seeds`;
}

function top() {
  const head = el("header", { class: "top" },
    el("p", { class: "brand" }, "Colloquy"),
    el("h1", {}, D.several ? `${D.runs.length} runs, laid over one another` : D.runs[0].name));
  for (const run of D.runs) {
    const fact = Object.fromEntries(run.facts);
    const arms = D.arms.filter((a) => D.runs[a.run] === run);
    const text = [
      D.several ? el("b", {}, run.name, ": ") : null,
      plural(arms.length, "arm"), " × ", seedsOf(arms), `, ${fact.iterations ?? "?"} iterations of ${fact.agents ?? "?"} agents in ${fact.rounds ?? "?"} rounds on `,
      el("b", {}, fact.task ?? "a task"), ", base model ", el("b", {}, (fact.model ?? "unknown").split("/").pop()), ". ",
      `${fact["training questions"] ?? "?"} training, ${fact["dev questions"] ?? "?"} dev and ${fact["test questions"] ?? "?"} test questions. `,
      `Run on ${run.device ?? "an unknown device"}`, run.created ? `, begun ${run.created}` : "", ", with colloquy ", run.version ?? "?",
      run.commit ? [" at ", el("code", {}, run.commit)] : "", ".",
    ];
    head.append(el("p", { class: "lede" }, text));
    if (run.complete < run.lane_count) {
      head.append(el("p", { class: "warning", role: "note" }, el("b", {}, "Not complete. "),
        `${run.complete} of ${run.lane_count} lanes have their last iteration. ` +
        run.unfinished.slice(0, 6).map(([lane, i]) => `${lane}: ${i === null ? "nothing measured yet" : `iteration ${i}`}`).join("; ") +
        (run.unfinished.length > 6 ? ` and ${run.unfinished.length - 6} more` : "") + "."));
    }
  }
  if (D.absent.length) head.append(el("p", { class: "note" }, `Not measured: ${D.absent.join("; ")}.`));
  return head;
}

// ---- the answer

function sideText(s) {
  return [el("b", {}, armLabel(s.a)), `, ${s.label}, iteration ${s.i}`];
}

function answer() {
  const parts = D.primary.map((p) => {
    if (p.missing) return el("p", { class: "warning" }, el("b", {}, "The primary comparison is not there yet: "), p.missing + ".");
    const said = p.lo > 0 ? "is above" : p.hi < 0 ? "is below" : "is not told apart from";
    const scale = scaleOf([p.lo, p.hi, 0, p.detectable, -p.detectable]);
    const [w, h] = [560, 92];
    const x = (v) => 20 + ((w - 40) * (v - scale[0])) / (scale[1] - scale[0]);
    const drawing = svg("svg", { viewBox: `0 0 ${w} ${h}`, class: "difference", role: "img", "aria-label": `Difference ${points(p.v)} points, 95 % interval from ${points(p.lo)} to ${points(p.hi)}` },
      svg("rect", { class: "shade", x: x(-p.detectable), y: 20, width: x(p.detectable) - x(-p.detectable), height: 40 }),
      svg("line", { class: "rule", x1: x(0), x2: x(0), y1: 12, y2: 68 }),
      svg("line", { class: "bar", x1: x(p.lo), x2: x(p.hi), y1: 40, y2: 40 }),
      svg("circle", { class: "dot", cx: x(p.v), cy: 40, r: 7 }),
      svg("text", { x: x(0), y: 84, "text-anchor": "middle" }, "no difference"),
      Math.abs(x(p.v) - x(0)) > 90 ? svg("text", { x: x(p.v), y: 24, "text-anchor": "middle" }, `${points(p.v)}`) : null);
    return el("div", { class: "answer" },
      el("p", { class: "claim" }, sideText(p.a), ` ${said} `, sideText(p.b), "."),
      el("div", { class: "figures" },
        el("div", { class: "figure" }, el("span", { class: "big" }, points(p.v)), el("span", {}, "points"), el("span", { class: "sub" }, `95 % interval ${points(p.lo)} to ${points(p.hi)}`)),
        el("dl", {},
          el("div", {}, el("dt", {}, armLabel(p.a.a)), el("dd", {}, pct(p.a.v) + " %")),
          el("div", {}, el("dt", {}, armLabel(p.b.a)), el("dd", {}, pct(p.b.v) + " %")),
          el("div", {}, el("dt", {}, "p"), el("dd", {}, pValue(p.p))),
          el("div", {}, el("dt", {}, "smallest detectable difference"), el("dd", {}, (100 * p.detectable).toFixed(1) + " points")))),
      drawing,
      el("p", { class: "note" }, `${p.q} ${p.s} questions, ${plural(p.seeds, "seed")}, paired by seed and question; bootstrap over seeds × questions. ` +
        "The smallest detectable difference (shaded) is found four times in five by a two-sided test at 5 %. The comparison was named in the configuration."));
  });
  if (!parts.length) parts.push(el("p", {}, "The configuration names no primary comparison, so none is claimed. All comparisons below are secondary."));
  return parts;
}

// ---- the paper's tables

function paperTables() {
  return D.tables.flatMap((t) => {
    const make = (rows, caption) => {
      const cells = rows.flatMap((r) => r.cells.filter(Boolean));
      const scale = scaleOf(cells.flatMap((c) => [c.lo ?? c.v, c.hi ?? c.v]));
      // The strip shows the last column of the first split: what counts most.
      const main = t.columns.findLastIndex((c) => c.s === t.columns[0].s);
      const columns = [{ head: "" }, ...t.columns.map((c) => ({ head: [`${c.s}, iteration ${c.i}`, el("small", {}, `${c.q} questions`)], number: true })), { head: [`${t.columns[main].s}, iteration ${t.columns[main].i}`, el("small", {}, `${pct(scale[0])} to ${pct(scale[1])}`)] }];
      // Rows of the base model were measured by the reference arm and are not its line.
      const own = (r) => r.trained || (r.label === armLabel(r.a)) || !D.arms[r.a].reference;
      return table(columns, rows.map((r) => ({
        class: D.arms[r.a].reference && r.trained ? "ours" : null,
        row: [[named(r.a, r.label, own(r)), el("small", {}, r.method)],
          ...r.cells.map((c) => (c ? interval(c.v, c.lo, c.hi, c.se) : "–")),
          r.cells[main] ? strip(scale, r.cells[main].v, r.cells[main].lo, r.cells[main].hi, own(r) ? r.a : null) : ""],
      })), caption);
    };
    const title = (n, what) => el("h3", {}, D.several ? `${D.runs[t.run].name}: ` : "", `Table ${n}. ${what}`);
    return [
      t.one.length ? [title(1, "Methods"), make(t.one, "Accuracy of methods, %")] : null,
      t.two.length ? [title(2, "Multiagent finetuning, its parts taken away, and a single agent"), make(t.two, "Accuracy of ablations, %")] : null,
    ];
  }).concat([el("p", { class: "note" }, "Accuracy in %, in brackets the 95 % interval over seeds and questions. Rows of the base model are what was measured before training and do not change over iterations. ",
    D.arms.some((a) => a.labels) ? [el("sup", {}, "L"), ": its training saw right answers. "] : "",
    "After Tables 1 and 2 of arXiv 2501.05707.")]);
}

// ---- figure 1

function accuracies() {
  const splits = [...new Set(D.means.map((m) => m.s))];
  const series = (split) => D.arms.map((arm, a) => ({ label: armLabel(a), a, points: D.means.filter((m) => m.a === a && m.s === split && m.m === arm.own).map((m) => ({ x: m.i, y: m.v, lo: m.lo, hi: m.hi })) }));
  return [
    document.getElementById("figures"),
    el("p", { class: "note" }, "An arm’s own method is the final vote where a debate is a part of it, else the vote of its samples, else one answer. Bands are 95 % intervals over seeds and questions. What is not trained is drawn level."),
    splits.map((s) => numbers({ title: `Accuracy on ${s} questions`, summary: `The numbers on ${s} questions`, yFormat: pct, series: series(s) })),
  ];
}

// ---- small multiples

function small(title, text, series, yFormat, rule) {
  const options = { title, series, height: 190, yFormat, rule, xTicks: [...new Set(series.flatMap((s) => s.points.map((p) => p.x)))].sort((a, b) => a - b) };
  return el("figure", { class: "small" }, el("figcaption", {}, el("b", {}, title), " ", el("span", {}, text)), chart(options), numbers(options));
}

function seriesOf(group, name, split) {
  return [...state.shown].sort((a, b) => a - b).map((a) => {
    const found = D.measures.filter((m) => m.a === a && m.g === group && m.n === name && (!split || m.s === split));
    return { label: armLabel(a), a, points: found.map((m) => ({ x: m.i, y: m.v, lo: m.k > 1 ? m.lo : null, hi: m.k > 1 ? m.hi : null })), flat: found.length === 1 && found[0].i === 0 };
  });
}
const anyOf = (group) => (a) => D.measures.some((m) => m.a === a && m.g === group);

function diversity() {
  // Of first answers measures.csv tells.
  const names = [...new Set(D.measures.filter((m) => m.g === "diversity" && !m.n.startsWith("first_round.")).map((m) => m.n))];
  if (!names.length) return null;
  const known = D.diversity.filter((d) => names.includes(d.key));
  const others = names.filter((n) => !D.diversity.some((d) => d.key === n)).map((n) => ({ key: n, title: n, text: "", notes: [], base: null }));
  return [
    el("p", { class: "note" }, "On debates of dev questions; bands reach from the lowest seed to the highest."),
    live(() => [chips(anyOf("diversity")), el("div", { class: "multiples" }, [...known, ...others].map((d) =>
      small(d.title, [d.text, ...d.notes].filter(Boolean).join("; "), seriesOf("diversity", d.key), null, isNumber(d.base) ? { y: d.base, label: "base" } : null)))]),
  ];
}

function pseudoLabels() {
  if (!D.measures.some((m) => m.g === "pseudo-labels" || m.g === "debate")) return null;
  const split = ["dev", "test"].find((s) => D.measures.some((m) => m.g === "debate" && m.s === s));
  const of = (title, text, group, name, split) => {
    const series = seriesOf(group, name, split);
    return series.some((s) => s.points.length) ? small(title, text, series, pct) : null;
  };
  return live(() => [chips((a) => anyOf("pseudo-labels")(a) || anyOf("debate")(a)), el("div", { class: "multiples" },
    of("Right pseudo-labels", "% of the labelled training questions", "pseudo-labels", "accuracy"),
    of("Coverage", "% of the training questions that get a pseudo-label", "pseudo-labels", "coverage"),
    of("All agree", "% of the training questions", "pseudo-labels", "all_agree"),
    of("Agreement", "% of agents with the vote’s answer", "pseudo-labels", "consensus"),
    of("False consensus", `% of ${split} questions on which all agents agree and are wrong`, "debate", "false_consensus", split),
    of("True consensus", `% of ${split} questions on which all agents agree and are right`, "debate", "true_consensus", split))]);
}

// ---- moves

function moves() {
  if (!D.moves.length) return null;
  const rate = (m, from, to) => {
    const sum = (keys) => keys.reduce((s, k) => s + m[k], 0);
    const of = { right: ["right_to_right", "right_to_wrong", "right_to_none"], other: ["wrong_to_right", "wrong_to_wrong", "wrong_to_none", "none_to_right", "none_to_wrong", "none_to_none"] };
    const all = sum(of[from]);
    return all ? sum(to) / all : null;
  };
  const columns = [{ head: "" }, { head: "iteration", number: true }, { head: "corrected", number: true }, { head: "corrupted", number: true }, { head: "net, of all answers", number: true }, { head: ["right → right"], number: true }, { head: "right → other", number: true }, { head: "other → right", number: true }, { head: "other → other", number: true }];
  const rows = D.moves.filter((m) => {
    const own = D.moves.filter((n) => n.a === m.a).map((n) => n.i);
    return m.i === Math.min(...own) || m.i === Math.max(...own);
  }).map(({ a, i, moves: m }, n, all) => {
    const lost = m.right_to_wrong + m.right_to_none;
    const won = m.wrong_to_right + m.none_to_right;
    const rest = m.wrong_to_wrong + m.wrong_to_none + m.none_to_wrong + m.none_to_none;
    const sum = m.right_to_right + lost + won + rest;
    return [n && all[n - 1].a === a ? "" : armName(a), i, pct(rate(m, "other", ["wrong_to_right", "none_to_right"])), pct(rate(m, "right", ["right_to_wrong", "right_to_none"])), points((won - lost) / sum), m.right_to_right, lost, won, rest];
  });
  return [
    el("p", { class: "note" }, "From each agent’s first answer to its last, on " + D.moves[0].s + " questions, all seeds together, before training and after the last iteration. Corrected: % of the answers that were not right and then were; corrupted: % of the right ones that then were not."),
    table(columns, rows, "How critics move answers"),
    live(() => {
      const line = (pick) => [...state.shown].sort((x, y) => x - y).map((a) => ({ label: armLabel(a), a, points: D.moves.filter((m) => m.a === a).map((m) => ({ x: m.i, y: pick(m.moves) })).filter((p) => isNumber(p.y)) }));
      return el("div", { class: "multiples" },
        small("Corrected", "% of answers that were not right", line((m) => rate(m, "other", ["wrong_to_right", "none_to_right"])), pct),
        small("Corrupted", "% of right answers", line((m) => rate(m, "right", ["right_to_wrong", "right_to_none"])), pct));
    }),
  ];
}

// ---- samples

function samples() {
  const split = ["test", "dev"].find((s) => D.samples.some((x) => x.s === s));
  if (!split) return null;
  return live(() => {
    const chosen = D.samples.filter((x) => x.s === split && state.shown.has(x.a));
    const options = { title: "Accuracy of the vote by number of samples", height: 320, labels: true, yFormat: pct, xLabel: "samples that vote", xName: "samples", series: chosen.map((x) => ({ label: armLabel(x.a), a: x.a, points: x.points.map(([k, v]) => ({ x: k, y: v })) })) };
    const rows = chosen.filter((x) => x.budget).map((x) => {
      const at = D.means.find((m) => m.a === x.a && m.s === split && m.i === x.i && m.m === "majority-at-budget");
      return [armName(x.a), pct(x.final), x.budget, pct(at && at.v)];
    });
    return [chips((a) => D.samples.some((x) => x.a === a)), chart(options), numbers(options),
      rows.length ? table([{ head: "" }, { head: "final vote of the debate", number: true }, { head: "samples for the same FLOP", number: true }, { head: "their vote", number: true }], rows, "Debate against the vote at its inference FLOP") : null,
      el("p", { class: "note" }, `On ${split} questions at each arm’s last iteration, mean over seeds. A debate costs as much inference as the vote of the number of samples given here.`)];
  });
}

// ---- compute, training, comparisons, configuration

function compute() {
  if (!D.costs.length) return null;
  const arms = D.arms.map((_, a) => a).filter((a) => D.costs.some((c) => c.a === a));
  const sum = (a, training, key) => {
    const of = D.costs.filter((c) => c.a === a && c.training === training && isNumber(c[key]));
    return of.length ? of.reduce((s, c) => s + c[key], 0) : null;
  };
  const parameters = (a) => D.runs[D.arms[a].run].parameters[D.arms[a].label.replace(`${D.runs[D.arms[a].run].name}: `, "")];
  const columns = [{ head: "" }, { head: "adapter parameters", number: true }, { head: "prompt tokens", number: true }, { head: "sampled tokens", number: true }, { head: "gradient tokens", number: true }, { head: "training FLOP", number: true }, { head: "evaluation FLOP", number: true }, { head: "training time", number: true }];
  const rows = arms.map((a) => [armName(a), large(parameters(a)), large(sum(a, true, "prompt")), large(sum(a, true, "sampled")), large(sum(a, true, "gradient")), large(sum(a, true, "flop")), large(sum(a, false, "flop")), duration(sum(a, true, "s"))]);
  const phases = [...new Set(D.costs.map((c) => c.phase))];
  const detail = arms.flatMap((a) => phases.filter((p) => D.costs.some((c) => c.a === a && c.phase === p)).map((p) => {
    const of = (key) => { const found = D.costs.filter((c) => c.a === a && c.phase === p && isNumber(c[key])); return found.length ? found.reduce((s, c) => s + c[key], 0) : null; };
    return [armName(a), p, large(of("prompt")), large(of("sampled")), large(of("gradient")), large(of("flop")), duration(of("s"))];
  }));
  return [
    table(columns, rows, "Compute"),
    el("details", {}, el("summary", {}, "By phase"), table([{ head: "" }, { head: "phase" }, { head: "prompt tokens", number: true }, { head: "sampled tokens", number: true }, { head: "gradient tokens", number: true }, { head: "FLOP", number: true }, { head: "time", number: true }], detail, "Compute by phase")),
    el("p", { class: "note" }, "Sums over iterations, means over seeds. Inference is 2·P FLOP a prompt or sampled token, training 4·P a token of a sequence with gradients (the base is frozen); P counts base and adapter. Tokens are counted as requested, before any sharing between requests. Times are of each lane; lanes run at the same time, so they do not add up."),
  ];
}

function training() {
  if (!D.lessons.length) return null;
  return live(() => {
    const arms = [...state.shown].sort((a, b) => a - b).filter((a) => D.lessons.some((l) => l.a === a));
    const figures = arms.map((a) => {
      const own = D.lessons.filter((l) => l.a === a);
      const adapters = [...new Set(own.map((l) => l.adapter))];
      const series = adapters.map((adapter, n) => {
        let step = 0;
        const made = own.filter((l) => l.adapter === adapter).sort((x, y) => x.i - y.i).flatMap((l) => l.loss.map((y) => ({ x: ++step, y })));
        return { label: adapter, a: n, points: made, thin: true, dash: adapter.startsWith("critic") ? "3 3" : "" };
      });
      const options = { title: `${armLabel(a)}: loss`, series, height: 190, xLabel: "optimizer steps", xName: "step" };
      const rows = own.map((l) => [l.adapter, l.i, l.examples, l.mix === null ? "" : l.mix.toFixed(2), l.loss.length, large(l.tokens), l.loss.length ? `${l.loss[0].toFixed(3)} → ${l.loss[l.loss.length - 1].toFixed(3)}` : "no data"]);
      return el("figure", { class: "small" }, el("figcaption", {}, el("b", {}, armLabel(a)), el("span", {}, ` loss, seed ${own[0].seed}` + (adapters.some((x) => x.startsWith("critic")) ? "; critics dotted" : ""))), chart(options),
        el("details", {}, el("summary", {}, "Training sets"), table([{ head: "adapter" }, { head: "iteration", number: true }, { head: "examples", number: true }, { head: "w", number: true }, { head: "steps", number: true }, { head: "tokens", number: true }, { head: "loss" }], rows, `Training sets of ${armLabel(a)}`)));
    });
    return [chips((a) => D.lessons.some((l) => l.a === a)), el("div", { class: "multiples" }, figures),
      el("p", { class: "note" }, "Loss before each optimizer step, nats a token, iterations one after another. w: the share of corrected trajectories in a critic’s data.")];
  });
}

function comparisons() {
  if (!D.secondary.length && !D.uncompared.length) return null;
  const scale = scaleOf(D.secondary.flatMap((c) => [c.lo, c.hi, 0]));
  const columns = [{ head: "" }, { head: "%", number: true }, { head: "difference, points", number: true }, { head: "" }, { head: "p", number: true }, { head: "p, Holm", number: true }, { head: "detectable", number: true }];
  const row = (c) => [[armName(c.b.a), el("small", {}, `${c.b.label}, iteration ${c.b.i}`)], pct(c.b.v), [el("b", {}, points(c.v)), " ", el("small", {}, `[${points(c.lo)}, ${points(c.hi)}]`)], strip(scale, c.v, c.lo, c.hi, c.b.a, true), pValue(c.p), pValue(c.holm), (100 * c.detectable).toFixed(1)];
  return [
    D.runs.map((_, r) => {
      const of = D.secondary.filter((c) => c.run === r);
      if (!of.length) return null;
      const { a, s } = of[0];
      return [el("p", {}, sideText(a), ` (${s} questions), minus`), table(columns, of.map(row), `Secondary comparisons of ${armLabel(a.a)}`)];
    }),
    [...new Set(D.uncompared.map((u) => u.why))].map((why) =>
      el("p", { class: "note" }, `Not compared: ${D.uncompared.filter((u) => u.why === why).map((u) => armLabel(u.a)).join(", ")}: ${why}.`)),
    D.secondary.length ? el("p", { class: "note" }, "Each arm by its own method at its last iteration, over the seeds that both have, paired by seed and question. Holm’s adjustment holds for all rows of a run together. Detectable: the smallest true difference, in points, that would be found four times in five.") : null,
  ];
}

function configuration() {
  const parts = [];
  if (D.diff.length) {
    const [{ runs, rows }] = D.diff;
    parts.push(el("h3", {}, "What the configurations differ in"), rows.length
      ? table([{ head: "key" }, ...runs.map((r) => ({ head: r }))], rows.map((r) => [el("code", {}, r.key), ...r.values.map((v) => (v === null ? el("small", {}, "not set") : el("code", {}, v)))]), "Keys whose values differ")
      : el("p", {}, "In nothing."));
  }
  const arms = D.arms.map((arm, a) => [armName(a), el("code", {}, arm.recipe), arm.set.length ? arm.set.map(([k, v]) => el("div", {}, el("code", {}, `${k} = ${v}`))) : el("small", {}, "as the run"), plural(arm.seeds.length, "seed") + `: ${arm.seeds.join(", ")}`]);
  parts.push(el("h3", {}, "Arms"), table([{ head: "" }, { head: "recipe" }, { head: "sets" }, { head: "seeds" }], arms, "Arms"));
  for (const run of D.runs) {
    parts.push(el("details", {}, el("summary", {}, D.several ? `${run.name}: the resolved configuration` : "The resolved configuration"), el("pre", { tabindex: "0" }, run.config)));
  }
  return parts;
}

// ---- put together

const SECTIONS = [
  ["answer", "The answer", answer],
  ["tables", "The paper’s tables", paperTables],
  ["accuracy", "Accuracy over iterations", accuracies],
  ["diversity", "Diversity", diversity],
  ["pseudo-labels", "Pseudo-labels and agreement", pseudoLabels],
  ["moves", "How critics move answers", moves],
  ["samples", "Debate or more samples", samples],
  ["compute", "Compute", compute],
  ["training", "Finetuning", training],
  ["comparisons", "Secondary comparisons", comparisons],
  ["configuration", "Configuration", configuration],
  ["debates", "Debates to read", debates],
];

function themeButton() {
  const names = { auto: "◐ as the system", light: "○ light", dark: "● dark" };
  const button = el("button", { type: "button", class: "theme" });
  const stored = () => { try { return localStorage.getItem("colloquy-theme") || "auto"; } catch { return "auto"; } };
  const apply = (theme) => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    button.textContent = names[theme];
    button.dataset.theme = theme;
    button.setAttribute("aria-label", `colours: ${names[theme].slice(2)}`);
  };
  button.addEventListener("click", () => {
    const next = { auto: "light", light: "dark", dark: "auto" }[button.dataset.theme];
    try { localStorage.setItem("colloquy-theme", next); } catch { /* a page from a file may have no storage */ }
    apply(next);
  });
  apply(stored());
  return button;
}

function page() {
  const empty = !D.means.length;
  if (empty) document.getElementById("figures").remove();
  const made = empty ? [SECTIONS.find((s) => s[0] === "configuration")] : SECTIONS;
  const sections = made.map(([id, title, make]) => {
    const content = make();
    return content && el("section", { id, "aria-labelledby": `${id}-title` }, el("h2", { id: `${id}-title` }, title), content);
  }).filter(Boolean);
  const links = sections.map((s) => el("a", { href: `#${s.id}` }, s.querySelector("h2").textContent));
  document.getElementById("page").append(
    el("nav", { "aria-label": "Sections" }, el("div", { class: "links" }, links), themeButton()),
    el("main", {}, top(), empty ? el("p", { class: "warning" }, "Nothing has been measured yet.") : null, sections,
      el("footer", {}, `Written by colloquy ${D.version}. The same numbers as CSV: report.csv, summary.csv, comparisons.csv, measures.csv.`)));
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
  const seen = new IntersectionObserver((entries) => {
    for (const e of entries) if (e.isIntersecting) links.forEach((l) => (l.hash === `#${e.target.id}` ? l.setAttribute("aria-current", "true") : l.removeAttribute("aria-current")));
  }, { rootMargin: "-20% 0px -70% 0px" });
  sections.forEach((s) => seen.observe(s));
}
page();
