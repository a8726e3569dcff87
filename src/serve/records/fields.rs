//! Fields of records: which ones a command reads, and what is said of those it does not. A field
//! whose meaning would be lost is an error; one that is merely carried along is named.

use serde_json::{Map, Value};

/// The command that reads the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// `generate`.
    Generate,
    /// `score`.
    Score,
    /// `train`.
    Train,
}

use Reader::{Generate, Score, Train};

impl Reader {
    /// The command's name.
    pub fn name(self) -> &'static str {
        match self {
            Generate => "generate",
            Score => "score",
            Train => "train",
        }
    }
}

/// Fields that records have, and the commands that read them.
const KNOWN: [(&[Reader], &[&str]); 4] = [
    (
        &[Generate, Score, Train],
        &[
            "id",
            "adapter",
            "tokens",
            "text",
            "messages",
            "prompt",
            "tools",
            "chat_template_kwargs",
            "control_tokens",
        ],
    ),
    (&[Score, Train], &["completion", "eos"]),
    (&[Train], &["weights"]),
    (&[Generate], &crate::serve::generate::FIELDS),
];

/// Fields of `generate` whose names are common words: elsewhere they are carried along.
const COMMON_WORDS: [&str; 2] = ["n", "key"];

/// Values with which a field asks for nothing that would not be so anyway.
#[derive(Clone, Copy)]
enum Neutral {
    /// There are none.
    None,
    /// False, zero, an empty list, object or text.
    Empty,
    /// One, or no more than that.
    One,
    /// True.
    True,
}

impl Neutral {
    fn holds(self, value: &Value) -> bool {
        match (self, value) {
            (Neutral::Empty, Value::Bool(b)) => !b,
            (Neutral::Empty, Value::Number(n)) => n.as_f64() == Some(0.0),
            (Neutral::Empty, Value::String(text)) => text.is_empty(),
            (Neutral::Empty, Value::Array(items)) => items.is_empty(),
            (Neutral::Empty, Value::Object(fields)) => fields.is_empty(),
            (Neutral::One, Value::Number(n)) => n.as_f64() == Some(1.0),
            (Neutral::True, Value::Bool(b)) => *b,
            _ => false,
        }
    }
}

/// Fields of other programs' records.
struct Foreign {
    readers: &'static [Reader],
    names: &'static [&'static str],
    neutral: Neutral,
    /// What to write instead, or why there is nothing.
    remedy: &'static str,
}

const fn foreign(
    readers: &'static [Reader],
    names: &'static [&'static str],
    neutral: Neutral,
    remedy: &'static str,
) -> Foreign {
    Foreign { readers, names, neutral, remedy }
}

const ALL: &[Reader] = &[Generate, Score, Train];
const SAMPLING: &[Reader] = &[Generate];
const TRAINING: &[Reader] = &[Train];

