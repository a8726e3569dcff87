//! Answers: found in a response, and compared.

use std::cell::OnceCell;

use colloquy::run::TaskSection;
use colloquy::task::Reader;

const EXTRACTIONS: [(&str, Option<&str>); 6] = [
    ("boxed", None),
    ("last-number", None),
    ("number-after", None),
    ("number-after", Some("####")),
    ("choice", None),
    ("regex", Some(r"answer:?\s*(.*)")),
];

/// Two responses, or two answers, of which the canonical forms say whether they are the same.
pub fn answers(input: &[u8]) {
    thread_local!(static READERS: OnceCell<Vec<Reader>> = const { OnceCell::new() });
    let parts = super::parts(input);
    let texts = [0, 1].map(|i| String::from_utf8_lossy(parts.get(i).copied().unwrap_or_default()));
    READERS.with(|readers| {
        for reader in readers.get_or_init(readers_of_all_kinds) {
            let [a, b] = [0, 1].map(|i| {
                let text = &*texts[i];
                let _ = reader.read_among(text, 4);
                let read = reader.read(text);
                assert!(read.as_deref() != Some(""), "an answer that is empty");
                let canonical = reader.canonical(text);
                assert_eq!(canonical, reader.canonical(text), "an answer that is not itself");
                canonical
            });
            // Forms are compared, so it is symmetric and transitive; white space before an answer is none of it. (After one, it may be what a
            // backslash at its end makes a space of.)
            if a == b && a.is_some() {
                assert_eq!(b, reader.canonical(&texts[0]), "equal one way only");
            }
            let spaced = reader.canonical(&format!("  {}", texts[0]));
            assert_eq!(a, spaced, "an answer that is another one with spaces before it");
        }
    });
}

fn readers_of_all_kinds() -> Vec<Reader> {
    let mut readers = Vec::new();
    for equality in ["exact", "number", "choice", "math"] {
        for (extraction, pattern) in EXTRACTIONS {
            let section = TaskSection {
                extraction: Some(extraction.into()),
                pattern: pattern.map(Into::into),
                equality: Some(equality.into()),
                ..TaskSection::default()
            };
            readers.push(Reader::new(&section).expect("a reader"));
        }
    }
    readers
}
