//! Model folders without weights, for tests of tokenizers and chat templates.

use colloquy::model::{ModelConfig, ModelFiles};
use colloquy::text::{ChatTokenizer, Message};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// GPT-2's printable stand-in of a byte.
pub fn byte_char(byte: u8) -> char {
    let printable = |b: u8| matches!(b, 33..=126 | 161..=172 | 174..=255);
    if printable(byte) {
        return char::from(byte);
    }
    char::from_u32(256 + (0..byte).filter(|&b| !printable(b)).count() as u32).unwrap()
}

pub fn pieces(text: &str) -> String {
    text.bytes().map(byte_char).collect()
}

/// A byte-level tokenizer: ids 0 to 255 are bytes, then `merges` in order, then the special tokens
/// `<s>`, `<|im_start|>`, `<|im_end|>`. With `add_bos`, `<s>` is put before plain text.
pub fn tokenizer(merges: &[(&str, &str)], add_bos: bool) -> Value {
    let mut vocab = Map::new();
    for byte in 0..=255u8 {
        vocab.insert(byte_char(byte).to_string(), json!(byte));
    }
    let mut rules = Vec::new();
    for (a, b) in merges {
        vocab.insert(pieces(a) + &pieces(b), json!(vocab.len()));
        rules.push(json!([pieces(a), pieces(b)]));
    }
    let first = vocab.len();
    let special = |(i, text): (usize, &&str)| json!({"id": first + i, "content": text, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    let added: Vec<Value> = ["<s>", "<|im_start|>", "<|im_end|>"].iter().enumerate().map(special).collect();
    let bos = json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [first], "tokens": ["<s>"]}}
    });
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": if add_bos { bos } else { Value::Null },
        "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": rules}
    })
}

pub struct Folder {
    pub folder: TempDir,
    pub config: ModelConfig,
}

impl Folder {
    /// A model folder without weights. The last of the tokenizer's ids, `<|im_end|>`, ends a
    /// sequence.
    pub fn new(tokenizer: &Value, tokenizer_config: Value) -> Self {
        let folder = TempDir::new().unwrap();
        let eos = 255 + tokenizer["model"]["merges"].as_array().unwrap().len() + 3;
        let config = json!({
            "model_type": "llama", "vocab_size": 300, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 1, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "eos_token_id": eos
        });
        let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
        write("config.json", config.to_string().as_bytes());
        write("model.safetensors", &[&2u64.to_le_bytes()[..], b"{}"].concat());
        write("tokenizer.json", tokenizer.to_string().as_bytes());
        write("tokenizer_config.json", tokenizer_config.to_string().as_bytes());
        let files = ModelFiles::open(folder.path()).unwrap();
        let config = ModelConfig::read(&files).unwrap();
        Self { folder, config }
    }

    pub fn open(&self) -> colloquy::error::Result<ChatTokenizer> {
        ChatTokenizer::new(&ModelFiles::open(self.folder.path()).unwrap(), &self.config)
    }

    /// The same folder with one more file, or another one in its place.
    pub fn with(self, name: &str, content: &Value) -> Self {
        std::fs::write(self.folder.path().join(name), content.to_string()).unwrap();
        self
    }
}

/// A message of any role.
pub fn says(role: &str, content: &str) -> Message {
    Message { role: role.into(), ..Message::user(content) }
}
