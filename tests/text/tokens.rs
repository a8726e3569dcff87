//! Token ids of texts and conversations, loss, decoding and stop strings with tokenizers of the families' kinds, as transformers has them
//! (tests/data/tokens).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use colloquy::engine::StopRules;
use colloquy::model::{ModelConfig, ModelFiles};
use colloquy::text::{ChatOptions, ChatTokenizer, Codec, GrowingText, Message, Reading, cut_at_stop};
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
        let template =
            std::fs::read(data().join(format!("chat_templates/{}.jinja", family.template))).unwrap();
        write("config.json", config.to_string().as_bytes());
        write("model.safetensors", &[&2u64.to_le_bytes()[..], b"{}"].concat());
        write("tokenizer.json", tokenizer.as_bytes());
        write(
            "tokenizer_config.json",
            json!({"bos_token": family.bos_token, "eos_token": family.eos_token}).to_string().as_bytes(),
        );
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

type Conversations = BTreeMap<String, Vec<Message>>;

/// All conversations, and each family with its codec.
fn families() -> (Conversations, Vec<(String, Family, Opened)>) {
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
        let (mut compared, mut apart) = (0, Vec::new());
        for row in &family.conversations {
            let mut talk = conversations[&row.conversation].clone();
            // Where a message has control tokens in it, transformers reads them as such.
            let reading = match row.conversation.as_str() {
                "special tokens" => Reading::Tokens,
                _ => Reading::Text,
            };
            let found = if row.add_generation_prompt {
                opened.codec.prompt_as(&talk[..talk.len() - 1], &ChatOptions::default(), reading)
            } else {
                // Qwen3 shows the thoughts of the last turn only: no other can have a loss.
                let last = talk.len() - 1;
                talk[..last].iter_mut().for_each(|m| m.weight = (name == "qwen3").then_some(0.0.into()));
                opened.codec.training_as(&talk, &ChatOptions::default(), reading).map(|(tokens, _)| tokens)
            };
            let at = format!("{name}, {}, asking {}", row.conversation, row.add_generation_prompt);
            match (&row.ids, found) {
                (Some(theirs), Ok(ours)) => {
                    assert_eq!(opened.shown(&ours), opened.shown(theirs), "{at}");
                    compared += 1;
                    if &ours != theirs {
                        apart.push((row.conversation.as_str(), row.add_generation_prompt));
                    }
                }
                (None, Err(e)) => {
                    assert!(e.to_string().contains("chat_template.jinja: line 1: "), "{at}: {e}")
                }
                (theirs, ours) => panic!("{at}: ours {ours:?}, theirs {theirs:?}"),
            }
        }
        assert!(compared >= 8, "{name}");
        // An answer that begins with line feeds, behind the prompt's own: merged in no text that is generated, so not in training either.
        let merged: &[_] = if ["chatml", "qwen3"].contains(&&**name) { &[("spaces", false)] } else { &[] };
        assert_eq!(apart, merged, "{name}");
    }
}

/// The texts of the runs of tokens that carry each weight other than 0, special tokens shown.
fn carried(opened: &Opened, tokens: &[u32], weights: &[f32]) -> Vec<(f32, String)> {
    assert_eq!(tokens.len(), weights.len());
    let mut runs: Vec<(f32, Vec<u32>)> = Vec::new();
    let mut before = 0.0;
    for (&token, &weight) in tokens.iter().zip(weights) {
        if weight != 0.0 {
            if weight != before {
                runs.push((weight, Vec::new()));
            }
            runs.last_mut().unwrap().1.push(token);
        }
        before = weight;
    }
    runs.into_iter().map(|(weight, ids)| (weight, opened.shown(&ids))).collect()
}

