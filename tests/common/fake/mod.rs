//! A scripted engine, codec, journal and output: recipes run on them without a model.

pub mod house;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{self, Poll, Waker};

use colloquy::adapter::Snapshot;
use colloquy::backend::{LoraMatrix, PartId};
use colloquy::debate::{DrawId, DrawKind, Occasion};
use colloquy::engine::*;
use colloquy::error::{Error, Result};
use colloquy::measure::record::Record;
use colloquy::recipe::{Context, Material, Recipes, run_arm};
use colloquy::run::{Event, Output, RunConfig, TaskSection};
use colloquy::task::{AnswerKey, Question, Questions, Task, open};
use colloquy::text::{Codec, Message};
use futures::future::LocalBoxFuture;
use serde_json::Value;

const END: u32 = 1;
const USER: u32 = 2;
const ASSISTANT: u32 = 3;

/// One token a character, and one for each role and end of turn.
pub struct CharCodec {
    pub max_positions: usize,
}

/// The scripted engine stops by itself.
impl StopRules for CharCodec {
    fn tokenizer(&self) -> u64 {
        0
    }

    fn watch(&self, _strings: &[String]) -> Watch {
        Box::new(|_| false)
    }
}

impl Codec for CharCodec {
    fn prompt(&self, messages: &[Message]) -> Result<Vec<u32>> {
        let mut tokens = self.training(messages)?.0;
        tokens.push(ASSISTANT);
        Ok(tokens)
    }

    fn training(&self, messages: &[Message]) -> Result<(Vec<u32>, Vec<f32>)> {
        let (mut tokens, mut weights) = (vec![], vec![]);
        for m in messages {
            let said = m.role == "assistant";
            tokens.push(if said { ASSISTANT } else { USER });
            weights.push(0.0);
            tokens.extend(m.content.chars().map(u32::from));
            tokens.push(END);
            weights.resize(tokens.len(), if said { m.weight.map_or(1.0, f32::from) } else { 0.0 });
        }
        // As the real one refuses what no context can hold, without telling how many tokens it has.
        if tokens.len() > 2 * self.max_positions {
            return Err(Error::TooLong { place: "messages".into(), problem: "found a long text".into() });
        }
        Ok((tokens, weights))
    }

    fn text(&self, text: &str) -> Result<Vec<u32>> {
        Ok(text.chars().map(u32::from).collect())
    }

    fn decode(&self, tokens: &[u32]) -> Result<String> {
        Ok(tokens.iter().filter(|t| **t > ASSISTANT).filter_map(|t| char::from_u32(*t)).collect())
    }

    fn max_positions(&self) -> usize {
        self.max_positions
    }
}

/// A sample request as the script sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// `answer`, `summary`, `hint` or `greedy`.
    pub kind: &'static str,
    pub purpose: &'static str,
    pub iteration: usize,
    /// The question's text (empty for greedy).
    pub question: String,
    pub agent: usize,
    pub round: usize,
    pub sample: usize,
    pub adapter: AdapterId,
    /// What training has made of the adapter; 0 at first.
    pub state: u32,
    /// The conversation's turns.
    pub turns: Vec<String>,
    pub key: u64,
}

pub struct Reply {
    pub text: String,
    pub cut: bool,
}

impl From<&str> for Reply {
    fn from(text: &str) -> Self {
        Reply { text: text.into(), cut: false }
    }
}

impl From<String> for Reply {
    fn from(text: String) -> Self {
        Reply { text, cut: false }
    }
}

pub type Script = Box<dyn Fn(&Asked) -> Reply>;
pub type TokenLogprob = Box<dyn Fn(AdapterId, u32) -> f32>;
pub type Encoder = Box<dyn Fn(&[u32]) -> Vec<f32>>;

