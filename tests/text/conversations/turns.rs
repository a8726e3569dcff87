//! Which tokens of a conversation are the assistant's, with templates that do more than append
//! turns.

use colloquy::text::{ChatOptions, ChatTokenizer, Codec, Message, Reading};
use serde_json::json;

use crate::common::folders::{Folder, says, tokenizer};

fn codec(template: &str) -> ChatTokenizer {
    Folder::new(&tokenizer(&[], false), json!({"chat_template": template})).open().unwrap()
}

/// The ids of a text, `$` its end of sequence.
fn ids(text: &str) -> Vec<u32> {
    text.bytes().map(|b| if b == b'$' { 258 } else { u32::from(b) }).collect()
}

/// The tokens with a loss, as text; `$` ends a sequence.
fn learned(codec: &ChatTokenizer, messages: &[Message]) -> String {
    let (tokens, weights) = codec.training(messages).unwrap();
    let carry = tokens.iter().zip(&weights).filter(|(_, w)| **w != 0.0);
    carry.map(|(t, _)| if *t == 258 { '$' } else { char::from(u8::try_from(*t).unwrap()) }).collect()
}

/// Shows a plan with the last answer only.
const PLANS: &str = "{% for m in messages %}|{{ m.role }}|{% if m.role == 'assistant' and loop.last %}(plan)\
                     {% endif %}{{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}|assistant|{% endif %}";

#[test]
fn a_conversation_is_read_whole_where_no_loss_is_asked_for() {
    let codec = codec(PLANS);
    let talk = [Message::user("a"), Message::assistant("b"), Message::user("c"), Message::assistant("d")];
    let expected = ids("|user|a$|assistant|b$|user|c$|assistant|(plan)d$");
    assert_eq!(codec.conversation_as(&talk, &ChatOptions::default(), Reading::Text).unwrap(), expected);
    let e = codec.training(&talk).unwrap_err().to_string();
    assert!(e.contains("rewrites earlier turns when one is added (message 2 at byte"), "{e}");
    assert_eq!(
        codec.conversation_as(&talk[..1], &ChatOptions::default(), Reading::Text).unwrap(),
        ids("|user|a$")
    );
}

/// The prompt begins a plan that the turn itself has not.
const PREFILLED: &str = "{% for m in messages %}|{{ m.role }}|{{ m.content.split('(/plan)')[-1] }}<|im_end|>{% endfor %}\
                         {% if add_generation_prompt %}|assistant|(plan)\n{% endif %}";

#[test]
fn a_turn_is_found_where_its_prompt_has_more_than_it() {
    let codec = codec(PREFILLED);
    let talk = [Message::user("ab"), Message::assistant("c")];
    assert_eq!(codec.training(&talk).unwrap().0, ids("|user|ab$|assistant|c$"));
    assert_eq!(learned(&codec, &talk), "c$");
    assert_eq!(codec.prompt(&talk[..1]).unwrap(), ids("|user|ab$|assistant|(plan)\n"));
    // A content that begins as the prompt ends; one that the template cuts.
    assert_eq!(learned(&codec, &[Message::user("ab"), Message::assistant("(planet)")]), "(planet)$");
    assert_eq!(learned(&codec, &[Message::user("ab"), Message::assistant("x(/plan)c")]), "c$");
    let mut long = [&talk[..], &talk].concat();
    assert_eq!(learned(&codec, &long), "c$c$", "also several turns");
    long[1].weight = Some(0.0.into());
    assert_eq!(learned(&codec, &long), "c$");
}

#[test]
fn an_assistant_may_speak_first() {
    let talk = [Message::assistant("hello"), Message::user("a"), Message::assistant("b")];
    let asks_for_a_first = "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}{% endif %}";
    let adds_a_first = "{% if messages[0]['role'] != 'system' %}|system|Be kind.<|im_end|>{% endif %}";
    let turns = "{% for m in messages %}|{{ m.role }}|{{ m.content }}<|im_end|>{% endfor %}\
                 {% if add_generation_prompt %}|assistant|{% endif %}";
    for (before, text) in [(asks_for_a_first, ""), (adds_a_first, "|system|Be kind.$")] {
        let codec = codec(&format!("{before}{turns}"));
        let expected = ids(&format!("{text}|assistant|hello$|user|a$|assistant|b$"));
        assert_eq!(codec.training(&talk).unwrap().0, expected);
        assert_eq!(learned(&codec, &talk), "hello$b$");
        assert_eq!(learned(&codec, &talk[..1]), "hello$");
        assert_eq!(codec.conversation_as(&talk, &ChatOptions::default(), Reading::Text).unwrap(), expected);
    }
}

#[test]
fn a_turn_that_is_nowhere_is_refused() {
    let counts = "{% for m in messages %}{{ m.content if m.role == 'user' else m.content | length }}{% endfor %}\
                  {% if add_generation_prompt %}?{% endif %}";
    let codec = codec(counts);
    let mut talk = [Message::user("a"), Message::assistant("bcd")];
    let e = codec.training(&talk).unwrap_err().to_string();
    assert!(
        e.contains("field chat_template: found a template by which") && e.contains("prompt for message 2"),
        "{e}"
    );
    talk[1].weight = Some(0.0.into());
    assert_eq!(codec.training(&talk).unwrap(), (ids("a3"), vec![0.0; 2]));
    assert_eq!(
        codec
            .conversation_as(
                &[says("user", "a"), says("assistant", "x")],
                &ChatOptions::default(),
                Reading::Text
            )
            .unwrap(),
        ids("a1")
    );
}