#[test]
fn answers_carry_the_loss_and_nothing_else_does() {
    let (conversations, families) = families();
    // Llama 2 writes a space before the end of a turn; the shown text lacks the space at its very beginning.
    let answers = |name: &str| match name {
        "llama-2" => ["Hello! How are you? </s>", "Five. </s>", "I agree with five. </s>"].map(String::from),
        _ => {
            let end = match name {
                "llama-3" => "<|eot_id|>",
                "phi-3" => "<|end|>",
                "chatml" | "qwen3" => "<|im_end|>",
                _ => "</s>",
            };
            ["Hello! How are you?", "Five.", "I agree with five."].map(|text| text.to_string() + end)
        }
    };
    for (name, _, opened) in &families {
        let [first, second, third] = answers(name);
        let mut talk = conversations["three turns"].clone();
        if name == "qwen3" {
            let e = opened.codec.training(&talk).unwrap_err().to_string();
            assert!(
                e.contains("chat_template.jinja: found a template that rewrites earlier turns")
                    && e.contains("(message 2 at byte"),
                "{e}"
            );
            talk[1].weight = Some(0.0.into());
            talk[3].weight = Some(0.0.into());
            let (tokens, weights) = opened.codec.training(&talk).unwrap();
            assert_eq!(
                carried(opened, &tokens, &weights),
                [(1.0, format!("<think>\n\n</think>\n\n{third}"))]
            );
            continue;
        }
        let (tokens, weights) = opened.codec.training(&talk).unwrap();
        assert_eq!(
            carried(opened, &tokens, &weights),
            [(1.0, first.clone()), (1.0, second), (1.0, third.clone())],
            "{name}"
        );
        for turn in [1, 3, 5] {
            let prompt = opened.codec.prompt(&talk[..turn]).unwrap();
            assert!(tokens.starts_with(&prompt), "{name}: turn {turn} begins where its prompt ends");
            assert_eq!((weights[prompt.len() - 1], weights[prompt.len()]), (0.0, 1.0), "{name}");
        }
        let all = tokens;
        talk[1].weight = Some(0.5.into());
        talk[3].weight = Some(0.0.into());
        let (tokens, weights) = opened.codec.training(&talk).unwrap();
        assert_eq!(tokens, all, "{name}: a weight changes no token");
        assert_eq!(carried(opened, &tokens, &weights), [(0.5, first), (1.0, third)], "{name}");
    }
}

#[test]
fn a_turn_that_no_end_token_ends_counts_as_far_as_it_is_the_same() {
    let mut table = table();
    let family = table.families.get_mut("phi-3").unwrap();
    family.ends.truncate(1); // <|end|> of generation_config.json is missing
    let opened = Opened::new("phi-3", family);
    let (tokens, weights) = opened.codec.training(&table.conversations["three turns"][..4]).unwrap();
    let expected =
        [(1.0, "Hello! How are you?<|end|>".to_string()), (1.0, "Five.<|end|><|endoftext|>".to_string())];
    assert_eq!(carried(&opened, &tokens, &weights), expected);
}

#[test]
fn system_prompts_and_bare_users_carry_no_loss() {
    let (conversations, families) = families();
    for (name, _, opened) in &families {
        let talk = &conversations["system prompt"];
        let asked = opened.codec.training(&talk[1..2]).unwrap();
        assert!(!asked.0.is_empty() && asked.1.iter().all(|w| *w == 0.0), "{name}: no answer, no loss");
        if name == "mistral" {
            let e = opened.codec.training(talk).unwrap_err().to_string();
            assert!(e.contains("Conversation roles must alternate"), "{e}");
            continue;
        }
        let mut talk = talk.clone();
        talk[2].weight = (name == "qwen3").then_some(0.0.into());
        let (tokens, weights) = opened.codec.training(&talk).unwrap();
        let text = opened.shown(&tokens);
        assert!(text.contains("Be terse.") && text.contains("café 😀?"), "{name}: {text}");
        let carried: String = carried(opened, &tokens, &weights).into_iter().map(|(_, text)| text).collect();
        assert!(
            !carried.contains("terse") && !carried.contains('é') && carried.contains('b'),
            "{name}: {carried}"
        );
    }
}