/// Answers by the script, logs everything, and finishes samples out of order.
pub struct FakeService {
    script: Script,
    keys: RefCell<HashMap<u64, Asked>>,
    pub asked: RefCell<Vec<Asked>>,
    /// How each sample was to be drawn.
    pub params: RefCell<Vec<SamplingParams>>,
    pub trained: RefCell<Vec<TrainRequest>>,
    pub restored: RefCell<Vec<(AdapterId, u32)>>,
    pub scored: RefCell<Vec<ScoreRequest>>,
    pub embedded: RefCell<Vec<EmbedRequest>>,
    /// The log-probability of a token under an adapter, whatever is before it.
    pub logprob: RefCell<TokenLogprob>,
    /// The hidden state of a stretch.
    pub embedding: RefCell<Encoder>,
    states: RefCell<BTreeMap<AdapterId, u32>>,
    pub dropped: Cell<usize>,
    waiting: Waiting,
    /// Changes the order in which samples finish.
    pub jitter: Cell<u64>,
    /// From now on sampling and training are errors.
    pub closed: Cell<bool>,
}

/// What waits for the next step.
type Waiting = Rc<RefCell<Vec<Waker>>>;

/// Ready after some steps.
struct After<T>(u64, Option<T>, Waiting);

impl<T: Unpin> Future for After<T> {
    type Output = T;
    fn poll(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<T> {
        if self.0 == 0 {
            return Poll::Ready(self.1.take().expect("polled once more"));
        }
        self.0 -= 1;
        self.2.borrow_mut().push(context.waker().clone());
        Poll::Pending
    }
}

impl FakeService {
    /// This answer, after so many steps.
    fn after<T: Unpin + 'static>(&self, steps: u64, answer: T) -> LocalBoxFuture<'static, Result<T>> {
        Box::pin(After(steps, Some(Ok(answer)), self.waiting.clone()))
    }

    /// Runs one lane to its end.
    pub fn drive<T: 'static>(&self, lane: impl Future<Output = Result<T>> + 'static) -> Result<T> {
        run_lane(self, lane)
    }
}

impl Driver for FakeService {
    fn step(&self) -> Result<bool> {
        let waiting = self.waiting.take();
        waiting.iter().for_each(Waker::wake_by_ref);
        Ok(!waiting.is_empty())
    }

    fn idle(&self, lanes: usize) -> Result<()> {
        panic!("{lanes} lanes wait for nothing")
    }

    fn forget_before(&self, _iteration: usize) {}
}

fn snapshot(state: u32) -> Snapshot {
    Snapshot { weights: vec![(PartId(0), LoraMatrix::A, vec![state as f32])], ..Snapshot::default() }
}

pub fn blank() -> Snapshot {
    snapshot(0)
}

pub fn state(snapshot: &Snapshot) -> u32 {
    snapshot.weights[0].2[0] as u32
}

