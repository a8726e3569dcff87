//! Tokenizers, chat templates and stop strings of model folders.

use crate::common::folders::{Folder, byte_char, tokenizer};
use colloquy::engine::StopRules;
use colloquy::model::{ModelConfig, ModelFiles};
use colloquy::text::{ChatTokenizer, Codec, Message, cut_at_stop};
use serde_json::json;

const CHATML: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
                      {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

fn chatml(merges: &[(&str, &str)]) -> ChatTokenizer {
    Folder::new(&tokenizer(merges, false), json!({"chat_template": CHATML})).open().unwrap()
}

fn talk() -> Vec<Message> {
    vec![Message::user("1+1?"), Message::assistant("2"), Message::user("sure?"), Message::assistant("yes")]
}

/// The text of the tokens that carry weight `w`.
fn weighted(codec: &ChatTokenizer, tokens: &[u32], weights: &[f32], w: f32) -> Vec<String> {
    tokens.iter().zip(weights).filter(|(_, x)| **x == w).map(|(t, _)| codec.decode(&[*t]).unwrap()).collect()
}

#[test]
fn assistant_turns_carry_the_loss_up_to_their_end_token() {
    let codec = chatml(&[]);
    let (tokens, weights) = codec.training(&talk()).unwrap();
    assert_eq!(tokens.len(), weights.len());
    let end = 258;
    let carried: Vec<u32> =
        tokens.iter().zip(&weights).filter(|(_, w)| **w == 1.0).map(|(t, _)| *t).collect();
    let byte = |b: u8| u32::from(b);
    assert_eq!(carried, [byte(b'2'), end, byte(b'y'), byte(b'e'), byte(b's'), end]);
    assert!(weights.iter().all(|w| *w == 0.0 || *w == 1.0));

    // The prompt for each turn is a prefix of the training sequence, right where the loss begins.
    for turn in [1, 3] {
        let prompt = codec.prompt(&talk()[..turn]).unwrap();
        assert!(tokens.starts_with(&prompt));
        assert_eq!((weights[prompt.len() - 1], weights[prompt.len()]), (0.0, 1.0));
    }
}

#[test]
fn turns_have_weights() {
    let codec = chatml(&[]);
    let mut talk = talk();
    talk[1].weight = Some(0.0.into());
    talk[3].weight = Some(0.5.into());
    let (tokens, weights) = codec.training(&talk).unwrap();
    assert_eq!(weighted(&codec, &tokens, &weights, 0.5).concat(), "yes");
    assert_eq!(weights.iter().filter(|w| **w != 0.0).count(), 4);
    let (tokens, weights) = codec.training(&talk[..1]).unwrap();
    assert!(!tokens.is_empty() && weights.iter().all(|w| *w == 0.0), "no assistant turn, no loss");
}

#[test]
fn a_turn_begins_with_its_prompt_even_where_the_tokenizer_would_merge() {
    let codec = chatml(&[("\n", "\n")]);
    let talk = [Message::user("a"), Message::assistant("\nb"), Message::user("c"), Message::assistant("d")];
    let (tokens, weights) = codec.training(&talk).unwrap();
    let prompt = codec.prompt(&talk[..1]).unwrap();
    assert!(tokens.starts_with(&prompt), "no merged line break across the border");
    assert_eq!(weighted(&codec, &tokens, &weights, 1.0).concat(), "\nbd");
    assert_eq!(codec.encode_continuation("\n\n").unwrap(), [256], "the merge exists");
}

#[test]
fn templates_that_rewrite_history_are_refused() {
    let rewriting = "{% for m in messages %}{{ m.role if loop.last else 'old' }}:{{ m.content }}\n{% endfor %}\
                     {% if add_generation_prompt %}assistant:{% endif %}";
    let folder = Folder::new(&tokenizer(&[], false), json!({"chat_template": rewriting}));
    let e = folder.open().unwrap().training(&talk()).unwrap_err().to_string();
    assert!(
        e.contains("tokenizer_config.json, field chat_template") && e.contains("rewrites earlier turns"),
        "{e}"
    );
}

#[test]
fn templates_that_cut_earlier_answers_give_them_no_loss() {
    let cutting =
        "{% for m in messages %}{{ m.content if loop.last else m.content[:2] }}<|im_end|>{% endfor %}";
    let folder = Folder::new(&tokenizer(&[], false), json!({"chat_template": cutting}));
    let codec = folder.open().unwrap();
    let mut talk =
        [Message::user("a"), Message::assistant("yes"), Message::user("b"), Message::assistant("no")];
    let e = codec.training(&talk).unwrap_err().to_string();
    assert!(e.contains("rewrites earlier turns when one is added (message 2 at byte"), "{e}");
    talk[1].weight = Some(0.0.into());
    let (tokens, weights) = codec.training(&talk).unwrap();
    assert_eq!(codec.decode(&tokens).unwrap(), "ayebno");
    assert_eq!(weighted(&codec, &tokens, &weights, 1.0).concat(), "no");
}

#[test]
fn a_turn_ends_with_its_tokens_even_where_the_tokenizer_would_merge() {
    let open = "{% for m in messages %}{% if m.role == 'user' %}{{ '\n' + m.content + ':' }}{% else %}{{ m.content }}{% endif %}{% endfor %}";
    let folder = Folder::new(&tokenizer(&[("\n", "\n")], false), json!({"chat_template": open}));
    let codec = folder.open().unwrap();
    let talk = [Message::user("a"), Message::assistant("b\n"), Message::user("c"), Message::assistant("d")];
    let (tokens, weights) = codec.training(&talk).unwrap();
    assert_eq!(codec.decode(&tokens).unwrap(), "\na:b\n\nc:d");
    assert_eq!(weighted(&codec, &tokens, &weights, 1.0), ["b", "\n", "d"]);
}

#[test]
fn only_plain_text_gets_special_tokens() {
    let template = format!("{{{{ bos_token }}}}{CHATML}");
    let settings = json!({"chat_template": template, "bos_token": {"content": "<s>", "special": true}});
    let folder = Folder::new(&tokenizer(&[], true), settings);
    let codec = folder.open().unwrap();
    assert_eq!(codec.encode_text("hi").unwrap(), [256, 104, 105]);
    assert_eq!(codec.encode_continuation("hi").unwrap(), [104, 105]);
    assert_eq!(codec.encode_text("longer than the file's truncation").unwrap().len(), 34);
    let prompt = codec.prompt(&talk()[..1]).unwrap();
    assert_eq!(prompt.iter().filter(|t| **t == 256).count(), 1, "the template's own <s>, and no second");
    assert_eq!(
        codec.decode(&[256, 104, 258, 105, 299]).unwrap(),
        "hi",
        "special and unknown ids have no text"
    );
    assert_eq!(codec.max_positions(), 64);
}

#[test]
fn a_model_without_template_says_so() {
    let codec = Folder::new(&tokenizer(&[], true), json!({})).open().unwrap();
    assert!(!codec.has_template());
    assert!(codec.encode_text("hi").is_ok());
    for e in [codec.prompt(&talk()).map(|_| ()), codec.training(&talk()).map(|_| ())] {
        let e = e.unwrap_err().to_string();
        assert!(
            e.contains("found no chat template, expected chat_template.jinja or chat_template in"),
            "{e}"
        );
    }
}

#[test]
fn where_templates_are_found() {
    let named = json!({"chat_template": [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "y"}]});
    let folder = Folder::new(&tokenizer(&[], false), named);
    let text = |f: &Folder| {
        let codec = f.open().unwrap();
        codec.decode(&codec.prompt(&talk()).unwrap()).unwrap()
    };
    assert_eq!(text(&folder), "y");
    std::fs::write(folder.folder.path().join("chat_template.jinja"), "{# new #}z\n").unwrap();
    assert_eq!(text(&folder), "z");
    for wrong in [json!(3), json!([{"name": "tool_use", "template": "x"}]), json!({"default": "x"})] {
        let folder = Folder::new(&tokenizer(&[], false), json!({"chat_template": wrong}));
        let e = folder.open().err().unwrap().to_string();
        assert!(e.contains("tokenizer_config.json, field chat_template: found"), "{e}");
    }
    let e = Folder::new(&tokenizer(&[], false), json!({"eos_token": 5})).open().err().unwrap().to_string();
    assert!(e.contains("tokenizer_config.json, field eos_token: found 5, expected a string"), "{e}");
}