#[test]
fn templates_write_the_only_beginning_of_a_sequence() {
    let (conversations, families) = families();
    for (name, family, opened) in &families {
        let Some(bos) = family.bos_token.as_deref().filter(|_| name != "chatml") else { continue };
        let bos = opened.raw.token_to_id(bos).unwrap();
        let ids = opened.codec.prompt(&conversations["one turn"][..1]).unwrap();
        let expected = usize::from(!["zephyr", "phi-3"].contains(&&**name));
        assert_eq!(ids.iter().filter(|id| **id == bos).count(), expected, "{name}: as its template has it");
    }
}

#[test]
fn conversations_without_messages_are_refused() {
    for (name, _, opened) in families().1 {
        for e in [opened.codec.prompt(&[]).map(drop), opened.codec.training(&[]).map(drop)] {
            assert_eq!(
                e.unwrap_err().to_string(),
                "messages: found no message, expected at least one",
                "{name}"
            );
        }
    }
}

/// All codecs, and tokens of a text that stand for a character a token, or a byte where it has none.
fn singles(opened: &Opened, text: &str) -> Vec<u32> {
    let bytes = opened.raw.token_to_id("<0x00>").is_some();
    text.chars()
        .flat_map(|c| {
            let whole = opened.codec.encode_continuation(c.encode_utf8(&mut [0; 4])).unwrap();
            assert!(whole.len() == 1 || bytes || c.len_utf8() > 1);
            whole
        })
        .collect()
}

#[test]
fn a_growing_text_is_shown_in_whole_characters() {
    for (name, _, opened) in families().1 {
        let text = "a é日本 😀👩‍🚀b";
        let tokens = singles(&opened, text);
        assert!(tokens.len() > text.chars().count(), "{name}: characters of several tokens");
        let (mut growing, mut shown, mut steps) = (GrowingText::default(), String::new(), 0);
        for n in 1..=tokens.len() {
            let now = growing.grow(&opened.codec.decode(&tokens[..n]).unwrap()).to_string();
            assert!(now.starts_with(&shown) && text.starts_with(&now), "{name}: {shown:?} then {now:?}");
            steps += usize::from(now != shown);
            shown = now;
        }
        assert_eq!(shown, text, "{name}");
        assert!(steps + 1 >= text.chars().count(), "{name}: each character as soon as it is there");
    }
    let mut growing = GrowingText::default();
    assert_eq!(growing.grow("a\u{fffd}"), "a");
    assert_eq!(
        growing.grow("a\u{fffd}b\u{fffd}\u{fffd}"),
        "a\u{fffd}b",
        "bytes that are no character, since another follows"
    );
}

/// After how many tokens a rule stops, and the text up to the stop.
fn stops(opened: &Opened, strings: &[&str], tokens: &[u32]) -> Option<(usize, String)> {
    let strings: Vec<String> = strings.iter().map(|s| s.to_string()).collect();
    let mut watch = opened.codec.watch(&strings);
    let at = 1 + tokens.iter().position(|t| watch(*t))?;
    let text = opened.codec.decode(&tokens[..at]).unwrap();
    Some((at, cut_at_stop(&text, &strings).to_string()))
}