impl Service for FakeService {
    fn sample(&self, request: SampleRequest) -> LocalBoxFuture<'static, Result<Sample>> {
        assert!(!self.closed.get(), "sampled what the journal has");
        self.params.borrow_mut().push(request.params);
        let adapter = request.adapters[0].0;
        let text: String =
            request.prompt.iter().map(|t| char::from_u32(*t).unwrap()).filter(|c| *c != '\u{1}').collect();
        let turns: Vec<String> = text.split(['\u{2}', '\u{3}']).map(Into::into).collect();
        let mut asked = if request.params.temperature == 0.0 {
            Asked { kind: "greedy", ..unknown() }
        } else {
            self.keys.borrow().get(&request.key).expect("a known draw key").clone()
        };
        asked.adapter = adapter;
        asked.state = self.states.borrow().get(&adapter).copied().unwrap_or(0);
        asked.turns = turns[1..turns.len() - 1].to_vec();
        asked.key = request.key;
        let reply = (self.script)(&asked);
        self.asked.borrow_mut().push(asked);
        let mut tokens: Vec<u32> = reply.text.chars().map(u32::from).collect();
        if !reply.cut {
            tokens.push(END);
        }
        let logprobs = tokens.iter().map(|t| (self.logprob.borrow())(adapter, *t)).collect();
        let finish = if reply.cut { Finish::Length } else { Finish::Stop };
        let wait = (request.key ^ self.jitter.get()).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 61;
        self.after(wait, Sample { tokens, logprobs, finish })
    }

    fn score(&self, request: ScoreRequest) -> LocalBoxFuture<'static, Result<Score>> {
        assert!(!self.closed.get(), "scored what the journal has");
        let logprob = self.logprob.borrow();
        let tokens = request.tokens.iter().skip(1);
        let logprobs: Vec<f32> = tokens.map(|t| logprob(request.adapter, *t)).collect();
        let is_argmax = vec![true; logprobs.len()];
        self.scored.borrow_mut().push(request);
        self.after(1, Score { logprobs, is_argmax })
    }

    fn embed(&self, request: EmbedRequest) -> LocalBoxFuture<'static, Result<Embedding>> {
        assert!(!self.closed.get(), "encoded what the journal has");
        let mean = (self.embedding.borrow())(&request.tokens[request.from..]);
        self.embedded.borrow_mut().push(request);
        self.after(1, Embedding { mean })
    }

    fn next_priority(&self) -> u64 {
        0
    }

    fn base_parameters(&self) -> usize {
        1000
    }

    fn train(&self, request: TrainRequest) -> LocalBoxFuture<'static, Result<Vec<StepMetrics>>> {
        assert!(!self.closed.get(), "trained what the journal has");
        assert!(self.states.borrow().contains_key(&request.adapter));
        // The new state depends on the old one and on everything trained on.
        let old = self.states.borrow()[&request.adapter];
        let all = format!("{old} {:?} {:?}", request.sequences, request.steps);
        let new = (draw_key(&[all.as_bytes()]) >> 44) as u32;
        self.states.borrow_mut().insert(request.adapter, new);
        let metrics = request
            .steps
            .iter()
            .enumerate()
            .map(|(i, s)| StepMetrics {
                step: i as u32 + 1,
                loss: 1.0,
                grad_norm: 0.5,
                learning_rate: s.learning_rate,
                tokens: s.sequences.iter().map(|&i| request.sequences[i as usize].tokens.len() as u64).sum(),
                fault: None,
            })
            .collect();
        self.trained.borrow_mut().push(request);
        self.after(1, metrics)
    }

    fn create(&self, source: AdapterSource) -> LocalBoxFuture<'static, Result<AdapterId>> {
        let AdapterSource::Snapshot(initial) = source else { panic!("recipes make adapters from numbers") };
        let id = AdapterId(self.states.borrow().len() as u32 + 1);
        self.states.borrow_mut().insert(id, state(&initial));
        self.after(1, id)
    }

    fn drop_adapter(&self, _adapter: AdapterId) -> LocalBoxFuture<'static, Result<()>> {
        self.dropped.set(self.dropped.get() + 1);
        self.after(1, ())
    }

    fn snapshot(&self, adapter: AdapterId, _moments: bool) -> LocalBoxFuture<'static, Result<Snapshot>> {
        self.after(1, snapshot(self.states.borrow()[&adapter]))
    }

    fn restore(&self, adapter: AdapterId, numbers: Arc<Snapshot>) -> LocalBoxFuture<'static, Result<()>> {
        self.restored.borrow_mut().push((adapter, state(&numbers)));
        self.states.borrow_mut().insert(adapter, state(&numbers));
        self.after(1, ())
    }
}

fn unknown() -> Asked {
    Asked {
        kind: "",
        purpose: "",
        iteration: 0,
        question: String::new(),
        agent: 0,
        round: 0,
        sample: 0,
        adapter: AdapterId::BASE,
        state: 0,
        turns: vec![],
        key: 0,
    }
}

/// What a lane's own questions are asked for.
const OWN: [&str; 3] = ["train", "dev", "test"];

