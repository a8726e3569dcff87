//! The last `\boxed` of a text.

use super::number::closing_brace;

/// The content of the last `\boxed`, else of the last `\fbox`; `None` without one and if that one
/// is empty or never closed.
///
/// As the graders of MATH have it: of boxes within boxes the inner one, and a box without braces
/// (`$\boxed 5$`) goes to the end of its formula. Outside a formula, it is what stands there
/// without a space.
pub fn last_box(text: &str) -> Option<String> {
    boxed(text, r"\boxed").or_else(|| boxed(text, r"\fbox"))
}

fn boxed(text: &str, command: &str) -> Option<String> {
    // Another command may start with the same letters.
    let rest = |at: &usize| &text[at + command.len()..];
    let mut boxes = text.rmatch_indices(command).map(|(at, _)| at);
    let at = boxes.find(|at| !rest(at).starts_with(|c: char| c.is_ascii_alphabetic()))?;
    let behind = rest(&at).trim_start();
    let inside = match behind.strip_prefix('{') {
        Some(_) => {
            let open = text.len() - behind.len() + 1;
            &text[open..closing_brace(text, open)?]
        }
        None => without_braces(behind),
    };
    let inside = inside.trim();
    (!inside.is_empty()).then(|| inside.to_string())
}

/// What a box without braces holds.
fn without_braces(text: &str) -> &str {
    let line = text.split('\n').next().unwrap_or_default();
    let formula = ["$", r"\)", r"\]", r"\end{"].iter().filter_map(|end| line.find(end)).min();
    let inside = match formula {
        Some(end) => &line[..end],
        None => {
            let mut depth = 0;
            let end = line.find(|c: char| {
                depth += i32::from(c == '{') - i32::from(c == '}');
                c.is_whitespace() && depth <= 0
            });
            &line[..end.unwrap_or(line.len())]
        }
    };
    inside.trim().trim_end_matches(['.', ',', ';'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_box_counts_with_and_without_braces() {
        for (text, expected) in [
            (r"\boxed{1}, \boxed{2}", Some("2")),
            (r"\boxed{\boxed{7}}", Some("7")),
            (r"\boxed {a{b}c} d", Some("a{b}c")),
            (r"so $\boxed 5$.", Some("5")),
            (r"so $\boxed5$.", Some("5")),
            (r"so \(\boxed -\frac{1}{2}\).", Some(r"-\frac{1}{2}")),
            (r"$\boxed 3 \text{ cm}$ and $4$", Some(r"3 \text{ cm}")),
            (r"so \boxed 5. Done in 3 steps", Some("5")),
            (r"so \boxed \frac{1 }{2} of it", Some(r"\frac{1 }{2}")),
            (r"\boxed{3} not \boxed 4", Some("4")),
            (r"\boxed 3 not \boxed{4}", Some("4")),
            (r"\boxedx{3} \boxed{4} \boxedx{5}", Some("4")),
            (r"\fbox{9}", Some("9")),
            (r"\fbox{9} \boxed{8}", Some("8")),
            (r"\boxed{5", None),
            (r"\boxed{}", None),
            (r"\boxed", None),
            ("5", None),
        ] {
            assert_eq!(last_box(text).as_deref(), expected, "{text}");
        }
    }
}
