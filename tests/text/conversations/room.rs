//! Texts that are refused by their length, before they are tokenized.

use colloquy::error::Error;
use colloquy::text::{ChatOptions, ChatTokenizer, Codec, Message, Reading};
use serde_json::{Value, json};

use crate::common::folders::{Folder, tokenizer};

/// 64 tokens, of which the longest, `<|im_start|>`, has 12 bytes.
const MOST: usize = 64 * 12;

fn codec(tokenizer: &Value) -> ChatTokenizer {
    let template = "{% for m in messages %}{{ m.content }}{% endfor %}";
    Folder::new(tokenizer, json!({"chat_template": template})).open().unwrap()
}

/// The most bytes of `text`, repeated, that are tokenized.
fn most(codec: &ChatTokenizer, text: &str) -> usize {
    let fits = |n: usize| match codec.encode_text(&text.repeat(n)) {
        Err(Error::TooLong { .. }) => false,
        found => !found.unwrap().is_empty(),
    };
    let (mut low, mut high) = (1, 1 << 21);
    while low + 1 < high {
        let middle = (low + high) / 2;
        if fits(middle) { low = middle } else { high = middle }
    }
    low * text.len()
}

#[test]
fn a_text_longer_than_any_that_fits_is_refused_by_its_bytes() {
    let codec = codec(&tokenizer(&[], false));
    assert_eq!(codec.encode_text(&"<|im_start|>".repeat(64)).unwrap().len(), 64, "the longest that fits");
    assert_eq!(most(&codec, "a"), MOST);
    let long = "a".repeat(MOST + 1);
    let errors = [
        codec.encode_text(&long).unwrap_err(),
        codec.encode_continuation(&long).unwrap_err(),
        codec.prompt(&[Message::user(&*long)]).unwrap_err(),
        codec.training(&[Message::user(&*long)]).unwrap_err(),
        codec
            .conversation_as(&[Message::user(&*long)], &ChatOptions::default(), Reading::Tokens)
            .unwrap_err(),
        codec.completed(&[], &long, Reading::Tokens).unwrap_err(),
        codec.completed(&[], &long, Reading::Text).unwrap_err(),
        codec.open_text(&long, Reading::Text).unwrap_err(),
    ];
    for e in errors {
        assert!(matches!(e, Error::TooLong { .. }), "{e}");
        let e = e.to_string();
        assert!(e.contains("tokenizer.json: found a text of ") && e.contains("expected at most 768"), "{e}");
        assert!(e.contains("a context of 64 tokens, of which the longest has 12 bytes"), "{e}");
    }
    assert_eq!(codec.text(&long).unwrap().len(), MOST + 1, "our own texts may be cut afterwards");
}

#[test]
fn what_a_tokenizer_leaves_out_does_not_count() {
    let with = |field: &str, value: Value| {
        let mut changed = tokenizer(&[], false);
        changed[field] = value;
        most(&codec(&changed), " ")
    };
    let normal = |part: Value| with("normalizer", part);
    assert_eq!(normal(json!({"type": "NFKC"})), 16 * MOST);
    assert_eq!(
        normal(json!({"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]})),
        256 * MOST
    );
    let shorter = json!({"type": "Replace", "pattern": {"String": "abc"}, "content": "d"});
    assert_eq!(normal(shorter), 3 * MOST);
    assert_eq!(normal(json!({"type": "Replace", "pattern": {"String": "a"}, "content": ""})), 1024 * MOST);
    let mut strips = tokenizer(&[], false);
    strips["added_tokens"][1]["rstrip"] = json!(true);
    let codec = codec(&strips);
    let spaces = format!("<|im_start|>{}a", " ".repeat(10 * MOST));
    assert_eq!(codec.encode_text(&spaces).unwrap(), [257, 97], "a token may take in any whitespace");
    assert!(codec.encode_text(&"a ".repeat(MOST + 1)).is_err());
}