/// The keys of everything that may be drawn: also the test that nothing else goes into a key.
fn keys(questions: &Questions, seed: u64, purposes: &[&'static str]) -> HashMap<u64, Asked> {
    let mut keys = HashMap::new();
    for &purpose in purposes {
        for question in questions.train.iter().chain(&questions.dev).chain(&questions.test) {
            for (iteration, kind, agent, round, sample) in every() {
                let asked = Asked {
                    kind,
                    purpose,
                    iteration,
                    question: question.text.clone(),
                    agent,
                    round,
                    sample,
                    ..unknown()
                };
                let occasion = Occasion { seed, iteration, purpose };
                let kind = match kind {
                    "answer" => DrawKind::Answer,
                    "summary" => DrawKind::Summary,
                    _ => DrawKind::Hint,
                };
                let key = DrawId { occasion, kind, question, agent, round, sample }.key();
                assert!(keys.insert(key, asked).is_none(), "two draws share a key");
            }
        }
    }
    keys
}

fn every() -> impl Iterator<Item = (usize, &'static str, usize, usize, usize)> {
    (0..=3).flat_map(|iteration| {
        ["answer", "summary", "hint"].into_iter().flat_map(move |kind| {
            // Hints are of samples, not of agents.
            (0..if kind == "hint" { 1 } else { 5 }).flat_map(move |agent| {
                // Only first answers are drawn more than once.
                let places = (1..=4).map(|round| (round, 0)).chain((1..9).map(|sample| (1, sample)));
                places.map(move |(round, sample)| (iteration, kind, agent, round, sample))
            })
        })
    })
}

/// Keeps everything.
#[derive(Default)]
pub struct MemoryOutput {
    pub metrics: RefCell<BTreeMap<(String, usize, String), Value>>,
    pub transcripts: RefCell<BTreeMap<(String, usize, String), Vec<Value>>>,
    pub datasets: RefCell<BTreeMap<(String, usize, String), Vec<Value>>>,
    pub adapters: RefCell<BTreeMap<(String, usize, String), u32>>,
    pub times: RefCell<Vec<(usize, String)>>,
    pub events: RefCell<Vec<Event>>,
}

impl Output for MemoryOutput {
    fn metrics(&self, lane: &str, iteration: usize, record: Record) -> Result<()> {
        let name = record.name();
        let value = Value::Object(record.fields()?);
        let old = self.metrics.borrow_mut().insert((lane.into(), iteration, name.into()), value);
        assert!(old.is_none(), "{name} twice");
        Ok(())
    }
    fn transcripts(&self, lane: &str, iteration: usize, name: &str, records: &[Value]) -> Result<()> {
        self.transcripts.borrow_mut().insert((lane.into(), iteration, name.into()), records.to_vec());
        Ok(())
    }
    fn dataset(&self, lane: &str, iteration: usize, adapter: &str, records: &[Value]) -> Result<()> {
        self.datasets.borrow_mut().insert((lane.into(), iteration, adapter.into()), records.to_vec());
        Ok(())
    }
    fn adapter(&self, lane: &str, iteration: usize, adapter: &str, numbers: &Snapshot) -> Result<()> {
        self.adapters.borrow_mut().insert((lane.into(), iteration, adapter.into()), state(numbers));
        Ok(())
    }
    fn time(&self, lane: &str, iteration: usize, phase: &str, seconds: f64) -> Result<()> {
        assert!(!lane.is_empty() && seconds >= 0.0);
        self.times.borrow_mut().push((iteration, phase.into()));
        Ok(())
    }
    fn event(&self, event: Event) {
        self.events.borrow_mut().push(event);
    }
}

impl MemoryOutput {
    pub fn metric(&self, iteration: usize, name: &str) -> Value {
        self.metrics.borrow()[&("lane".to_string(), iteration, name.to_string())].clone()
    }
    pub fn transcript(&self, iteration: usize, name: &str) -> Vec<Value> {
        self.transcripts.borrow()[&("lane".to_string(), iteration, name.to_string())].clone()
    }
    pub fn dataset(&self, iteration: usize, name: &str) -> Vec<Value> {
        self.datasets.borrow()[&("lane".to_string(), iteration, name.to_string())].clone()
    }
    pub fn notes(&self) -> Vec<String> {
        let note = |e: &Event| if let Event::Note { text, .. } = e { Some(text.clone()) } else { None };
        self.events.borrow().iter().filter_map(note).collect()
    }
    pub fn phases(&self) -> Vec<(usize, String)> {
        self.times.borrow().clone()
    }
    /// Everything that is stored.
    pub fn stored(&self) -> String {
        format!(
            "{:#?}\n{:#?}\n{:#?}\n{:#?}",
            self.metrics.borrow(),
            self.transcripts.borrow(),
            self.datasets.borrow(),
            self.adapters.borrow()
        )
    }
}

/// A journal in memory; a clone of it resumes.
#[derive(Default)]
pub struct MemoryJournal {
    pub entries: RefCell<BTreeMap<String, Entry>>,
    adapters: RefCell<BTreeMap<String, Vec<u32>>>,
}

impl Journal for MemoryJournal {
    fn replay(&self, call: &str) -> Result<Option<Entry>> {
        Ok(self.entries.borrow().get(call).cloned())
    }
    fn record(&self, call: &str, entry: &Entry) -> Result<()> {
        let old = self.entries.borrow_mut().insert(call.into(), entry.clone());
        assert!(old.is_none(), "{call} was called twice");
        Ok(())
    }
    fn save_adapters(&self, call: &str, adapters: &[Snapshot]) -> Result<()> {
        self.adapters.borrow_mut().insert(call.into(), adapters.iter().map(state).collect());
        Ok(())
    }
    fn load_adapters(&self, call: &str) -> Result<Kept> {
        Ok(Kept::Whole(self.adapters.borrow()[call].iter().map(|s| snapshot(*s)).collect()))
    }
}

/// A configuration with as little as possible.
pub fn config(agents: usize, rounds: usize) -> RunConfig {
    let mut config = RunConfig::default();
    (config.debate.agents, config.debate.rounds) = (agents, rounds);
    config.run.iterations = 1;
    config.eval.before = false;
    config.eval.diversity = 0;
    config
}

/// Prompts that show what went into them.
pub fn task() -> Task {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("first", "Q {{ question }}"),
        ("summary", "SUM {{ question }}{% for r in responses %}<{{ r }}>{% endfor %}"),
        ("debate", "DEB {{ question }} {{ summary }}"),
        ("debate-concat", "CAT {{ question }}{% for r in responses %}<{{ r }}>{% endfor %}"),
        ("alone", "ALONE {{ question }}"),
        ("cooperative", "COOP {{ question }} {{ summary }}"),
        ("cooperative-concat", "TEAM {{ question }}{% for r in responses %}<{{ r }}>{% endfor %}"),
        ("agent-id", "[{{ agent }}/{{ agents }}] {{ prompt }}"),
        ("hint", "HINT {{ question }}={{ answer }}"),
    ] {
        std::fs::write(dir.path().join(format!("{name}.jinja")), text).unwrap();
    }
    let prompts = Some(dir.path().to_str().unwrap().to_string());
    open(&TaskSection { prompts, ..TaskSection::default() }).unwrap()
}