/// Names from vLLM, transformers, the OpenAI interface, llama.cpp, TRL, verl and Axolotl.
const FOREIGN: &[Foreign] = &[
    // Sampling: another name.
    foreign(
        SAMPLING,
        &[
            "max_new_tokens",
            "max_completion_tokens",
            "max_output_tokens",
            "max_gen_toks",
            "max_tokens_to_sample",
            "n_predict",
            "num_predict",
        ],
        Neutral::None,
        "it is called `max_tokens` here",
    ),
    foreign(
        SAMPLING,
        &["max_length", "max_total_tokens"],
        Neutral::None,
        "`max_tokens` counts the new tokens alone",
    ),
    foreign(
        SAMPLING,
        &["num_return_sequences", "num_samples", "num_generations", "n_samples", "num_completions"],
        Neutral::One,
        "it is called `n` here",
    ),
    foreign(
        SAMPLING,
        &["stop_sequences", "stop_sequence", "stop_strings", "stop_words", "stop_list", "until"],
        Neutral::Empty,
        "it is called `stop` here",
    ),
    foreign(SAMPLING, &["temp"], Neutral::None, "it is called `temperature` here"),
    foreign(SAMPLING, &["random_seed"], Neutral::None, "it is called `seed` here"),
    foreign(SAMPLING, &["do_sample"], Neutral::True, "`\"temperature\": 0` is greedy"),
    // Sampling: not there.
    foreign(
        SAMPLING,
        &["repetition_penalty", "repeat_penalty", "length_penalty", "encoder_repetition_penalty"],
        Neutral::One,
        "penalties are not supported",
    ),
    foreign(
        SAMPLING,
        &[
            "presence_penalty",
            "frequency_penalty",
            "no_repeat_ngram_size",
            "repeat_last_n",
            "penalty_alpha",
            "dry_multiplier",
        ],
        Neutral::Empty,
        "penalties are not supported",
    ),
    foreign(
        SAMPLING,
        &[
            "logit_bias",
            "bad_words",
            "bad_words_ids",
            "suppress_tokens",
            "begin_suppress_tokens",
            "allowed_token_ids",
            "force_words_ids",
            "sequence_bias",
            "logits_processors",
        ],
        Neutral::Empty,
        "changing single logits is not supported",
    ),
    foreign(
        SAMPLING,
        &["min_tokens", "min_new_tokens", "min_length"],
        Neutral::Empty,
        "a least length is not supported",
    ),
    foreign(SAMPLING, &["ignore_eos"], Neutral::Empty, "a sample ends at the model's end token"),
    foreign(
        SAMPLING,
        &["stop_token_ids", "eos_token_id"],
        Neutral::Empty,
        "a sample ends at the model's end tokens and at the strings of `stop`",
    ),
    foreign(
        SAMPLING,
        &["include_stop_str_in_output"],
        Neutral::Empty,
        "`text` ends before the stop string, `tokens` behind it",
    ),
    foreign(
        SAMPLING,
        &["logprobs"],
        Neutral::True,
        "the answer always has the log-probability of each sampled token; those of others are not given",
    ),
    foreign(
        SAMPLING,
        &["top_logprobs", "prompt_logprobs", "n_probs"],
        Neutral::Empty,
        "only sampled tokens have log-probabilities; `score` gives those of a prompt",
    ),
    foreign(
        SAMPLING,
        &["echo"],
        Neutral::Empty,
        "the answer holds new tokens alone; `score` gives the prompt's",
    ),
    foreign(
        SAMPLING,
        &["best_of"],
        Neutral::One,
        "ask for `n` samples and choose by their log-probabilities",
    ),
    foreign(
        SAMPLING,
        &["num_beams", "num_beam_groups", "beam_width"],
        Neutral::One,
        "beam search is not supported",
    ),
    foreign(SAMPLING, &["use_beam_search"], Neutral::Empty, "beam search is not supported"),
    foreign(
        SAMPLING,
        &[
            "typical_p",
            "tfs_z",
            "epsilon_cutoff",
            "eta_cutoff",
            "top_a",
            "mirostat",
            "mirostat_tau",
            "mirostat_eta",
            "dynatemp_range",
            "xtc_probability",
            "top_n_sigma",
            "guidance_scale",
        ],
        Neutral::None,
        "not supported; `temperature`, `top_p` and `top_k` are",
    ),
    foreign(
        SAMPLING,
        &[
            "response_format",
            "guided_json",
            "guided_regex",
            "guided_choice",
            "guided_grammar",
            "structured_outputs",
            "json_schema",
            "grammar",
            "tool_choice",
        ],
        Neutral::Empty,
        "guided decoding is not supported",
    ),
    foreign(SAMPLING, &["stream"], Neutral::Empty, "answers come whole"),
    foreign(SAMPLING, &["suffix"], Neutral::Empty, "filling in before a suffix is not supported"),
    foreign(
        SAMPLING,
        &["sampling_params", "generation_config", "generation_kwargs", "gen_kwargs", "extra_body"],
        Neutral::Empty,
        "its fields stand in the record itself, e.g. `\"max_tokens\": 20`",
    ),
    foreign(SAMPLING, &["truncate_prompt_tokens"], Neutral::None, "prompts are not truncated"),
    foreign(
        SAMPLING,
        &["skip_special_tokens"],
        Neutral::True,
        "`text` is without special tokens; `tokens` has them",
    ),
    foreign(
        SAMPLING,
        &["add_generation_prompt"],
        Neutral::True,
        "a conversation always waits for the assistant's next turn; `text` is continued as it is",
    ),
    foreign(
        SAMPLING,
        &["continue_final_message"],
        Neutral::Empty,
        "`text` is continued as it is, a last turn is not",
    ),
    foreign(
        ALL,
        &["enable_thinking", "reasoning_effort", "thinking_budget"],
        Neutral::None,
        "variables of the chat template stand in `chat_template_kwargs`",
    ),
    foreign(
        ALL,
        &["add_special_tokens"],
        Neutral::True,
        "the tokenizer says what goes around a text; `tokens` are used as they are",
    ),
    foreign(ALL, &["chat_template"], Neutral::None, "the model's own template is used"),
    foreign(
        ALL,
        &["documents"],
        Neutral::Empty,
        "variables of the chat template stand in `chat_template_kwargs`",
    ),
    foreign(ALL, &["functions"], Neutral::Empty, "it is called `tools` here"),
    foreign(
        ALL,
        &["lora", "lora_name", "lora_request", "lora_path", "adapter_name", "adapter_id", "peft_adapter"],
        Neutral::None,
        "it is called `adapter` here",
    ),
    foreign(
        ALL,
        &["images", "image", "audio", "audios", "video", "videos"],
        Neutral::Empty,
        "models read text alone",
    ),
    foreign(
        ALL,
        &["input_ids", "token_ids", "prompt_token_ids", "prompt_ids"],
        Neutral::None,
        "token ids are called `tokens` here",
    ),
    foreign(
        ALL,
        &["prompt_embeds", "inputs_embeds", "position_ids"],
        Neutral::None,
        "a record gives `tokens`, `text` or `messages`",
    ),
    // Training.
    foreign(
        TRAINING,
        &["labels"],
        Neutral::None,
        "give `tokens` with `weights`: 0 where a label is -100, else 1",
    ),
    foreign(
        TRAINING,
        &[
            "loss_mask",
            "loss_masks",
            "loss_weights",
            "token_weights",
            "completion_mask",
            "assistant_masks",
            "assistant_mask",
            "response_mask",
            "label_mask",
            "action_mask",
            "mask",
        ],
        Neutral::None,
        "loss weights are called `weights` and go with `tokens`; that of a turn is called `weight`",
    ),
    foreign(
        TRAINING,
        &["weight", "sample_weight"],
        Neutral::One,
        "give `tokens` with `weights`, or a turn of `messages` its `weight`",
    ),
    foreign(
        TRAINING,
        &["attention_mask"],
        Neutral::None,
        "leave it out, and padding too: sequences are packed",
    ),
    foreign(
        TRAINING,
        &[
            "advantages",
            "advantage",
            "reward",
            "rewards",
            "returns",
            "old_logprobs",
            "old_log_probs",
            "ref_logprobs",
            "ref_log_probs",
            "old_per_token_logps",
            "ref_per_token_logps",
            "sampling_logprobs",
        ],
        Neutral::None,
        "policy losses are not trained; `weights` beside `tokens` multiply the loss of each token",
    ),
    foreign(
        TRAINING,
        &["chosen", "rejected", "chosen_response", "rejected_response"],
        Neutral::None,
        "preference data is not trained yet; the chosen answer as `completion` of a `prompt` is",
    ),
    foreign(
        TRAINING,
        &["ref_chosen_logps", "ref_rejected_logps", "reference_chosen_logps", "reference_rejected_logps"],
        Neutral::None,
        "preference data is not trained yet",
    ),
];

