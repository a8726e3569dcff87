//! Bounds on what a tokenizer.json may ask for: the tokenizers crate does what such a file says,
//! however deep its parts are nested and however much longer they make a text.

use fancy_regex::RegexBuilder;
use serde::Deserialize;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::files::written_out;

/// Deepest nesting of sequences in sequences; published files have one.
const MAX_DEPTH: usize = 6;
/// Most parts of a field.
const MAX_PARTS: usize = 256;
/// How many times as long a text may become. Published files know `" "` as `"▁"` (3) and bytes
/// spelled as characters (2).
const MAX_GROWTH: u64 = 1024;
/// Most bytes of a compiled regular expression between its look-arounds, of which there may be
/// [`MAX_GROUPS`] in a field. Those of published files have several classes of Unicode.
const SIZE_LIMIT: usize = 2 << 20;
const MAX_GROUPS: usize = 32;
/// Most bytes of a field's regular expressions with their repetitions written out. That of GPT-4o has 1300.
const MAX_PATTERNS: usize = 32 << 10;
/// Where parts have parts in them.
const SEQUENCES: [&str; 4] = ["normalizers", "pretokenizers", "decoders", "processors"];

/// The fields whose parts work on texts.
#[derive(Deserialize)]
struct Pipeline {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
}

/// Refuses a file beyond the bounds; `place` names it. Whether it is a tokenizer at all is for others to say.
pub fn check(bytes: &[u8], place: &str) -> Result<()> {
    let pipeline: Pipeline = serde_json::from_slice(bytes)
        .map_err(|e| Error::input(place, format!("found {e}, expected a Hugging Face tokenizer")))?;
    // What normalizers have made longer, pre-tokenizers make longer still.
    let encodes = [
        ("normalizer", &pipeline.normalizer),
        ("pre_tokenizer", &pipeline.pre_tokenizer),
        ("post_processor", &pipeline.post_processor),
    ];
    for fields in [&encodes[..], &[("decoder", &pipeline.decoder)]] {
        let mut bounds = Bounds::default();
        for (field, value) in fields {
            bounds
                .walk(value, 0)
                .map_err(|problem| Error::input(format!("{place}, field {field}"), problem))?;
        }
    }
    Ok(())
}

struct Bounds {
    parts: usize,
    groups: usize,
    /// Bytes of patterns, written out.
    patterns: usize,
    growth: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { parts: 0, groups: 0, patterns: 0, growth: 1 }
    }
}

impl Bounds {
    fn walk(&mut self, part: &Value, depth: usize) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err(format!("found sequences nested deeper than {MAX_DEPTH}, expected them flat"));
        }
        self.parts += 1;
        if self.parts > MAX_PARTS {
            return Err(format!("found more than {MAX_PARTS} parts, expected fewer"));
        }
        let mut lists = SEQUENCES.iter().filter_map(|key| part.get(key)?.as_array());
        if let Some(list) = lists.next() {
            return list.iter().try_for_each(|part| self.walk(part, depth + 1));
        }
        if let Some(pattern) = part["pattern"]["Regex"].as_str() {
            self.compiles(pattern)?;
        }
        self.growth = self.growth.saturating_mul(growth(part)?);
        match self.growth > MAX_GROWTH {
            false => Ok(()),
            true => Err(format!(
                "found parts that can make a text more than {MAX_GROWTH} times as long, expected fewer of them"
            )),
        }
    }

    /// Whether a pattern is one that takes little memory. What is no pattern is for others to say.
    fn compiles(&mut self, pattern: &str) -> Result<(), String> {
        self.groups += 1 + pattern.matches("(?").count();
        if self.groups > MAX_GROUPS {
            return Err(format!(
                "found more than {MAX_GROUPS} patterns and groups with `(?`, expected fewer"
            ));
        }
        self.patterns = self.patterns.saturating_add(written_out(pattern));
        if self.patterns > MAX_PATTERNS {
            return Err(format!(
                "found patterns of {} bytes with their repetitions written out, expected at most {MAX_PATTERNS}",
                self.patterns
            ));
        }
        match RegexBuilder::new(pattern).delegate_size_limit(SIZE_LIMIT).build() {
            Err(fancy_regex::Error::CompileError(e)) => {
                let shown: String = pattern.chars().take(60).collect();
                Err(format!(
                    "found the pattern {shown:?} ({e}), expected one that takes at most {SIZE_LIMIT} bytes"
                ))
            }
            _ => Ok(()),
        }
    }
}