pub struct World {
    pub config: RunConfig,
    pub questions: Rc<Questions>,
    pub answers: Rc<AnswerKey>,
    pub transfer: Option<Material>,
    pub codec: Rc<CharCodec>,
    pub service: Rc<FakeService>,
    pub output: Rc<MemoryOutput>,
    pub journal: Rc<MemoryJournal>,
}

/// `prefix`0, `prefix`1, …
pub fn asks(prefix: &str, count: usize) -> Vec<Question> {
    (0..count).map(|i| Question::new(format!("{prefix}{i}"))).collect()
}

impl World {
    /// `train` questions q0, q1, … and `dev` questions d0, d1, …; the right answer of all is 7.
    pub fn new<R: Into<Reply>>(
        config: RunConfig,
        train: usize,
        dev: usize,
        script: impl Fn(&Asked) -> R + 'static,
    ) -> Self {
        let questions = Questions { train: asks("q", train), dev: asks("d", dev), test: vec![] };
        let answers = questions.train.iter().chain(&questions.dev).map(|q| (q.id.clone(), "7".to_string()));
        let service = FakeService {
            script: Box::new(move |asked| script(asked).into()),
            keys: RefCell::new(keys(&questions, 0, &OWN)),
            asked: RefCell::default(),
            params: RefCell::default(),
            trained: RefCell::default(),
            restored: RefCell::default(),
            scored: RefCell::default(),
            embedded: RefCell::default(),
            logprob: RefCell::new(Box::new(|_, _| -0.5)),
            embedding: RefCell::new(Box::new(|_| vec![1.0])),
            states: RefCell::default(),
            dropped: Cell::new(0),
            waiting: Waiting::default(),
            jitter: Cell::new(0),
            closed: Cell::new(false),
        };
        Self {
            config,
            answers: Rc::new(AnswerKey::new(answers)),
            questions: Rc::new(questions),
            transfer: None,
            codec: Rc::new(CharCodec { max_positions: 10_000 }),
            service: Rc::new(service),
            output: Rc::default(),
            journal: Rc::default(),
        }
    }

