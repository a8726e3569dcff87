//! What metrics.jsonl and times.jsonl hold: a struct for each kind of line, built where something
//! is measured and read where it is shown.
//!
//! A number that is not finite is null in JSON. What is absent was not measured.

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::Outcome;
use crate::error::{Error, Result};

/// Version of the lines of metrics.jsonl, which the first one gives.
pub const SCHEMA: u64 = 1;

/// The first line of metrics.jsonl, without its end.
pub fn schema_line() -> String {
    json!({ "schema": SCHEMA }).to_string()
}

/// Whether an object is that line; one of another version is an error. Folders of older versions
/// have none.
pub fn is_schema(object: &Map<String, Value>) -> Result<bool> {
    match object.get("schema") {
        None => Ok(false),
        Some(found) if *found == SCHEMA => Ok(true),
        Some(found) => {
            let problem = format!("found {found}, expected {SCHEMA}: another version wrote the file");
            Err(Error::input("schema", problem))
        }
    }
}

/// The sets of questions that societies are measured on, in the order of their tables.
pub const SPLITS: [&str; 4] = ["dev", "test", "transfer-dev", "transfer-test"];

/// A line of metrics.jsonl: whose it is, and what was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// The arm.
    pub arm: String,
    /// The seed.
    pub seed: u64,
    /// The iteration, 0 before training.
    pub iteration: u64,
    /// What was measured.
    pub record: Record,
}

/// What one line of metrics.jsonl holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// How a society answers the questions of one of [`SPLITS`].
    Evaluation(&'static str, Box<Evaluation>),
    /// How different its agents are.
    Diversity(Box<Diversity>),
    /// What training questions were labelled with.
    PseudoLabels(PseudoLabels),
    /// What adapters were finetuned on.
    Training(Training),
    /// What it all cost.
    Compute(Compute),
}

impl Record {
    /// Its `name` in the file.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Evaluation(split, _) => split,
            Self::Diversity(_) => "diversity",
            Self::PseudoLabels(_) => "pseudo-labels",
            Self::Training(_) => "training",
            Self::Compute(_) => "compute",
        }
    }

    /// Its fields in the file, those of [`Line`] left out.
    pub fn fields(&self) -> Result<Map<String, Value>> {
        let value = match self {
            Self::Evaluation(_, record) => serde_json::to_value(record),
            Self::Diversity(record) => serde_json::to_value(record),
            Self::PseudoLabels(record) => serde_json::to_value(record),
            Self::Training(record) => serde_json::to_value(record),
            Self::Compute(record) => serde_json::to_value(record),
        };
        match value {
            Ok(Value::Object(fields)) => Ok(fields),
            other => Err(Error::Internal(format!("a record {}: {other:?}", self.name()))),
        }
    }

    /// Whether it is of an arm whose training is given right answers.
    pub fn asks_for_labels(&self) -> bool {
        match self {
            Self::Evaluation(_, record) => record.asks_for_labels,
            Self::PseudoLabels(record) => record.asks_for_labels,
            _ => false,
        }
    }

    fn read(name: &str, fields: Map<String, Value>) -> Result<Self> {
        let named = |e: Error| e.at(name);
        if let Some(split) = SPLITS.into_iter().find(|s| *s == name) {
            return Ok(Self::Evaluation(split, read(fields).map_err(named)?));
        }
        Ok(match name {
            "diversity" => Self::Diversity(read(fields).map_err(named)?),
            "pseudo-labels" => Self::PseudoLabels(read(fields).map_err(named)?),
            "training" => Self::Training(read(fields).map_err(named)?),
            "compute" => Self::Compute(read(fields).map_err(named)?),
            _ => {
                let known = SPLITS.join(", ");
                let expected = format!("expected {known}, diversity, pseudo-labels, training or compute");
                return Err(Error::input("name", format!("found `{name}`, {expected}")));
            }
        })
    }
}