/// How many times as long a part can make a text, at most: nothing for what is put around it once.
fn growth(part: &Value) -> Result<u64, String> {
    if part["type"] == "ByteLevel" {
        return Ok(2);
    }
    if let Some(charsmap) = part["precompiled_charsmap"].as_str() {
        return of_charsmap(&decoded(charsmap));
    }
    let Some(content) = part["content"].as_str().filter(|_| !part["pattern"].is_null()) else { return Ok(1) };
    let content = content.len() as u64;
    Ok(match part["pattern"]["String"].as_str().map_or(0, str::len) as u64 {
        // What matches nothing matches between all characters too.
        0 => 1 + content,
        replaced => content.div_ceil(replaced).max(1),
    })
}

/// The same for the map of SentencePiece: the size of a table, which is allocated as it says, the
/// table, and texts that end in a zero byte.
fn of_charsmap(map: &[u8]) -> Result<u64, String> {
    let Some((size, rest)) = map.split_first_chunk::<4>() else { return Ok(1) };
    let size = u32::from_le_bytes(*size) as usize;
    let Some(texts) = rest.get(size..) else {
        return Err(format!(
            "found a precompiled_charsmap of {} bytes whose table has {size}, expected it within",
            map.len()
        ));
    };
    let longest = texts.split(|byte| *byte == 0).map(<[u8]>::len).max().unwrap_or(0);
    Ok(longest.max(1) as u64)
}

/// What a text in base64 stands for; what is none of its characters is left out, and makes it no
/// text of base64 for others.
fn decoded(text: &str) -> Vec<u8> {
    let digit = |b: u8| match b {
        b'A'..=b'Z' => Some(b - b'A'),
        b'a'..=b'z' => Some(b - b'a' + 26),
        b'0'..=b'9' => Some(b - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let digits: Vec<u8> = text.bytes().filter_map(digit).collect();
    let bits =
        |four: &[u8]| four.iter().enumerate().fold(0u32, |all, (i, d)| all | u32::from(*d) << (18 - 6 * i));
    digits.chunks(4).flat_map(|four| bits(four).to_be_bytes()[1..four.len()].to_vec()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn error(field: &str, value: Value) -> String {
        let text = json!({"model": {}, field: value}).to_string();
        check(text.as_bytes(), "tokenizer.json").err().map_or(String::new(), |e| e.to_string())
    }

    #[test]
    fn what_grows_is_refused() {
        let space = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
        let prepend = json!({"type": "Prepend", "prepend": "▁"});
        let llama = json!({"type": "Sequence", "normalizers": [prepend, space]});
        assert_eq!(error("normalizer", llama), "");
        let double = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"});
        let doubles = |n: usize, key: &str| json!({"type": "Sequence", key: vec![double.clone(); n]});
        assert_eq!(error("normalizer", doubles(10, "normalizers")), "");
        let e = error("normalizer", doubles(11, "normalizers"));
        assert!(e.starts_with("tokenizer.json, field normalizer: found parts that can make a text"), "{e}");
        assert!(error("decoder", doubles(40, "decoders")).contains("field decoder"));
        let anywhere = json!({"pattern": {"Regex": "x*"}, "content": "b"});
        assert!(error("normalizer", json!({"normalizers": vec![anywhere; 11]})).contains("times as long"));
        let bytes = json!({"type": "Sequence", "pretokenizers": vec![json!({"type": "ByteLevel"}); 11]});
        assert!(error("pre_tokenizer", bytes).contains("times as long"));
        let long = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "a".repeat(2000)});
        assert!(error("normalizer", long).contains("times as long"));
    }

    #[test]
    fn a_charsmap_has_its_table_in_it() {
        assert_eq!(decoded("aGVsbG8="), b"hello");
        assert_eq!(decoded("aGVsbG8h"), b"hello!");
        let map =
            |text: &str| error("normalizer", json!({"type": "Precompiled", "precompiled_charsmap": text}));
        assert!(map("/////wAAAAAA").contains("whose table has 4294967295"));
        assert_eq!(map(""), "");
        // A table of four bytes and the text `aaa`.
        assert_eq!(map("BAAAAAAAAABhYWEA"), "");
    }

    #[test]
    fn depth_and_patterns_are_bounded() {
        let mut deep = json!({"type": "Lowercase"});
        for _ in 0..8 {
            deep = json!({"type": "Sequence", "normalizers": [deep]});
        }
        assert!(error("normalizer", deep).contains("nested deeper"));
        let split =
            |pattern: &str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"});
        let gpt4 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
        assert_eq!(error("pre_tokenizer", split(gpt4)), "");
        assert!(error("pre_tokenizer", split(r"(\w{1000}){1000}")).contains("written out"));
        assert!(error("pre_tokenizer", split(r"(\w{99}){9}")).contains("takes at most"));
        assert!(error("pre_tokenizer", split(&r"(?=\w)".repeat(40))).contains("groups"));
        assert!(
            error("pre_tokenizer", json!({"pretokenizers": vec![split("a"); 300]})).contains("more than")
        );
    }
}
