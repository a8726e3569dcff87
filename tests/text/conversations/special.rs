//! Special tokens that tokenizer.json lacks. Expected ids are those of transformers 5.24.

use colloquy::text::{ChatTokenizer, Codec, Message};
use serde_json::{Value, json};

use crate::common::folders::{Folder, tokenizer};

/// A special token as `added_tokens_decoder` has it.
fn token(content: &str) -> Value {
    json!({"content": content, "special": true, "lstrip": false, "rstrip": false, "normalized": false, "single_word": false})
}

/// A folder whose tokenizer.json has 259 tokens, of which the last three are `<s>`, `<|im_start|>`,
/// `<|im_end|>`.
fn folder(config: Value) -> Folder {
    Folder::new(&tokenizer(&[], false), config)
}

fn ids(codec: &ChatTokenizer, text: &str) -> Vec<u32> {
    codec.encode_continuation(text).unwrap()
}

const TURNS: &str = "{% for m in messages %}<|turn|>{{ m.role }}:{{ m.content }}<|stop|>{% endfor %}";

#[test]
fn listed_tokens_of_tokenizer_config_are_tokens() {
    let list = json!({"259": token("<|turn|>"), "260": token("<|stop|>")});
    let config = json!({"added_tokens_decoder": list, "eos_token": "<|stop|>", "chat_template": TURNS});
    let codec = folder(config).open().unwrap();
    let tokens = codec.training(&[Message::user("a"), Message::assistant("b")]).unwrap().0;
    let text = |role: &str, content: &str| {
        let mut ids = vec![259];
        ids.extend(format!("{role}:{content}").bytes().map(u32::from));
        ids.push(260);
        ids
    };
    assert_eq!(tokens, [text("user", "a"), text("assistant", "b")].concat());
    assert_eq!(codec.decode(&tokens).unwrap(), "user:aassistant:b", "they are special");
}

#[test]
fn a_list_changes_the_properties_of_known_tokens() {
    let mut strips = token("<s>");
    strips["lstrip"] = json!(true);
    let codec = folder(json!({"added_tokens_decoder": {"256": strips}})).open().unwrap();
    assert_eq!(ids(&codec, "a  <s>b"), [97, 256, 98]);
}

#[test]
fn named_tokens_are_numbered_after_the_vocabulary() {
    let config = json!({
        "eos_token": "<|stop|>", "bos_token": {"content": "<s>"}, "pad_token": "[X]", "image_token": "<image>",
        "add_bos_token": true, "additional_special_tokens": ["<|turn|>", "<|im_end|>"]
    });
    let codec = folder(config).open().unwrap();
    assert_eq!(ids(&codec, "<|stop|>[X]<image><|turn|><|im_end|><s>"), [259, 260, 261, 262, 258, 256]);
    // Of both names for tokens without a name, the newer one counts.
    let config = json!({"additional_special_tokens": ["<a>"], "extra_special_tokens": ["<b>"]});
    assert_eq!(ids(&folder(config).open().unwrap(), "<b><a>"), [259, 60, 97, 62]);
    let config =
        json!({"extra_special_tokens": {"video_token": "<v>"}, "chat_template": "{{ video_token }}"});
    let codec = folder(config).open().unwrap();
    assert_eq!(codec.prompt(&[Message::user("")]).unwrap(), [259]);
}

#[test]
fn special_tokens_map_overrides_tokenizer_config() {
    let map = json!({
        "bos_token": "<s>", "eos_token": {"content": "<|stop|>", "rstrip": true},
        "additional_special_tokens": ["<|turn|>"]
    });
    let config = json!({"eos_token": "<|im_end|>", "chat_template": "{{ bos_token }}a{{ eos_token }}  b"});
    let codec = folder(config.clone()).with("special_tokens_map.json", &map).open().unwrap();
    assert_eq!(codec.prompt(&[Message::user("")]).unwrap(), [256, 97, 259, 98]);
    assert_eq!(ids(&codec, "<|turn|>"), [260]);
    // Where tokenizer_config.json lists added tokens, transformers does not read the map.
    let mut listed = config;
    listed["added_tokens_decoder"] = json!({"258": token("<|im_end|>")});
    let codec = folder(listed).with("special_tokens_map.json", &map).open().unwrap();
    assert_eq!(codec.prompt(&[Message::user("")]).unwrap(), [97, 258, 32, 32, 98]);
}

#[test]
fn tokens_of_added_tokens_json_are_tokens() {
    let added = json!({"<|turn|>": 259, "<|stop|>": 260});
    let codec = folder(json!({"eos_token": "<|stop|>"})).with("added_tokens.json", &added).open().unwrap();
    assert_eq!(ids(&codec, "<|turn|>a<|stop|>"), [259, 97, 260]);
    assert_eq!(codec.decode(&[259, 97, 260]).unwrap(), "<|turn|>a", "without a name it is not special");
}

#[test]
fn a_token_with_two_ids_is_refused() {
    let list = json!({"259": token("<|turn|>"), "265": token("<|stop|>")});
    let e = folder(json!({"added_tokens_decoder": list})).open().err().unwrap().to_string();
    assert!(
        e.contains("tokenizer_config.json, field added_tokens_decoder: found token \"<|stop|>\" with id 265, expected 260"),
        "{e}"
    );
    let added = json!({"<|im_end|>": 3});
    let e = folder(json!({})).with("added_tokens.json", &added).open().err().unwrap().to_string();
    assert!(e.contains("added_tokens.json: found token \"<|im_end|>\" with id 3, expected 258"), "{e}");
}

#[test]
fn wrong_files_are_named() {
    let error = |folder: Folder| folder.open().err().unwrap().to_string();
    for (config, expected) in [
        (
            json!({"added_tokens_decoder": {"x": token("a")}}),
            "field added_tokens_decoder: found \"x\", expected an id",
        ),
        (json!({"added_tokens_decoder": {"3": "a"}}), "field added_tokens_decoder: found \"a\", expected"),
        (json!({"additional_special_tokens": 3}), "field additional_special_tokens: found 3, expected"),
        (json!({"additional_special_tokens": [3]}), "field additional_special_tokens: found 3, expected"),
    ] {
        let e = error(folder(config));
        assert!(e.contains("tokenizer_config.json") && e.contains(expected), "{e}");
    }
    let e = error(folder(json!({})).with("special_tokens_map.json", &json!({"eos_token": 5})));
    assert!(e.contains("special_tokens_map.json, field eos_token: found 5, expected a string"), "{e}");
    let e = error(folder(json!({})).with("added_tokens.json", &json!({"<a>": "x"})));
    assert!(e.contains("added_tokens.json, field <a>: found \"x\", expected an id"), "{e}");
}