impl Line {
    /// From a JSON object. An error names the field; the caller knows the file and the line.
    pub fn read(mut object: Map<String, Value>) -> Result<Self> {
        let arm = text(&mut object, "arm")?;
        let name = text(&mut object, "name")?;
        let seed = whole(&mut object, "seed")?;
        let iteration = whole(&mut object, "iteration")?;
        let record = Record::read(&name, object)?;
        Ok(Self { arm, seed, iteration, record })
    }

    /// As the file holds it, without the line's end.
    pub fn text(&self) -> Result<String> {
        let Self { arm, seed, iteration, record } = self;
        let mut line = json!({"arm": arm, "seed": seed, "iteration": iteration, "name": record.name()});
        line.as_object_mut().into_iter().try_for_each(|l| record.fields().map(|f| l.extend(f)))?;
        Ok(line.to_string())
    }

    /// How a society answers, if that is what was measured, and on this split.
    pub fn evaluation(&self, split: &str) -> Option<&Evaluation> {
        match &self.record {
            Record::Evaluation(own, record) if *own == split => Some(record),
            _ => None,
        }
    }
}

fn text(object: &mut Map<String, Value>, key: &str) -> Result<String> {
    match object.shift_remove(key) {
        Some(Value::String(text)) => Ok(text),
        _ => Err(Error::input(key, "found no string, expected one")),
    }
}

fn whole(object: &mut Map<String, Value>, key: &str) -> Result<u64> {
    let found = object.shift_remove(key).and_then(|v| v.as_u64());
    found.ok_or_else(|| Error::input(key, "found no whole number, expected one"))
}

/// A struct from its fields. A field that it does not have is an error.
fn read<T: Serialize + DeserializeOwned>(fields: Map<String, Value>) -> Result<T> {
    let of = |fields: Map<String, Value>| T::deserialize(Value::Object(fields));
    let record = of(fields.clone()).map_err(|e| {
        // serde does not say which field: it is the one without which the error is another one.
        let differs = |key: &&String| {
            let rest = fields.iter().filter(|(k, _)| k != key).map(|(k, v)| (k.clone(), v.clone()));
            of(rest.collect()).err().is_none_or(|other| other.to_string() != e.to_string())
        };
        match fields.keys().find(differs) {
            Some(key) => Error::input(key, e),
            None => Error::input("fields", e),
        }
    })?;
    let known = serde_json::to_value(&record).map_err(|e| Error::Internal(e.to_string()))?;
    match unknown(&Value::Object(fields), &known) {
        Some(path) => Err(Error::input(&path[1..], "unknown field")),
        None => Ok(record),
    }
}

/// The path of a field that `given` has and `known` has not.
fn unknown(given: &Value, known: &Value) -> Option<String> {
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => given.iter().find_map(|(key, value)| {
            let below = match known.get(key) {
                Some(same) => unknown(value, same)?,
                // What is not written may still be given: nothing is measured by it.
                None if value.is_null() || *value == false || *value == json!([]) => return None,
                None => String::new(),
            };
            Some(format!(".{key}{below}"))
        }),
        (Value::Array(given), Value::Array(known)) => {
            given.iter().zip(known).find_map(|(given, known)| unknown(given, known))
        }
        _ => None,
    }
}

/// How a society answers the questions of a split, by every way to ask.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// How many there were.
    pub questions: usize,
    /// The most likely answer of every generator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub greedy: Option<Answers>,
    /// One sample of every generator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub single: Option<Answers>,
    /// The vote over samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub majority: Option<Majority>,
    /// The votes of a debate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub debate: Option<Debated>,
    /// How each question went.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcomes: Option<Outcomes>,
    /// The arm's training is given right answers.
    #[serde(default, skip_serializing_if = "is_false")]
    pub asks_for_labels: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// What texts were like, whether they were right or not.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// The share in which an answer could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parse_rate: Option<f64>,
    /// The share that was cut off by length.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truncation_rate: Option<f64>,
    /// The share that is missing, because the prompt outgrew the context.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing_rate: Option<f64>,
    /// Tokens of a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_tokens: Option<f64>,
    /// Log-probability of a token, averaged over each text first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_logprob: Option<f64>,
    /// The summaries that were read before them, if there were any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summaries: Option<Summaries>,
}

