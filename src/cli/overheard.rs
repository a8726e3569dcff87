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
    fn sample(&self, mut request: SampleRequest) -> LocalBoxFuture<'static, Result<Sample>> {
        let speaker = self.names.get(&request.key).and_then(|name| self.screen.speaker(name)).map(Rc::new);
        if let Some(speaker) = &speaker {
            let (codec, speaker) = (self.codec.clone(), speaker.clone());
            request.stop = Some(Rc::new(Listening { inner: request.stop, codec, speaker }));
        }
        let (screen, phase) = (self.screen.clone(), self.phase);
        self.engine
            .sample(request)
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

/// A stop rule that also tells the speaker each token; it stops where the inner one does.
struct Listening {
    inner: Option<Rc<dyn StopRule>>,
    codec: Rc<dyn Codec>,
    speaker: Rc<Speaker>,
}

impl StopRule for Listening {
    fn id(&self) -> u64 {
        self.inner.as_ref().map_or(0, |rule| rule.id())
    }

    fn watch(&self) -> Box<dyn FnMut(u32) -> bool> {
        let mut inner = self.inner.as_ref().map(|rule| rule.watch());
        let (codec, speaker) = (self.codec.clone(), Rc::downgrade(&self.speaker));
        let (mut tokens, mut shown) = (Vec::new(), GrowingText::default());
        Box::new(move |token| {
            tokens.push(token);
            // Gone when nobody waits for the sample any more.
            if let Some(speaker) = speaker.upgrade()
                && let Ok(text) = codec.decode(&tokens)
            {
                speaker.say(shown.grow(&text));
            }
            inner.as_mut().is_some_and(|ends_with| ends_with(token))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{EMBEDDED, ModelConfig, ModelFiles};
    use crate::text::ChatTokenizer;

    #[test]
    fn listening_changes_neither_where_a_sample_stops_nor_its_identity() {
        let files = ModelFiles::named(EMBEDDED).unwrap();
        let codec = ChatTokenizer::new(&files, &ModelConfig::read(&files).unwrap()).unwrap();
        let tokens = codec.encode_continuation("The answer is 7. More").unwrap();
        let codec: Rc<dyn Codec> = Rc::new(codec);
        for strings in [vec![], vec!["is 7".to_string()], vec!["no such".to_string()]] {
            let inner = codec.stop_rule(&strings);
            let (speaker, bar) = Speaker::hidden();
            let speaker = Rc::new(speaker);
            let rule = Listening { inner: inner.clone(), codec: codec.clone(), speaker: speaker.clone() };
            assert_eq!(rule.id(), inner.as_ref().map_or(0, |i| i.id()));
            let (mut heard, mut alone) = (rule.watch(), inner.map(|i| i.watch()));
            for (n, &token) in tokens.iter().enumerate() {
                assert_eq!(heard(token), alone.as_mut().is_some_and(|a| a(token)), "{strings:?}");
                assert_eq!(bar.message(), codec.decode(&tokens[..=n]).unwrap().trim());
            }
            drop((rule, speaker));
            heard(tokens[0]);
            assert_eq!(bar.message(), "The answer is 7. More", "nobody waits, nothing is said");
        }
    }
}
