//! Token ids of texts and conversations, loss, decoding and stop strings with tokenizers of the families' kinds, as transformers has them
//! (tests/data/tokens).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use colloquy::model::{ModelConfig, ModelFiles};
use colloquy::text::{ChatTokenizer, Codec, Message, cut_at_stop, whole_characters};
use serde::Deserialize;
use serde_json::json;
use tempfile::TempDir;
use tokenizers::Tokenizer;

#[derive(Deserialize)]
struct Table {
    conversations: BTreeMap<String, Vec<Message>>,
    families: BTreeMap<String, Family>,
}

#[derive(Deserialize)]
struct Family {
    template: String,
    bos_token: Option<String>,
    eos_token: String,
    ends: Vec<u32>,
    texts: Vec<Text>,
    decoded: Vec<Decoded>,
    conversations: Vec<Conversation>,
}

#[derive(Deserialize)]
struct Text {
    text: String,
    ids: Vec<u32>,
    /// Without those that the tokenizer puts around a text.
    without_special: Vec<u32>,
}

#[derive(Deserialize)]
struct Decoded {
    ids: Vec<u32>,
    text: String,
}

#[derive(Deserialize)]
struct Conversation {
    conversation: String,
    /// Without the last turn, and waiting for it.
    add_generation_prompt: bool,
    /// None where the template refuses the conversation.
    ids: Option<Vec<u32>>,
}

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

fn table() -> Table {
    serde_json::from_str(&std::fs::read_to_string(data().join("tokens/expected.json")).unwrap()).unwrap()
}

/// A codec and, to see special tokens too, its tokenizer.
struct Opened {
    codec: ChatTokenizer,
    raw: Tokenizer,
}

impl Opened {
    fn new(name: &str, family: &Family) -> Self {
        let folder = TempDir::new().unwrap();
        let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
        let config = json!({
            "model_type": "llama", "vocab_size": 2000, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 1, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "eos_token_id": family.ends
        });
        let tokenizer = std::fs::read_to_string(data().join(format!("tokens/{name}.json"))).unwrap();
        let template = std::fs::read(data().join(format!("chat_templates/{}.jinja", family.template))).unwrap();
        write("config.json", config.to_string().as_bytes());
        write("model.safetensors", &[&2u64.to_le_bytes()[..], b"{}"].concat());
        write("tokenizer.json", tokenizer.as_bytes());
        write("tokenizer_config.json", json!({"bos_token": family.bos_token, "eos_token": family.eos_token}).to_string().as_bytes());
        write("chat_template.jinja", &template);
        let files = ModelFiles::open(folder.path()).unwrap();
        let codec = ChatTokenizer::new(&files, &ModelConfig::read(&files).unwrap()).unwrap();
        Self { codec, raw: Tokenizer::from_str(&tokenizer).unwrap() }
    }

    /// Text with its special tokens.
    fn shown(&self, ids: &[u32]) -> String {
        self.raw.decode(ids, false).unwrap()
    }
}

fn families() -> (BTreeMap<String, Vec<Message>>, Vec<(String, Family, Opened)>) {
    let table = table();
    let opened = table.families.into_iter().map(|(name, family)| {
        let opened = Opened::new(&name, &family);
        (name, family, opened)
    });
    (table.conversations, opened.collect())
}

#[test]
fn texts_have_the_tokens_of_transformers() {
    for (name, family, opened) in families().1 {
        for row in &family.texts {
            assert_eq!(opened.codec.encode_text(&row.text).unwrap(), row.ids, "{name}: {:?}", row.text);
        }
        assert!(family.texts.len() > 10);
    }
}

#[test]
fn a_continuation_goes_on_where_the_text_ended() {
    for (name, family, opened) in families().1 {
        let before = opened.codec.encode_text("Hello").unwrap();
        let spaced = ["llama-2", "mistral", "phi-3", "zephyr"].contains(&&*name);
        for row in &family.texts {
            let continued = opened.codec.encode_continuation(&row.text).unwrap();
            if !spaced {
                assert_eq!(continued, row.without_special, "{name}: {:?}", row.text);
            }
            if !row.text.contains('<') && !row.text.contains('▁') {
                let both = [&before[..], &continued].concat();
                assert_eq!(opened.codec.decode(&both).unwrap(), format!("Hello{}", row.text), "{name}");
            }
        }
    }
}

#[test]
fn tokens_have_the_text_of_transformers() {
    let mut replaced = 0;
    for (name, family, opened) in families().1 {
        for row in &family.decoded {
            assert_eq!(opened.codec.decode(&row.ids).unwrap(), row.text, "{name}: {:?}", row.ids);
            replaced += usize::from(row.text.contains('\u{fffd}'));
        }
    }
    assert!(replaced > 20, "bytes that are no UTF-8 are among them");
}

#[test]
fn conversations_have_the_tokens_of_transformers() {
    let (conversations, families) = families();
    for (name, family, opened) in &families {
        let mut compared = 0;
        for row in &family.conversations {
            let mut talk = conversations[&row.conversation].clone();
            let found = if row.add_generation_prompt {
                opened.codec.prompt(&talk[..talk.len() - 1])
            } else {
                // Qwen3 shows the thoughts of the last turn only: no other can have a loss.
                let last = talk.len() - 1;
                talk[..last].iter_mut().for_each(|m| m.weight = (name == "qwen3").then_some(0.0.into()));
                opened.codec.training(&talk).map(|(tokens, _)| tokens)
            };
            let at = format!("{name}, {}, asking {}", row.conversation, row.add_generation_prompt);
            match (&row.ids, found) {
                (Some(theirs), Ok(ours)) => {
                    assert_eq!(opened.shown(&ours), opened.shown(theirs), "{at}");
                    assert_eq!(&ours, theirs, "{at}");
                    compared += 1;
                }
                (None, Err(e)) => assert!(e.to_string().contains("chat_template.jinja: line 1: "), "{at}: {e}"),
                (theirs, ours) => panic!("{at}: ours {ours:?}, theirs {theirs:?}"),
            }
        }
        assert!(compared >= 8, "{name}");
    }
}