/// What summaries were like.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summaries {
    /// The share that was cut off by length.
    pub truncation_rate: f64,
    /// Tokens of a summary.
    pub mean_tokens: f64,
}

/// Answers that are graded one by one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Answers {
    /// The share of right ones.
    pub accuracy: f64,
    /// Over questions.
    pub standard_error: f64,
    /// The share of right ones of each agent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub agents: Vec<f64>,
    /// What they were like.
    #[serde(flatten)]
    pub rates: Rates,
}

/// The vote over samples.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Majority {
    /// The share of questions with a right vote.
    pub accuracy: f64,
    /// Over questions.
    pub standard_error: f64,
    /// How many samples vote.
    pub samples: usize,
    /// What the samples were like.
    #[serde(flatten)]
    pub rates: Rates,
    /// The votes of the first 1, 3, 5, … of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by_samples: Vec<VoteOf>,
    /// The vote of as many of them as cost what a debate costs, if there are as many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<VoteOf>,
}

/// The vote over a number of samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VoteOf {
    /// How many.
    pub samples: usize,
    /// The share of questions with a right vote.
    pub accuracy: f64,
    /// Over questions.
    pub standard_error: f64,
}

/// A round of debates.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// The share of questions with a right vote.
    pub accuracy: f64,
    /// Over questions.
    pub standard_error: f64,
    /// The share of right answers of each agent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub agents: Vec<f64>,
    /// How far agents agree.
    #[serde(flatten)]
    pub agreement: Agreement,
    /// What the turns were like.
    #[serde(flatten)]
    pub rates: Rates,
}

/// How far agents agree. No answer agrees with nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    /// The share of questions to which all give the same answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub all_agree: Option<f64>,
    /// The mean share of agents that give the vote's answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consensus: Option<f64>,
}

/// Debates: their last round, and all of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Debated {
    /// The last round.
    #[serde(flatten)]
    pub last: Round,
    /// All rounds, the first one first.
    pub rounds: Vec<Round>,
    /// How many samples cost what a debate costs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub costs_samples: Option<usize>,
}

/// One outcome a question, in the order of the questions: a string of letters.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Letters(pub Vec<Outcome>);

impl Serialize for Letters {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&Outcome::write(self.0.iter().copied()))
    }
}

impl<'de> Deserialize<'de> for Letters {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Outcome::read(&String::deserialize(from)?).map(Self).map_err(|e| match e {
            Error::Input { problem, .. } => D::Error::custom(problem),
            other => D::Error::custom(other),
        })
    }
}

/// One number below 36 a question: a string of digits, `a` to `z` after `9`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Digits(pub Vec<usize>);

impl Serialize for Digits {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let digit = |n: &usize| char::from_digit((*n).min(35) as u32, 36).unwrap_or('z');
        to.serialize_str(&self.0.iter().map(digit).collect::<String>())
    }
}

impl<'de> Deserialize<'de> for Digits {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let digit = |c: char| c.to_digit(36).map(|d| d as usize);
        let expected = || D::Error::custom(format!("found {text:?}, expected digits of base 36"));
        text.chars().map(digit).collect::<Option<_>>().map(Self).ok_or_else(expected)
    }
}

/// How every question went by every way to ask.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcomes {
    /// By generator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub greedy: Option<Vec<Letters>>,
    /// By generator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub single: Option<Vec<Letters>>,
    /// Of the vote.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub majority: Option<Letters>,
    /// By sample.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples: Option<Vec<Letters>>,
    /// By round and agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub debate: Option<Vec<Vec<Letters>>>,
    /// Of the vote, by round.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vote: Option<Vec<Letters>>,
    /// How many agents gave the vote's answer, by round.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub votes: Option<Vec<Digits>>,
}

/// Where the labels of training questions come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The vote of a debate or of samples.
    Vote,
    /// Every answer is its own label.
    #[serde(rename = "own answers")]
    OwnAnswers,
    /// Reference answers were asked for.
    #[serde(rename = "reference answers")]
    References,
}

