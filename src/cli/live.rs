//! What a person watches: debates as they are told, turn by turn.

use serde_json::Value;

use super::screen::Paint;

const WIDTH: usize = 78;

/// A whole debate, from its transcript record. `right` is the reference answer, if it is known.
pub fn debate(record: &Value, right: Option<&str>, paint: Paint) -> String {
    let mut out = question(record["question"].as_str().unwrap_or_default(), paint);
    for (r, told) in record["rounds"].as_array().into_iter().flatten().enumerate() {
        out.push_str(&round(r + 1, told, right, paint));
    }
    out
}

/// What is debated.
pub fn question(text: &str, paint: Paint) -> String {
    let mut out = String::new();
    section(&mut out, &paint.bold("question"), text.trim());
    out
}

/// Round `r`, counted from 1, from its record: what each agent reads and says, and the vote.
pub fn round(r: usize, record: &Value, right: Option<&str>, paint: Paint) -> String {
    let text = |v: &Value| v.as_str().unwrap_or_default().trim().to_string();
    let mut out = format!("{}\n", paint.dim(&heading(&format!("round {r}"))));
    for turn in record["turns"].as_array().into_iter().flatten() {
        let agent = turn["agent"].as_u64().unwrap_or_default() as usize;
        let name = agent_name(agent, paint);
        if let Some(summary) = turn["summary"]["text"].as_str() {
            section(&mut out, &reads_name(paint), summary.trim());
        }
        match turn["response"]["text"].as_str() {
            Some(said) => section(&mut out, &name, said.trim()),
            None => section(&mut out, &name, &format!("(no response: {})", text(&turn["missing"]))),
        }
        let answer = turn["answer"].as_str();
        section(&mut out, "", &format!("→ {}", graded(answer, right, paint)));
    }
    let vote = &record["vote"];
    let agents = record["turns"].as_array().map_or(0, Vec::len);
    let tie = if vote["tie"].as_bool() == Some(true) { ", a tie" } else { "" };
    section(
        &mut out,
        &paint.bold("vote"),
        &format!(
            "{}, {} of {agents}{tie}",
            graded(vote["answer"].as_str(), right, paint),
            vote["votes"].as_u64().unwrap_or_default(),
        ),
    );
    out
}

/// The label of what an agent says, counted from 0.
pub fn agent_name(agent: usize, paint: Paint) -> String {
    paint.agent(agent, &format!("{:<9}", format!("agent {}", agent + 1)))
}

/// The label of what an agent reads.
pub fn reads_name(paint: Paint) -> String {
    paint.dim(&format!("{:<9}", "reads"))
}

/// The last lines of what an agent is saying.
pub fn tail(text: &str, lines: usize) -> Vec<String> {
    let wrapped: Vec<String> = text.trim().lines().flat_map(|l| wrap(l, WIDTH - 10)).collect();
    wrapped[wrapped.len().saturating_sub(lines)..].to_vec()
}

/// `label: text` in lines that fit, the later ones indented.
pub fn note(label: &str, text: &str) -> String {
    wrap(&format!("{label}: {text}"), WIDTH - 2).join("\n  ")
}

fn graded(answer: Option<&str>, right: Option<&str>, paint: Paint) -> String {
    match (answer, right) {
        (None, _) => paint.bad("no answer"),
        (Some(a), None) => paint.bold(a),
        (Some(a), Some(r)) if a == r => format!("{} {}", paint.good(a), paint.good("✓")),
        (Some(a), Some(r)) => format!("{} {}", paint.bad(a), paint.bad(&format!("✗ (right: {r})"))),
    }
}

/// `── title ─────…`
pub fn heading(title: &str) -> String {
    let used = title.chars().count() + 4;
    format!("── {title} {}", "─".repeat(WIDTH.saturating_sub(used)))
}

/// A label of nine columns and text wrapped beside it.
fn section(out: &mut String, label: &str, text: &str) {
    let plain: usize = visible(label);
    let pad = " ".repeat(10usize.saturating_sub(plain));
    let mut first = true;
    for paragraph in text.lines() {
        for line in wrap(paragraph, WIDTH - 10) {
            let line = if first { format!("{label}{pad}{line}") } else { format!("{:10}{line}", "") };
            out.push_str(line.trim_end());
            out.push('\n');
            first = false;
        }
    }
    if first {
        out.push_str(&format!("{label}{pad}(nothing)\n"));
    }
}

/// Characters of a text, escape sequences left out.
fn visible(text: &str) -> usize {
    let mut count = 0;
    let mut escape = false;
    for c in text.chars() {
        match c {
            '\x1b' => escape = true,
            'm' if escape => escape = false,
            _ if !escape => count += 1,
            _ => {}
        }
    }
    count
}

/// A word in pieces that fit a line; one piece unless it is longer.
fn pieces(word: &str, width: usize) -> Vec<String> {
    if visible(word) <= width || word.contains('\x1b') {
        return vec![word.to_string()];
    }
    let characters: Vec<char> = word.chars().collect();
    characters.chunks(width).map(|piece| piece.iter().collect()).collect()
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut used = 0;
    for word in text.split(' ').flat_map(|word| pieces(word, width)) {
        let length = visible(&word);
        if used > 0 && used + 1 + length > width {
            lines.push(String::new());
            used = 0;
        }
        let line = lines.last_mut().expect("one line at least");
        if used > 0 {
            line.push(' ');
            used += 1;
        }
        line.push_str(&word);
        used += length;
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_debate_is_told_in_full() {
        let record = json!({
            "id": "x", "question": "1+2*3",
            "rounds": [
                {"turns": [
                    {"agent": 0, "prompt": "?", "answer": "9",
                     "response": {"text": "1+2 = 3, 3*3 = 9. The answer is 9."}},
                    {"agent": 1, "prompt": "?", "response": {"text": "word ".repeat(40)}, "answer": null}
                 ], "vote": {"answer": "9", "votes": 1, "tie": false}},
                {"turns": [
                    {"agent": 0, "prompt": "?", "answer": "7",
                     "summary": {"text": "One says 7."}, "response": {"text": "It is 7."}},
                    {"agent": 1, "prompt": "?", "answer": null,
                     "response": null, "missing": "the prompt outgrew the context"}
                 ], "vote": {"answer": "7", "votes": 1, "tie": true}}
            ],
        });
        let told = debate(&record, Some("7"), Paint::plain());
        for part in [
            "question  1+2*3",
            "agent 1   1+2 = 3",
            "→ 9 ✗ (right: 7)",
            "→ no answer",
            "reads     One says 7.",
            "(no response: the prompt outgrew the context)",
            "vote      7 ✓, 1 of 2, a tie",
        ] {
            assert!(told.contains(part), "{part} in\n{told}");
        }
        assert!(told.lines().all(|l| l.chars().count() <= 80), "{told}");
        assert!(!told.contains('\x1b'));
    }

    #[test]
    fn lines_fit_whatever_a_word_s_length() {
        let text = format!("short {} end", "x".repeat(200));
        assert!(note("multiagent/seed-0", &text).lines().all(|l| l.chars().count() <= WIDTH));
        assert_eq!(note("a", &text).replace(['\n', ' '], ""), format!("a:{}", text.replace(' ', "")));
        assert_eq!(tail(&"word ".repeat(100), 2).len(), 2);
        assert_eq!(tail("one\ntwo", 3), ["one", "two"]);
        assert!(tail("", 3).iter().all(String::is_empty));
    }
}