/// What holds content in other programs' records, and how to write it here; for records that have none.
const FOREIGN_CONTENT: &[(&[&str], &str)] = &[
    (
        &["conversations", "conversation"],
        "ShareGPT's; convert it: jq -c '{messages: [.conversations[] | {role: ({human: \"user\", \
         gpt: \"assistant\"}[.from] // .from), content: .value}]}'",
    ),
    (
        &["instruction"],
        "Alpaca's; convert it: jq -c '{messages: [{role: \"user\", content: ([.instruction, .input] | \
         map(select(. != null and . != \"\")) | join(\"\\n\\n\"))}, {role: \"assistant\", content: .output}]}'",
    ),
    (&["chosen", "rejected"], "preference data; give each answer as a record of `prompt` and `completion`"),
    (&["dialogue", "dialog", "turns", "chat", "message", "msgs"], "a conversation is called `messages` here"),
    (
        &["question", "query", "problem"],
        "give it as `messages` or as `prompt`, e.g. jq -c '{prompt: .question, completion: .answer}'",
    ),
    (&["inputs", "input", "content", "sentence", "document"], "a text is called `text` here"),
    (&["completion", "response", "output", "answer"], "it goes with a `prompt`"),
];

/// Bytes of the longest name that is compared with known ones.
const LONGEST_NAME: usize = 64;