    /// Lets other questions be asked too.
    pub fn know(&mut self, questions: &Questions) {
        let purposes = [&OWN[..], &["transfer-dev", "transfer-test"]].concat();
        self.service.keys.borrow_mut().extend(keys(questions, 0, &purposes));
    }

    pub fn try_run(&self, recipe: &str) -> Result<()> {
        let context = Context {
            scope: Scope::lane("lane", self.service.clone(), self.journal.clone()),
            codec: self.codec.clone(),
            task: Rc::new(task()),
            questions: self.questions.clone(),
            answers: self.answers.clone(),
            transfer: self.transfer.clone(),
            output: self.output.clone(),
            seed: 0,
            new_adapter: Rc::new(|_, _| Ok(snapshot(0))),
        };
        self.service.drive(run_arm(Recipes::default().get(recipe)?, &self.config, context))
    }

    pub fn run(self, recipe: &str) -> Self {
        self.try_run(recipe).unwrap();
        self
    }

    /// What was asked in this iteration for training.
    pub fn train_asked(&self, kind: &str, round: usize) -> Vec<Asked> {
        let asked = self.service.asked.borrow();
        asked.iter().filter(|a| a.purpose == "train" && a.kind == kind && a.round == round).cloned().collect()
    }

    pub fn trained(&self, adapter: u32) -> Option<TrainRequest> {
        self.service.trained.borrow().iter().find(|r| r.adapter == AdapterId(adapter)).cloned()
    }
}

/// One error text.
pub fn message(result: Result<()>) -> String {
    let e: Error = result.expect_err("an error");
    e.to_string()
}

/// The `answer` fields of a round of a transcript.
pub fn answers(transcript: &Value, round: usize) -> Vec<Option<String>> {
    let turns = transcript["rounds"][round - 1]["turns"].as_array().unwrap();
    turns.iter().map(|t| t["answer"].as_str().map(Into::into)).collect()
}

/// Answers to training questions by question, round and agent (or sample); `7!` is cut off, `-` is no answer.
pub fn scripted(table: &'static [&'static [&'static [&'static str]]]) -> impl Fn(&Asked) -> Reply + 'static {
    move |a| {
        if a.kind == "summary" || a.purpose != "train" {
            return "nothing".into();
        }
        let question: usize = a.question[1..].parse().unwrap();
        let of_round = table[question][a.round - 1];
        let written = of_round[(a.agent + 3 * a.sample) % of_round.len()];
        let cut = written.ends_with('!');
        let answer = written.trim_end_matches('!').replace('-', "no");
        let who = ["Ann", "Bob", "Cid"][a.agent];
        Reply { text: format!("r{} {who}{}: {answer}", a.round, "'".repeat(a.sample)), cut }
    }
}

/// Text of the tokens with loss, and of those without.
pub fn loss_and_context(request: &TrainRequest, sequence: usize) -> (String, String) {
    let s = &request.sequences[sequence];
    let text = |with: bool| {
        let kept = s.tokens.iter().zip(&s.weights).filter(|(_, w)| (**w != 0.0) == with);
        kept.map(|(t, _)| char::from_u32(*t).unwrap()).collect()
    };
    (text(true), text(false))
}