#[test]
fn tokenizers_that_do_not_fit_are_refused() {
    let mut folder = Folder::new(&tokenizer(&[], false), json!({}));
    folder.config.vocab_size = 258;
    let codec = folder.open().unwrap();
    assert_eq!(codec.encode_text("<|im_start|>a").unwrap(), [257, 97], "what has a row is read");
    let e = codec.encode_text("a<|im_end|>").unwrap_err().to_string();
    assert!(
        e.contains(
            "tokenizer.json: found token \"<|im_end|>\" with id 258 in a text, expected ids below vocab_size = 258"
        ),
        "{e}"
    );
    std::fs::remove_file(folder.folder.path().join("tokenizer.json")).unwrap();
    let e = folder.open().err().unwrap().to_string();
    assert!(e.contains("tokenizer.json: missing"), "{e}");
    std::fs::write(folder.folder.path().join("tokenizer.json"), "{\"model\": 3}").unwrap();
    let e = folder.open().err().unwrap().to_string();
    assert!(e.contains("tokenizer.json: found ") && !e.contains('\n'), "{e}");
}

/// After how many tokens of `text` a rule stops.
fn stops_after(codec: &ChatTokenizer, strings: &[&str], tokens: &[u32]) -> Option<usize> {
    let strings: Vec<String> = strings.iter().map(|s| s.to_string()).collect();
    let mut watch = codec.watch(&codec.stop(&strings).unwrap().strings);
    tokens.iter().position(|t| watch(*t)).map(|i| i + 1)
}

