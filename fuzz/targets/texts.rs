//! Tokenizers and chat templates.

use std::cell::OnceCell;

use colloquy::engine::StopRules;
use colloquy::model::{ModelConfig, ModelFiles};
use colloquy::text::{ChatTemplate, ChatTokenizer, Codec, Message};

const CONFIG: &[u8] = include_bytes!("../../assets/model/config.json");

/// What the tokenizer is to read.
const TEXTS: [&str; 6] = [
    "",
    "2+2=4",
    " The  result\nof 3*4 is 12. ",
    "äöü \u{1f642} \u{fffd}e\u{301}",
    "<|endoftext|></s>[UNK]",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
];

/// A tokenizer that is accepted reads texts as tokens that the model has, and writes them again.
pub fn tokenizer_json(input: &[u8]) {
    thread_local!(static FOLDER: OnceCell<tempfile::TempDir> = const { OnceCell::new() });
    FOLDER.with(|folder| {
        let folder = folder.get_or_init(|| {
            let folder = super::folder();
            std::fs::write(folder.path().join("config.json"), CONFIG).expect("a file");
            std::fs::write(folder.path().join("model.safetensors"), b"\x02\0\0\0\0\0\0\0{}").expect("a file");
            folder
        });
        std::fs::write(folder.path().join("tokenizer.json"), input).expect("a file");
        let files = ModelFiles::open(folder.path()).expect("the folder of a model");
        let config = ModelConfig::read(&files).expect("a model");
        let Ok(tokenizer) = ChatTokenizer::new(&files, &config) else { return };
        for text in TEXTS {
            for tokens in
                [tokenizer.encode_text(text), tokenizer.encode_continuation(text)].into_iter().flatten()
            {
                assert!(tokens.iter().all(|t| (*t as usize) < config.vocab_size), "{text:?}: {tokens:?}");
                let _ = tokenizer.decode(&tokens);
                let mut watch = tokenizer.watch(&["4".into(), "\n".into()]);
                assert!(tokens.iter().filter(|t| watch(**t)).count() <= tokens.len());
            }
        }
        let _ = tokenizer.decode(&[0, 1, config.vocab_size as u32 - 1, u32::MAX]);
    });
}

/// A template ends, with a text or an error.
pub fn chat_template(input: &[u8]) {
    let mut parts = super::parts(input).into_iter().map(String::from_utf8_lossy);
    let source = parts.next().unwrap_or_default();
    let special = ["bos_token", "eos_token"].map(|name| (name.to_string(), format!("<{name}>")));
    let Ok(template) = ChatTemplate::new(&source, special.to_vec(), "chat_template.jinja".into()) else {
        return;
    };
    let mut messages = vec![Message::user("What is 2+2?"), Message::assistant("It's \"4\".")];
    messages.extend(parts.take(8).map(Message::user));
    let waiting = template.render(&messages, true);
    assert_eq!(
        waiting.is_ok(),
        template.render(&messages, true).is_ok(),
        "rendered twice, it is another text"
    );
    let _ = template.render(&messages[..1], false);
}