/// The error of a field, and what is wrong with it.
type Problem = (String, String);

/// A name as ours are written.
fn normal(name: &str) -> String {
    let mut out = String::new();
    let mut before_is_lower = false;
    for c in name.chars() {
        if c.is_ascii_uppercase() && before_is_lower {
            out.push('_');
        }
        before_is_lower = c.is_ascii_lowercase() || c.is_ascii_digit();
        out.push(if c == '-' { '_' } else { c.to_ascii_lowercase() });
    }
    out
}

fn known_to(reader: Reader) -> impl Iterator<Item = &'static str> {
    KNOWN.iter().filter(move |(readers, _)| readers.contains(&reader)).flat_map(|(_, names)| *names).copied()
}

/// The fields that `reader` passes over, or the first that it cannot.
pub fn check(fields: &Map<String, Value>, reader: Reader) -> Result<Vec<String>, Problem> {
    let mut ignored = Vec::new();
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
        if known_to(reader).any(|known| known == name) {
            continue;
        }
        if let Some(problem) = of_another(name, reader) {
            return Err((name.clone(), problem));
        }
        if name.len() > LONGEST_NAME {
            ignored.push(name.clone());
            continue;
        }
        let normal = normal(name);
        let named = |f: &&Foreign| f.readers.contains(&reader) && f.names.contains(&normal.as_str());
        if let Some(foreign) = FOREIGN.iter().find(named) {
            if foreign.neutral.holds(value) {
                continue;
            }
            return Err((name.clone(), format!("unknown field; {}", foreign.remedy)));
        }
        if reader == Train && name == "label" && value.is_boolean() && fields.contains_key("completion") {
            return Err((name.clone(), "unknown field; preference data is not trained yet".into()));
        }
        let is_there = |known: &str| fields.get(known).is_some_and(|v| !v.is_null());
        let is_near = |known: &&str| {
            normal == *known || (known.len() > 3 && strsim::damerau_levenshtein(&normal, known) <= 1)
        };
        if let Some(near) = known_to(reader).filter(|known| !is_there(known)).find(is_near) {
            return Err((name.clone(), format!("unknown field; did you mean `{near}`?")));
        }
        ignored.push(name.clone());
    }
    Ok(ignored)
}

/// The problem of a field that only other commands read.
fn of_another(name: &str, reader: Reader) -> Option<String> {
    if COMMON_WORDS.contains(&name) {
        return None;
    }
    let (readers, _) = KNOWN.iter().find(|(_, names)| names.contains(&name))?;
    let readers: Vec<String> = readers.iter().map(|r| format!("`{}`", r.name())).collect();
    Some(format!(
        "a field of {}, which `{}` does not read; leave it out",
        readers.join(" and "),
        reader.name()
    ))
}