/// Labels of training questions: how many, and how many of them are right.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PseudoLabels {
    /// Where they come from.
    pub source: Source,
    /// Training questions.
    pub questions: usize,
    /// Those to which nobody has an answer.
    pub unanswered: usize,
    /// Those with a label.
    pub labelled: usize,
    /// The share with a label.
    pub coverage: f64,
    /// The share of right labels.
    pub accuracy: f64,
    /// Over labelled questions.
    pub standard_error: f64,
    /// The share of right votes of each round.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vote_accuracy_by_round: Vec<f64>,
    /// How far agents agree.
    #[serde(flatten)]
    pub agreement: Agreement,
    /// What the turns were like.
    #[serde(flatten)]
    pub rates: Rates,
    /// The arm's training is given right answers.
    #[serde(default, skip_serializing_if = "is_false")]
    pub asks_for_labels: bool,
}

/// How different agents are, see `recipe::Diversity`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Diversity {
    /// Questions whose debates were measured.
    pub questions: usize,
    /// Negative log-likelihood of the other agents' responses, nats a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nll: Option<Measured>,
    /// KL divergence between agents, nats a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kl: Option<Measured>,
    /// KL divergence of each agent from the base, nats a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kl_base: Option<Measured>,
    /// 1 - cosine between responses that match the vote.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embedding: Option<Measured>,
    /// Of the last round.
    #[serde(flatten)]
    pub answers: AnswerDiversity,
    /// Of the first round.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_round: Option<AnswerDiversity>,
    /// Negative log-likelihood of fixed text of another kind under each generator, nats a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub off_task_nll: Option<Measured>,
}

impl Diversity {
    /// The measures of texts that were taken, by name.
    pub fn of_texts(&self) -> impl Iterator<Item = (&'static str, &Measured)> {
        let all = [
            ("nll", &self.nll),
            ("kl", &self.kl),
            ("kl_base", &self.kl_base),
            ("embedding", &self.embedding),
            ("off_task_nll", &self.off_task_nll),
        ];
        all.into_iter().filter_map(|(name, measured)| Some((name, measured.as_ref()?)))
    }
}

/// A measure of texts, and how it was taken.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The mean over questions, or over agents.
    #[serde(deserialize_with = "number")]
    pub value: f64,
    /// Over questions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub standard_error: Option<f64>,
    /// Under the base.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<f64>,
    /// Null where an agent has nothing to be measured on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub per_agent: Vec<Option<f64>>,
    /// How it was estimated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimator: Option<String>,
    /// Of what from what.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direction: Option<String>,
    /// What made vectors of texts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoder: Option<String>,
    /// The same of generators on their first answers, where critics write the last ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generators: Option<Box<Measured>>,
    /// Of the fixed text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<usize>,
}

fn number<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f64::NAN))
}

/// How different the answers of a round are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnswerDiversity {
    /// The mean share of agents that give the vote's answer.
    pub consensus: f64,
    /// Different answers to a question.
    pub distinct_answers: f64,
    /// Between pairs of agents; none where no pair has any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_correlation: Option<f64>,
    /// The share of questions that at least one agent answers rightly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pass_at_n: Option<f64>,
}

/// A fixed text's negative log-likelihood, nats a token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OffTask {
    /// The mean over agents.
    #[serde(deserialize_with = "number")]
    pub value: f64,
    /// Under the base.
    #[serde(deserialize_with = "number")]
    pub base: f64,
    /// Under each generator.
    pub per_agent: Vec<Option<f64>>,
    /// Of the text.
    pub tokens: usize,
}

/// What each adapter was finetuned on, in the order of training; an object in the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Training(pub Vec<(String, Trained)>);

impl Serialize for Training {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().map(|(adapter, trained)| (adapter, trained)))
    }
}

