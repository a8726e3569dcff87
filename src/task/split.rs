//! Which split a question belongs to: a function of its text alone.

use sha2::{Digest, Sha256};

/// Parts of a set of questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// What the embedded model was trained on; never asked.
    Pretrain,
    /// Debated and learned from.
    Train,
    /// For measuring.
    Dev,
    /// For measuring at the end.
    Test,
}

impl Split {
    /// Of an arithmetic expression: 0-69 pretrain, 70-79 train, 80-89 dev, 90-99 test (the rule by which the embedded
    /// model was trained).
    pub fn of_expression(text: &str) -> Self {
        match residue(text) {
            0..70 => Self::Pretrain,
            70..80 => Self::Train,
            80..90 => Self::Dev,
            _ => Self::Test,
        }
    }

    /// Of a question of a file that holds all splits: 0-79 train, 80-89 dev, 90-99 test.
    pub fn of_question(text: &str) -> Self {
        match residue(text) {
            0..80 => Self::Train,
            80..90 => Self::Dev,
            _ => Self::Test,
        }
    }
}

/// SHA-256 of the text's UTF-8.
pub fn content_hash(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

/// The first 16 hexadecimal digits of [`content_hash`].
pub fn question_id(text: &str) -> String {
    content_hash(text)[..8].iter().map(|b| format!("{b:02x}")).collect()
}

/// The first 8 bytes of [`content_hash`], big-endian, modulo 100.
fn residue(text: &str) -> u64 {
    let hash = content_hash(text);
    u64::from_be_bytes(std::array::from_fn(|i| hash[i])) % 100
}

/// A number by which questions are ordered when fewer than all are taken: bytes 8 to 15 of [`content_hash`].
pub fn rank(text: &str) -> u64 {
    let hash = content_hash(text);
    u64::from_be_bytes(std::array::from_fn(|i| hash[8 + i]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESIDUES: &[(&str, u64)] = &[
        ("27+12*24+28-13*1", 2),
        ("8+16*15+12-29*25", 76),
        ("26+9*15+11-18*28", 14),
        ("29+6*16+4-9*4", 6),
        ("24+3*19+25-8*29", 85),
        ("17+22*25+19-28*4", 63),
        ("9+3*23+2-28*27", 70),
        ("21+10*15+17-3*11", 25),
    ];

    /// `int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 100`, from `tools/embedded/questions.py`.
    #[test]
    fn agrees_with_the_embedded_models_script() {
        for (text, expected) in RESIDUES {
            assert_eq!(residue(text), *expected, "{text}");
        }
        assert_eq!(question_id("abc"), "ba7816bf8f01cfea");
    }

    #[test]
    fn splits_have_their_shares() {
        let mut counts = std::collections::HashMap::new();
        for i in 0..10_000 {
            *counts.entry(Split::of_expression(&format!("{i}+1"))).or_insert(0) += 1;
        }
        assert!((6800..7200).contains(&counts[&Split::Pretrain]), "{counts:?}");
        for split in [Split::Train, Split::Dev, Split::Test] {
            assert!((850..1150).contains(&counts[&split]), "{counts:?}");
        }
    }
}
