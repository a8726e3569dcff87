//! How one speaks: a conversation becomes a prompt, the prompt a request, its sample an utterance.

use std::rc::Rc;
use std::sync::Arc;

use super::{DrawId, Utterance};
use crate::engine::{AdapterId, Finish, Sample, SampleKind, SampleRequest, SamplingParams, Scope};
use crate::error::{Error, Result};
use crate::run::SamplingSection;
use crate::text::{Codec, Message, cut_at_stop};

/// An agent's weights: an adapter, or several adapters whose distributions are mixed at every token.
#[derive(Clone, Debug, PartialEq)]
pub struct Speaker(Vec<(AdapterId, f32)>);

impl Speaker {
    /// Mixes adapters. The weights sum to 1; the engine refuses others.
    pub fn mixture(adapters: impl Into<Vec<(AdapterId, f32)>>) -> Self {
        Self(adapters.into())
    }

    /// The adapters, each of which computes every token, with their weights.
    pub fn adapters(&self) -> &[(AdapterId, f32)] {
        &self.0
    }

    /// The adapter of a speaker that is no mixture.
    pub fn alone(&self) -> Option<AdapterId> {
        if let [(adapter, _)] = self.0[..] { Some(adapter) } else { None }
    }
}

impl From<AdapterId> for Speaker {
    fn from(adapter: AdapterId) -> Self {
        Self(vec![(adapter, 1.0)])
    }
}

/// What all speakers share: the tokenizer and how tokens are drawn.
pub struct Voice {
    codec: Rc<dyn Codec>,
    sampling: SamplingSection,
}

impl Voice {
    /// From the configuration.
    pub fn new(codec: Rc<dyn Codec>, sampling: SamplingSection) -> Self {
        Self { codec, sampling }
    }

    /// The codec.
    pub fn codec(&self) -> &dyn Codec {
        &*self.codec
    }

    /// The most tokens of an utterance.
    pub fn max_tokens(&self, kind: SampleKind) -> u32 {
        match kind {
            SampleKind::Summary => self.sampling.summary_max_tokens,
            SampleKind::FirstAnswer | SampleKind::LaterAnswer => self.sampling.max_tokens,
        }
    }

    /// A prompt's tokens, as many as there are. `None` for a text that is refused before it is
    /// tokenized.
    pub fn prompt(&self, messages: &[Message]) -> Result<Option<Vec<u32>>> {
        match self.codec.prompt(messages) {
            Ok(tokens) => Ok(Some(tokens)),
            Err(Error::TooLong { .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// A prompt's tokens, if they leave room for an answer.
    pub fn fitting(&self, messages: &[Message]) -> Result<Option<Vec<u32>>> {
        Ok(self.prompt(messages)?.filter(|tokens| tokens.len() < self.codec.max_positions()))
    }

    /// What the engine is asked to draw.
    pub fn request(&self, speaker: &Speaker, prompt: Arc<[u32]>, draw: &DrawId<'_>) -> SampleRequest {
        let SamplingSection { temperature, top_k, top_p, min_p, .. } = self.sampling;
        let kind = draw.sample_kind();
        SampleRequest {
            adapters: speaker.adapters().to_vec(),
            prompt,
            params: SamplingParams { temperature, top_k, top_p, min_p, max_tokens: self.max_tokens(kind) },
            key: draw.key(),
            iteration: draw.occasion.iteration,
            kind,
            priority: 0,
            stop: self.codec.stop(&self.sampling.stop),
        }
    }

    /// Draws what is requested, in one call (none if nothing is).
    pub async fn speak(
        &self,
        scope: &Scope,
        requests: Vec<Option<SampleRequest>>,
    ) -> Result<Vec<Option<Utterance>>> {
        let prompts: Vec<_> = requests.iter().map(|r| r.as_ref().map(|r| r.prompt.clone())).collect();
        let requests: Vec<_> = requests.into_iter().flatten().collect();
        if requests.is_empty() {
            return Ok(vec![None; prompts.len()]);
        }
        let mut samples = scope.sample(requests).await?.into_iter();
        let utterance = |prompt: Option<Arc<[u32]>>| {
            let Some(prompt) = prompt else { return Ok(None) };
            let sample = samples.next();
            let sample = sample.ok_or_else(|| Error::Internal("fewer samples than requests".into()))?;
            self.utterance(prompt, sample).map(Some)
        };
        prompts.into_iter().map(utterance).collect()
    }

    fn utterance(&self, prompt_ids: Arc<[u32]>, sample: Sample) -> Result<Utterance> {
        let mut text = self.codec.decode(&sample.tokens)?;
        if sample.finish == Finish::Stop {
            text.truncate(cut_at_stop(&text, &self.sampling.stop).len());
        }
        let total: f64 = sample.logprobs.iter().map(|&l| f64::from(l)).sum();
        Ok(Utterance {
            text,
            prompt_tokens: prompt_ids.len(),
            tokens: sample.tokens.len(),
            finish: sample.finish,
            mean_logprob: total / sample.logprobs.len().max(1) as f64,
            prompt_ids,
            ids: sample.tokens,
        })
    }
}