impl<'de> Deserialize<'de> for Training {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let all = Map::<String, Value>::deserialize(from)?.into_iter();
        let read = |(adapter, fields)| Ok((adapter, Trained::deserialize(fields)?));
        all.map(read).collect::<serde_json::Result<_>>().map(Self).map_err(D::Error::custom)
    }
}

/// What one adapter was finetuned on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Trained {
    /// How its data came about.
    pub data: Data,
    /// Sequences.
    pub examples: usize,
    /// Tokens with loss, over all steps.
    pub tokens: u64,
    /// Before each step; none of a step that was left out.
    pub loss: Vec<Option<f32>>,
    /// Before clipping; none of a step that was left out.
    pub grad_norm: Vec<Option<f32>>,
    /// Of each step; none of a step that was left out.
    pub learning_rate: Vec<Option<f32>>,
    /// Steps that were left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOut>,
}

/// An optimizer step that was left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Which.
    pub step: u64,
    /// Why.
    pub fault: String,
}

/// How an adapter's data came about.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Data {
    /// What answers were held against, where that was no vote.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<String>,
    /// Answers that came after a hint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hinted: Option<usize>,
    /// A critic's mix.
    #[serde(flatten)]
    pub mix: Option<Mix>,
    /// Where a number of tokens was to be reached.
    #[serde(flatten)]
    pub target: Option<Target>,
}

/// What a critic's data were made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mix {
    /// Trajectories from a wrong answer to the vote.
    pub corrected: usize,
    /// Trajectories that had the vote's answer all along.
    pub confirmed: usize,
    /// Taken of the first.
    pub corrected_taken: usize,
    /// Taken of the others.
    pub confirmed_taken: usize,
    /// The share of corrected ones that was asked for.
    pub critic_mix: f32,
    /// The share among those taken; null if nothing was.
    pub effective_mix: Option<f64>,
}

/// Training until as many tokens have been in a batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// How many.
    pub gradient_tokens: u64,
    /// How often that goes over the data; null without data.
    pub passes: Option<f64>,
}

/// What an iteration cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Compute {
    /// Of all adapters that are trained.
    pub adapter_parameters: usize,
    /// In the order in which they ended.
    pub phases: Vec<Cost>,
}

/// What a phase cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// `debate`, `finetune`, `dev`, ….
    pub phase: String,
    /// Tokens of prompts.
    pub prompt_tokens: u64,
    /// Tokens that were sampled.
    pub sampled_tokens: u64,
    /// Tokens of sequences that carried gradients.
    pub gradient_tokens: u64,
    /// Floating-point operations.
    pub flop: f64,
}

/// A line of times.jsonl: how long a phase of a lane took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Time {
    /// The arm.
    pub arm: String,
    /// The seed.
    pub seed: u64,
    /// The iteration, 0 before training.
    pub iteration: u64,
    /// `debate`, `finetune`, `dev`, ….
    pub phase: String,
    /// Wall time.
    pub seconds: f64,
}