#[test]
fn stop_strings_span_tokens_and_bytes() {
    let codec = chatml(&[("x", "y")]);
    let encode = |text: &str| codec.encode_continuation(text).unwrap();
    assert_eq!(stops_after(&codec, &["END"], &encode("the END.")), Some(7));
    assert_eq!(stops_after(&codec, &["END", "he"], &encode("the END.")), Some(3));
    assert_eq!(stops_after(&codec, &["END"], &encode("the ENENEND")), Some(11));
    assert_eq!(stops_after(&codec, &["ayb"], &encode("axyb, ayb")), Some(8), "from inside the merged xy, no");
    assert_eq!(stops_after(&codec, &["yb"], &encode("axyb")), Some(3), "a string may begin inside a token");
    assert_eq!(stops_after(&codec, &["END"], &encode("the EN")), None);
    // Characters of two to four bytes, a token a byte.
    assert_eq!(stops_after(&codec, &["é."], &encode("caf\u{e9}.")), Some(6));
    assert_eq!(stops_after(&codec, &["😀!"], &encode("a😀b😀!")), Some(11));
    assert_eq!(
        stops_after(&codec, &["a"], &[240, 159, 97]),
        Some(3),
        "after bytes that never become a character"
    );
    let broken: Vec<u32> = [&[240u32, 159][..], &[150; 20], &encode(" stop")].concat();
    assert_eq!(stops_after(&codec, &["stop"], &broken), Some(broken.len()));
    let broken: Vec<u32> = [&[150; 7][..], &encode("é stop")].concat();
    assert_eq!(stops_after(&codec, &["é stop"], &broken), Some(broken.len()), "a character completed late");
    // Special tokens have no text.
    let special = [&encode("EN")[..], &[257, 258], &encode("D")].concat();
    assert_eq!(stops_after(&codec, &["END"], &special), Some(5));
}

#[test]
fn tokens_of_a_character_and_the_beginning_of_another_count_once() {
    // As byte-level tokenizers have them: `x` and the first byte of é in one token.
    let mut merged = tokenizer(&[("x", "y")], false);
    let begins = format!("x{}", byte_char(0xc3));
    merged["model"]["vocab"].as_object_mut().unwrap().remove("xy");
    merged["model"]["vocab"][&begins] = json!(256);
    merged["model"]["merges"] = json!([["x", byte_char(0xc3).to_string()]]);
    let codec = Folder::new(&merged, json!({"chat_template": CHATML})).open().unwrap();
    let tokens = codec.encode_continuation("axé").unwrap();
    assert_eq!(tokens, [97, 256, 0xa9]);
    assert_eq!(stops_after(&codec, &["xx"], &tokens), None);
    assert_eq!(stops_after(&codec, &["ax"], &tokens), Some(2), "what is complete counts at once");
    assert_eq!(stops_after(&codec, &["xé"], &tokens), Some(3));
}

#[test]
fn stop_rules_are_plain_values_with_independent_watchers() {
    let codec = chatml(&[]);
    let stop = |strings: &[&str]| codec.stop(&strings.iter().map(|s| s.to_string()).collect::<Vec<_>>());
    assert!(stop(&[]).is_none() && stop(&[""]).is_none());
    assert_eq!(stop(&["a", "b"]), stop(&["b", "a", ""]));
    assert_ne!(stop(&["ab"]), stop(&["a", "b"]));
    // Another tokenizer gives tokens another text.
    assert_eq!(chatml(&[]).tokenizer(), codec.tokenizer());
    assert_ne!(chatml(&[("x", "y")]).tokenizer(), codec.tokenizer());
    let (mut first, mut second) = (codec.watch(&["ab".into()]), codec.watch(&["ab".into()]));
    assert!(!first(u32::from(b'a')) && !second(u32::from(b'b')));
    assert!(first(u32::from(b'b')) && !second(u32::from(b'b')));
}

#[test]
fn text_is_cut_at_the_first_stop() {
    let stops = ["\n".to_string(), "STOP".to_string(), String::new()];
    assert_eq!(cut_at_stop("one STOP two\n", &stops), "one ");
    assert_eq!(cut_at_stop("no", &stops), "no");
}

#[test]
fn the_embedded_model_talks() {
    let files = ModelFiles::embedded().unwrap();
    let config = ModelConfig::read(&files).unwrap();
    let codec = ChatTokenizer::new(&files, &config).unwrap();
    let talk = [Message::user("What is 2+3*4?"), Message::assistant("3*4=12, 2+12=14.")];
    let prompt = codec.prompt(&talk[..1]).unwrap();
    let (tokens, weights) = codec.training(&talk).unwrap();
    assert!(tokens.starts_with(&prompt) && tokens.iter().all(|t| (*t as usize) < config.vocab_size));
    assert_eq!(codec.decode(&tokens[prompt.len()..]).unwrap(), talk[1].content);
    assert_eq!(weights.iter().filter(|w| **w == 1.0).count(), tokens.len() - prompt.len());
    assert!(config.eos_token_ids.contains(tokens.last().unwrap()));
}
