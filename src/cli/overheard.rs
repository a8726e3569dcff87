//! An engine that is overheard: what its samples say is shown as it comes, and every one that is complete is counted.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::LocalBoxFuture;

use super::screen::{Screen, Speaker};
use crate::adapter::Snapshot;
use crate::engine::*;
use crate::error::Result;
use crate::text::{Codec, GrowingText};

/// An engine that tells the screen what its samples say. What they say does not depend on it.
pub struct Overheard {
    /// The engine.
    pub engine: EngineHandle,
    /// Reads tokens.
    pub codec: Rc<dyn Codec>,
    /// Where they are shown.
    pub screen: Rc<Screen>,
    /// The phase that counts samples.
    pub phase: &'static str,
    /// Who speaks, by draw key; other samples are only counted.
    pub names: HashMap<u64, String>,
}

impl Service for Overheard {
    fn sample(&self, request: SampleRequest) -> LocalBoxFuture<'static, Result<Sample>> {
        let speaker = self.names.get(&request.key).and_then(|name| self.screen.speaker(name)).map(Rc::new);
        let sample = match &speaker {
            Some(speaker) => self.engine.sample_aloud(request, listening(self.codec.clone(), speaker)),
            None => self.engine.sample(request),
        };
        let (screen, phase) = (self.screen.clone(), self.phase);
        sample
            .inspect(move |_| {
                screen.advance(phase, 1);
                drop(speaker);
            })
            .boxed_local()
    }
    fn score(&self, request: ScoreRequest) -> LocalBoxFuture<'static, Result<Score>> {
        self.engine.score(request)
    }
    fn embed(&self, request: EmbedRequest) -> LocalBoxFuture<'static, Result<Embedding>> {
        self.engine.embed(request)
    }
    fn train(&self, request: TrainRequest) -> LocalBoxFuture<'static, Result<Vec<StepMetrics>>> {
        self.engine.train(request)
    }
    fn next_priority(&self) -> u64 {
        self.engine.next_priority()
    }
    fn base_parameters(&self) -> usize {
        self.engine.base_parameters()
    }
    fn create(&self, source: AdapterSource) -> LocalBoxFuture<'static, Result<AdapterId>> {
        Service::create(&self.engine, source)
    }
    fn drop_adapter(&self, adapter: AdapterId) -> LocalBoxFuture<'static, Result<()>> {
        Service::drop_adapter(&self.engine, adapter)
    }
    fn snapshot(&self, adapter: AdapterId, moments: bool) -> LocalBoxFuture<'static, Result<Snapshot>> {
        Service::snapshot(&self.engine, adapter, moments)
    }
    fn restore(&self, adapter: AdapterId, snapshot: Arc<Snapshot>) -> LocalBoxFuture<'static, Result<()>> {
        Service::restore(&self.engine, adapter, snapshot)
    }
}

/// Tells the speaker each token; nothing once nobody waits for the sample any more.
fn listening(codec: Rc<dyn Codec>, speaker: &Rc<Speaker>) -> Hear {
    let speaker = Rc::downgrade(speaker);
    let (mut tokens, mut shown) = (Vec::new(), GrowingText::default());
    Box::new(move |token| {
        tokens.push(token);
        if let Some(speaker) = speaker.upgrade()
            && let Ok(text) = codec.decode(&tokens)
        {
            speaker.say(shown.grow(&text));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{EMBEDDED, ModelConfig, ModelFiles};
    use crate::text::ChatTokenizer;

    #[test]
    fn a_speaker_says_what_is_drawn_as_long_as_somebody_waits() {
        let files = ModelFiles::named(EMBEDDED).unwrap();
        let codec = ChatTokenizer::new(&files, &ModelConfig::read(&files).unwrap()).unwrap();
        let tokens = codec.encode_continuation("The answer is 7. More").unwrap();
        let codec: Rc<dyn Codec> = Rc::new(codec);
        let (speaker, bar) = Speaker::hidden();
        let speaker = Rc::new(speaker);
        let mut hear = listening(codec.clone(), &speaker);
        for (n, &token) in tokens.iter().enumerate() {
            hear(token);
            assert_eq!(bar.message(), codec.decode(&tokens[..=n]).unwrap().trim());
        }
        drop(speaker);
        hear(tokens[0]);
        assert_eq!(bar.message(), "The answer is 7. More", "nobody waits, nothing is said");
    }
}