impl Time {
    /// From a JSON object. An error names the field; the caller knows the file and the line.
    pub fn read(object: Map<String, Value>) -> Result<Self> {
        read(object)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn line(text: &str) -> Result<Line> {
        Line::read(serde_json::from_str(text).unwrap())
    }

    const TRAINING: [&str; 3] = [
        r#"{"arm":"m","seed":0,"iteration":1,"name":"training","generator-0":{"data":{},"examples":2,"tokens":424,"loss":[0.09098641574382782,null],"grad_norm":[0.06246146187186241,null],"learning_rate":[0.0005000000237487257,null],"left_out":[{"step":2,"fault":"the gradient norm is not finite"}]},"critic-0":{"data":{"corrected":1,"confirmed":0,"corrected_taken":0,"confirmed_taken":0,"critic_mix":0.30000001192092896,"effective_mix":null},"examples":0,"tokens":0,"loss":[],"grad_norm":[],"learning_rate":[]}}"#,
        r#"{"arm":"s","seed":0,"iteration":1,"name":"training","agent":{"data":{"gradient_tokens":0,"passes":null},"examples":0,"tokens":0,"loss":[],"grad_norm":[],"learning_rate":[]}}"#,
        r#"{"arm":"t","seed":0,"iteration":1,"name":"training","agent":{"data":{"labels":"reference","hinted":3},"examples":4,"tokens":0,"loss":[],"grad_norm":[],"learning_rate":[]}}"#,
    ];

    #[test]
    fn every_kind_of_line_is_read_and_written_as_it_was() {
        let mut kinds = BTreeSet::new();
        let mut same = |text: &str| {
            let read = line(text).unwrap_or_else(|e| panic!("{e}: {text}"));
            kinds.insert(read.record.name());
            assert_eq!(read.text().unwrap(), text);
        };
        // Whole runs, as they were written.
        let results = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/results");
        for run in ["quick", "full-second-base"] {
            let text = std::fs::read_to_string(results.join(run).join("metrics.jsonl")).unwrap();
            text.lines().filter(|l| !l.starts_with("{\"schema\"")).for_each(&mut same);
        }
        TRAINING.into_iter().for_each(&mut same);
        let expected = ["compute", "dev", "diversity", "pseudo-labels", "test", "training"];
        assert_eq!(kinds.into_iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn numbers_that_are_not_finite_are_null() {
        let text = r#"{"arm":"m","seed":0,"iteration":0,"name":"diversity","questions":1,"nll":{"value":null,"per_agent":[null]},"consensus":1.0,"distinct_answers":1.0}"#;
        let read = line(text).unwrap();
        let Record::Diversity(diversity) = &read.record else { panic!("{read:?}") };
        assert!(diversity.nll.as_ref().unwrap().value.is_nan());
        assert_eq!(read.text().unwrap(), text);
    }

    #[test]
    fn what_is_no_record_is_an_error_that_names_the_field() {
        let error = |change: &dyn Fn(&mut Value)| {
            let mut value: Value = serde_json::from_str(TRAINING[2]).unwrap();
            change(&mut value);
            line(&value.to_string()).unwrap_err().to_string()
        };
        let of = |name: &str, fields: Value| {
            let head = json!({"arm": "m", "seed": 0, "iteration": 0, "name": name});
            let mut line = head.as_object().unwrap().clone();
            line.extend(fields.as_object().unwrap().clone());
            Line::read(line).unwrap_err().to_string()
        };
        let e = error(&|v| v["agent"]["data"]["hintd"] = 3.into());
        assert_eq!(e, "training: agent.data.hintd: unknown field");
        let e = error(&|v| v["agent"]["loss"] = "none".into());
        assert!(e.starts_with("training: agent: invalid type: string \"none\""), "{e}");
        assert_eq!(error(&|v| v["seed"] = (-1).into()), "seed: found no whole number, expected one");
        let e = of("dve", json!({}));
        assert!(e.starts_with("name: found `dve`, expected dev, test, transfer-dev"), "{e}");
        assert_eq!(of("dev", json!({})), "dev: fields: missing field `questions`");
        let greedy = json!({"accuracy": 0.5, "standard_error": 0.1, "parse_rte": 1.0});
        let e = of("dev", json!({"questions": 3, "greedy": greedy}));
        assert_eq!(e, "dev: greedy.parse_rte: unknown field");
        let e = of("dev", json!({"questions": 3, "greedy": {"acuracy": 0.5, "standard_error": 0.1}}));
        assert_eq!(e, "dev: greedy: missing field `accuracy`");
        let e = of("test", json!({"questions": 1, "outcomes": {"majority": "x"}}));
        assert!(e.starts_with("test: outcomes: found `x` at question 0, expected one of"), "{e}");
        let e = of("test", json!({"questions": 1, "outcomes": {"votes": ["0 "]}}));
        assert!(e.starts_with("test: outcomes: found \"0 \", expected digits"), "{e}");
        let phase = json!({"phase": "dev", "prompt_tokens": 1, "sampled_tokens": 1, "flop": 1.0});
        let e = of("compute", json!({"adapter_parameters": 1, "phases": [phase]}));
        assert_eq!(e, "compute: phases: missing field `gradient_tokens`");
    }
}
