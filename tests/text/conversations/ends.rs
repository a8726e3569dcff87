//! The end of a sequence: put where a text is trained on, and never between a prompt and its
//! completion.

use colloquy::text::{ChatTokenizer, Reading};
use serde_json::{Value, json};

use crate::common::folders::{Folder, tokenizer};

/// `<s>` is 256, `<|im_start|>` 257, `<|im_end|>`, which ends a sequence by config.json, 258.
fn codec(tokenizer: &Value, config: Value) -> ChatTokenizer {
    Folder::new(tokenizer, config).open().unwrap()
}

#[test]
fn a_text_that_is_trained_on_ends() {
    let plain = codec(&tokenizer(&[], true), json!({}));
    let ended = |codec: &ChatTokenizer, text: &str| codec.ended(codec.encode_text(text).unwrap()).unwrap();
    assert_eq!(ended(&plain, "a"), [256, 97, 258], "by config.json");
    assert_eq!(ended(&plain, "a<|im_end|>"), [256, 97, 258], "once");
    assert_eq!(ended(&plain, "a<|im_end|>b"), [256, 97, 258, 98, 258]);
    let named = codec(&tokenizer(&[], true), json!({"eos_token": "<|im_start|>"}));
    assert_eq!(ended(&named, "a"), [256, 97, 257], "by tokenizer_config.json");
    assert_eq!(
        ended(&named, "a<|im_end|>"),
        [256, 97, 258],
        "any token that ends the model's sequences is an end"
    );
}

#[test]
fn a_model_without_an_end_says_so() {
    let mut folder = Folder::new(&tokenizer(&[], true), json!({}));
    folder.config.eos_token_ids.clear();
    let e = folder.open().unwrap().ended(vec![97]).unwrap_err().to_string();
    assert!(e.contains("found no end-of-sequence token") && e.contains("\"eos\": false"), "{e}");
}

#[test]
fn nothing_stands_between_a_prompt_and_its_completion() {
    let mut both = tokenizer(&[], true);
    let post = &mut both["post_processor"];
    post["single"].as_array_mut().unwrap().push(json!({"SpecialToken": {"id": "<|im_end|>", "type_id": 0}}));
    post["special_tokens"]["<|im_end|>"] =
        json!({"id": "<|im_end|>", "ids": [258], "tokens": ["<|im_end|>"]});
    let codec = codec(&both, json!({}));
    assert_eq!(codec.encode_text("ab").unwrap(), [256, 97, 98, 258]);
    let both = |prompt: &str, completion: &str| {
        let prompt = codec.open_text(prompt, Reading::Tokens).unwrap();
        codec.completed(&prompt, completion, Reading::Tokens).unwrap()
    };
    assert_eq!(both("a", "b"), [256, 97, 98, 258], "as the text of both");
    assert_eq!(codec.ended(both("a", "b")).unwrap(), [256, 97, 98, 258]);
    assert_eq!(
        codec.open_text("ab", Reading::Tokens).unwrap(),
        [256, 97, 98],
        "what is continued has no end"
    );
    assert_eq!(both("", "b"), [256, 98, 258]);
}
