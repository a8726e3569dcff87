//! Texts in which a task should read an answer, to rehearse with.

use regex::Regex;
use regex_syntax::hir::{Class, Hir, HirKind};

use super::answer::{Extraction, Reader};

impl Reader {
    /// Short responses that give `answer`, one or two for each extraction. Whether they are read so is not known.
    pub fn specimens(&self, answer: &str) -> Vec<String> {
        let of = |extraction: &Extraction| match extraction {
            Extraction::Boxed => vec![format!("\\boxed{{{answer}}}")],
            Extraction::LastNumber => vec![answer.to_string()],
            Extraction::NumberAfter(marker) => vec![format!("{marker} {answer}")],
            Extraction::Choice => vec![format!("The answer is ({answer}).")],
            Extraction::Pattern(pattern) => [Some(answer), None].map(|a| matched(pattern, a)).into(),
        };
        self.extractions().iter().flat_map(of).collect()
    }
}

/// A short text that the pattern matches, with `answer` as its first group if there is one.
fn matched(pattern: &Regex, answer: Option<&str>) -> String {
    fn write(hir: &Hir, answer: Option<&str>, text: &mut String) {
        match hir.kind() {
            HirKind::Literal(literal) => text.push_str(&String::from_utf8_lossy(&literal.0)),
            HirKind::Class(class) => text.push(one_of(class)),
            HirKind::Repetition(r) => (0..r.min).for_each(|_| write(&r.sub, answer, text)),
            HirKind::Capture(group) => match answer {
                Some(answer) if group.index == 1 => text.push_str(answer),
                _ => write(&group.sub, answer, text),
            },
            HirKind::Concat(parts) => parts.iter().for_each(|part| write(part, answer, text)),
            HirKind::Alternation(parts) => write(&parts[0], answer, text),
            HirKind::Empty | HirKind::Look(_) => {}
        }
    }
    let mut text = String::new();
    if let Ok(hir) = regex_syntax::parse(pattern.as_str()) {
        write(&hir, answer, &mut text);
    }
    text
}

/// A digit or a letter if the class has one.
fn one_of(class: &Class) -> char {
    let has = |c: char| match class {
        Class::Unicode(class) => class.iter().any(|range| (range.start()..=range.end()).contains(&c)),
        Class::Bytes(class) => class.iter().any(|range| (range.start()..=range.end()).contains(&(c as u8))),
    };
    let first = match class {
        Class::Unicode(class) => class.iter().next().map(|range| range.start()),
        Class::Bytes(class) => class.iter().next().map(|range| char::from(range.start())),
    };
    ['7', '1', 'A', 'a', ' '].into_iter().find(|c| has(*c)).or(first).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::TaskSection;

    #[test]
    fn every_extraction_reads_one_of_its_specimens() {
        for (extraction, pattern, equality, answer) in [
            ("boxed", None, "math", r"\frac{1}{2}"),
            ("boxed, last-number", None, "number", "-3"),
            ("last-number", None, "number", "0.75"),
            ("number-after", Some("the total is"), "number", "12"),
            ("choice", None, "choice", "C"),
            ("regex", Some(r"(?i)Antwort:\s*(\w+)"), "exact", "neun"),
            ("regex", Some(r"^\[[a-f]{3}[0-9]+\]$"), "exact", "none of these"),
        ] {
            let section = TaskSection {
                extraction: Some(extraction.parse().unwrap()),
                pattern: pattern.map(Into::into),
                equality: Some(equality.parse().unwrap()),
                ..TaskSection::default()
            };
            let reader = Reader::new(&section).unwrap();
            let read: Vec<_> = reader.specimens(answer).iter().filter_map(|text| reader.read(text)).collect();
            assert!(!read.is_empty(), "{extraction} {pattern:?}");
            if !answer.starts_with("none") {
                assert_eq!(read[0], reader.canonical(answer).unwrap(), "{extraction} {pattern:?}");
            }
        }
    }
}