/// The problem of a record without content: what is in another format's field, if that is known.
pub fn no_content(fields: &Map<String, Value>) -> Problem {
    let found = FOREIGN_CONTENT.iter().find_map(|(names, remedy)| {
        let name = names.iter().find(|name| fields.get(**name).is_some_and(|v| !v.is_null()))?;
        Some((name.to_string(), format!("unknown field; {remedy}")))
    });
    found.unwrap_or_else(|| {
        let problem = "found no content, expected one of `tokens`, `text`, `messages`, `prompt`";
        (String::new(), problem.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(value: Value, reader: Reader) -> Result<Vec<String>, Problem> {
        check(value.as_object().unwrap(), reader)
    }

    #[test]
    fn every_reader_knows_its_own_fields_and_refuses_those_of_others() {
        for name in crate::serve::generate::FIELDS {
            assert_eq!(of(json!({name: 1}), Generate), Ok(vec![]), "{name}");
            let elsewhere = of(json!({name: 1}), Train);
            match COMMON_WORDS.contains(&name) {
                true => assert_eq!(elsewhere, Ok(vec![name.to_string()])),
                false => assert!(elsewhere.unwrap_err().1.starts_with("a field of `generate`"), "{name}"),
            }
        }
        assert_eq!(of(json!({"weights": [1]}), Train), Ok(vec![]));
        let e = of(json!({"weights": [1]}), Score).unwrap_err();
        assert_eq!(e.1, "a field of `train`, which `score` does not read; leave it out");
        assert!(of(json!({"completion": ""}), Generate).unwrap_err().1.contains("`score` and `train`"));
    }

    #[test]
    fn a_foreign_name_is_refused_where_it_would_mean_something() {
        for (record, reader, expected) in [
            (json!({"max_new_tokens": 4}), Generate, Some("is called `max_tokens`")),
            (json!({"maxNewTokens": 4}), Generate, Some("is called `max_tokens`")),
            (json!({"max-new-tokens": 4}), Generate, Some("is called `max_tokens`")),
            (json!({"max_new_tokens": null}), Generate, None),
            (json!({"max_new_tokens": 4}), Train, None),
            (json!({"repetition_penalty": 1.2}), Generate, Some("penalties")),
            (json!({"repetition_penalty": 1.0}), Generate, None),
            (json!({"presence_penalty": 0}), Generate, None),
            (json!({"logit_bias": {}}), Generate, None),
            (json!({"logit_bias": {"5": 1}}), Generate, Some("logits")),
            (json!({"min_tokens": 5}), Generate, Some("least length")),
            (json!({"best_of": 2}), Generate, Some("`n` samples")),
            (json!({"logprobs": 5}), Generate, Some("log-probability")),
            (json!({"logprobs": true}), Generate, None),
            (json!({"labels": [1]}), Train, Some("`weights`: 0 where a label is -100")),
            (json!({"labels": [1]}), Score, None),
            (json!({"input_ids": [1]}), Score, Some("called `tokens`")),
            (json!({"advantages": [1]}), Train, Some("policy losses")),
            (json!({"reward": 1}), Train, Some("policy losses")),
            (json!({"reward": 1}), Generate, None),
            (json!({"chosen": "a", "rejected": "b"}), Train, Some("preference data is not trained yet")),
            (json!({"completion": "a", "label": true}), Train, Some("preference data")),
            (json!({"completion": "a", "label": 1}), Train, None),
            (json!({"loss_mask": [1]}), Train, Some("called `weights`")),
            (json!({"weight": 0}), Train, Some("its `weight`")),
            (json!({"enable_thinking": false}), Train, Some("chat_template_kwargs")),
        ] {
            match (of(record.clone(), reader), expected) {
                (Err((field, problem)), Some(expected)) => {
                    assert!(record.get(&field).is_some(), "{record}: {field}");
                    assert!(problem.contains(expected), "{record}: {problem}");
                }
                (Ok(_), None) => {}
                (found, _) => panic!("{record}: {found:?}"),
            }
        }
    }

    #[test]
    fn what_is_carried_along_is_named_and_what_is_nearly_ours_is_asked_about() {
        let record = json!({"id": 1, "text": "a", "source": "b", "note": null, "test": 5, "answer": "c"});
        assert_eq!(of(record, Score), Ok(["source", "test", "answer"].map(String::from).to_vec()));
        for (name, near) in
            [("max_token", "max_tokens"), ("Text", "text"), ("topP", "top_p"), ("test", "text")]
        {
            let problem = of(json!({name: 1}), Generate).unwrap_err().1;
            assert_eq!(problem, format!("unknown field; did you mean `{near}`?"), "{name}");
        }
    }

    #[test]
    fn records_of_other_formats_are_told_apart() {
        for (record, field, expected) in [
            (json!({"conversations": []}), "conversations", "jq -c '{messages: [.conversations[]"),
            (json!({"instruction": "a", "input": "", "output": "b"}), "instruction", "Alpaca's"),
            (json!({"chosen": [], "rejected": []}), "chosen", "preference data"),
            (json!({"question": "a", "answer": "b"}), "question", "`prompt`"),
            (json!({"completion": "a"}), "completion", "goes with a `prompt`"),
            (json!({}), "", "found no content"),
        ] {
            let (found, problem) = no_content(record.as_object().unwrap());
            assert!(found == field && problem.contains(expected), "{record}: {found}: {problem}");
        }
    }
}