#[test]
fn stop_strings_are_found_wherever_they_lie() {
    for (name, _, opened) in families().1 {
        let whole = |text: &str| opened.codec.encode_continuation(text).unwrap();
        let find = |strings: &[&str], tokens: &[u32]| stops(&opened, strings, tokens);
        let cut = |strings: &[&str], text: &str| find(strings, &singles(&opened, text)).map(|(_, text)| text);
        // Over several tokens; overlapping; one the beginning of another; one within another.
        assert_eq!(cut(&["agents:"], "the other agents: no").as_deref(), Some("the other "), "{name}");
        assert_eq!(cut(&["aab"], "aaab").as_deref(), Some("a"), "{name}");
        assert_eq!(cut(&["abab", "bb"], "xababb").as_deref(), Some("x"), "{name}");
        assert_eq!(cut(&["abc", "ab"], "xabc").as_deref(), Some("x"), "{name}: the shorter comes first");
        assert_eq!(
            cut(&["abcd", "c"], "xabcd").as_deref(),
            Some("xab"),
            "{name}: the first that is complete"
        );
        assert_eq!(cut(&["ab\n\n", "ab\n"], "xab\n\n").as_deref(), Some("x"), "{name}");
        assert_eq!(cut(&["END"], "EN D"), None, "{name}");
        // Within one token, and over the border of two.
        let answer = whole("The answer is 14.");
        assert!(answer.len() < 17, "{name}: pieces of several characters");
        assert_eq!(find(&["nsw"], &answer).map(|(_, text)| text).as_deref(), Some("The a"), "{name}");
        assert_eq!(find(&["e a"], &answer).map(|(_, text)| text).as_deref(), Some("Th"), "{name}");
        assert_eq!(
            find(&["14.", "answer is 15"], &answer),
            Some((answer.len(), "The answer is ".into())),
            "{name}"
        );
        // Of characters of several tokens; a part of one is none.
        let tokens = singles(&opened, "é日😀!");
        assert_eq!(cut(&["日"], "é日😀!").as_deref(), Some("é"), "{name}");
        assert_eq!(cut(&["😀!"], "é日😀!").as_deref(), Some("é日"), "{name}");
        assert_eq!(cut(&["日😀"], "é日😀!").as_deref(), Some("é"), "{name}");
        assert_eq!(find(&["😀"], &tokens[..tokens.len() - 2]), None, "{name}: its last byte is missing");
        assert_eq!(cut(&["本"], "é日😀!"), None, "{name}");
        // Behind bytes that never become a character.
        let broken = [&singles(&opened, "😀")[..2], &singles(&opened, "a stop")].concat();
        assert_eq!(find(&["stop"], &broken).map(|(at, _)| at), Some(broken.len()), "{name}");
        // Special tokens have no text and hide none.
        let end = opened.raw.token_to_id(
            ["</s>", "<|im_end|>", "<|eot_id|>"]
                .into_iter()
                .find(|t| opened.raw.token_to_id(t).is_some())
                .unwrap(),
        );
        let special = [&singles(&opened, "xEN")[..], &[end.unwrap()], &singles(&opened, "D")].concat();
        assert_eq!(find(&["END"], &special).map(|(at, _)| at), Some(special.len()), "{name}");
    }
}

#[test]
fn what_is_said_is_no_control_token_in_any_family() {
    for (name, _, opened) in families().1 {
        let added = opened.raw.get_added_tokens_decoder();
        let special: BTreeMap<u32, String> =
            added.into_iter().filter(|(_, t)| t.special).map(|(id, t)| (id, t.content)).collect();
        let own = |ids: &[u32]| ids.iter().copied().filter(|id| special.contains_key(id)).collect::<Vec<_>>();
        let ask = |content: &str| opened.codec.prompt(&[Message::user(content)]).unwrap();
        let shown = |ids: &[u32]| opened.codec.decode(ids).unwrap();
        let plain = ask("QQQ");
        assert!(
            special.len() > 2 && !own(&plain).is_empty() || name == "llama-2" || name == "mistral",
            "{name}"
        );
        let all: String = special.values().cloned().collect();
        let each = special.values().flat_map(|string| {
            let (begin, end) = string.split_at(string.chars().next().unwrap().len_utf8());
            [
                string.clone(),
                format!("a{string}b"),
                format!("What is {string} {string} 2+3? é"),
                format!("{begin} {end}{begin}{end}{end}{begin}"),
            ]
        });
        for content in each.chain([all]) {
            let ids = ask(&content);
            assert_eq!(own(&ids), own(&plain), "{name}: {content}");
            assert_eq!(shown(&ids), shown(&plain).replace("QQQ", &content), "{name}: {content}");
            let talk = [Message::user("Go on."), Message::assistant(&*content)];
            let (tokens, weights) = opened.codec.training(&talk).unwrap();
            let carried: Vec<u32> =
                tokens.iter().zip(&weights).filter(|(_, w)| **w != 0.0).map(|(t, _)| *t).collect();
            assert!(shown(&carried).contains(&content), "{name}: {content}: {}", shown(&carried));
            assert_eq!(own(&carried).len(), 1, "{name}: {content}: the end of the turn");
        }
    }
}
