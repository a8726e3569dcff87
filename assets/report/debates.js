// Debates side by side: one question before training and after it.

function debates() {
  const lanes = D.lanes.filter((l) => l.pairs.length);
  if (!lanes.length) return null;
  const state = { lane: 0, filter: "all", at: 0 };
  const kind = ([b, a]) => `${D.debates[b].right ? "right" : "wrong"}-${D.debates[a].right ? "right" : "wrong"}`;
  const filters = [
    { id: "all", label: "all", keep: () => true },
    { id: "gained", label: "wrong → right", keep: (p) => kind(p) === "wrong-right" },
    { id: "lost", label: "right → wrong", keep: (p) => kind(p) === "right-wrong" },
    { id: "same", label: "unchanged", keep: (p) => ["right-right", "wrong-wrong"].includes(kind(p)) },
  ];
  const host = el("div", { class: "debates" });
  const draw = (focus) => {
    const lane = lanes[state.lane];
    const filter = filters.find((f) => f.id === state.filter);
    const chosen = lane.pairs.filter(filter.keep);
    state.at = Math.max(0, Math.min(state.at, chosen.length - 1));
    const move = (by) => { state.at = (state.at + by + chosen.length) % chosen.length; draw(by > 0 ? "next" : "previous"); };
    const head = el("div", { class: "controls" },
      select("Arm", lanes.map((l, i) => ({ id: i, label: D.arms[l.a].label })), state.lane, (v) => { state.lane = +v; state.at = 0; draw(); }),
      segmented("Vote", filters.map((f) => {
        const n = lane.pairs.filter(f.keep).length;
        return { id: f.id, label: `${f.label} (${n})`, disabled: !n };
      }), state.filter, (v) => { state.filter = v; state.at = 0; draw(); }));
    const body = [head, el("p", { class: "note" },
      `${lane.pairs.length} of ${lane.questions} ${lane.split} questions, seed ${lane.seed}, those whose vote changed first. ` +
      `Of all ${lane.questions}, ${lane.right} went from wrong to right and ${lane.wrong} from right to wrong.`)];
    if (chosen.length) {
      const [before, after] = chosen[state.at].map((i) => D.debates[i]);
      body.push(el("div", { class: "pager" },
        el("button", { type: "button", id: "previous", onclick: () => move(-1), "aria-label": "previous question" }, "←"),
        select("Question", chosen.map((p, i) => ({ id: i, label: `${i + 1}. ${brief(D.debates[p[0]].question)}` })), state.at, (v) => { state.at = +v; draw(); }),
        el("button", { type: "button", id: "next", onclick: () => move(1), "aria-label": "next question" }, "→")));
      body.push(el("blockquote", { class: "question" }, el("p", {}, before.question),
        el("footer", {}, "reference answer ", el("b", {}, String(before.reference ?? "none")))));
      body.push(el("div", { class: "sides" }, side("Before training", before), side(`After iteration ${lane.i}`, after)));
    }
    host.replaceChildren(...body);
    if (focus) document.getElementById(focus)?.focus();
  };
  draw();
  return host;
}

const brief = (text) => { const line = String(text ?? "").replace(/\s+/g, " "); return line.length > 60 ? line.slice(0, 59) + "…" : line; };

function verdict(right) {
  return el("span", { class: right ? "right" : "wrong" }, right ? "✓ right" : "✗ wrong");
}

const LETTERS = {
  1: ["right", "✓"], 0: ["wrong", "✗"], "-": ["none", "no answer"], t: ["none", "cut off"], m: ["none", "no room in the context"],
};

function side(title, debate) {
  return el("section", { class: "side" }, el("h3", {}, title, " ", verdict(debate.right)),
    debate.rounds.map((round, m) => el("div", { class: "round" },
      el("h4", {}, `Round ${m + 1}`),
      round.turns.map((turn, n) => {
        const letter = LETTERS[(round.o || "")[n]];
        const answer = turn.answer === null || turn.answer === undefined ? null : turn.answer;
        return el("article", { class: "turn" },
          el("header", {}, el("span", { class: "agent" }, `agent ${n + 1}`),
            el("span", { class: letter ? letter[0] : "none" }, answer ?? "", answer !== null && letter ? " " : "", letter ? letter[1] : answer === null ? "no answer" : "")),
          turn.read ? el("details", {}, el("summary", {}, "what it read of the others"), el("p", { class: "said" }, turn.read)) : null,
          turn.text === null ? el("p", { class: "said missing" }, `said nothing: ${turn.missing || "no room in the context"}`)
            : el("p", { class: "said" }, turn.text, turn.cut ? el("span", { class: "cut" }, " ✂ cut off by length") : null));
      }),
      el("p", { class: "vote" }, "vote ", el("b", {}, String(round.vote ?? "none")), ` by ${round.votes} of ${round.turns.length}`))));
}
