//! The engine as lanes share it.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::LocalBoxFuture;

use super::engine::Engine;
use super::request::*;
use super::sampler::{Hear, Submitted};
use super::scope::Service;
use super::waves::Driver;
use crate::adapter::Snapshot;
use crate::error::{Error, Result};

/// A shared engine. Cloning shares it; the engine goes with its last handle.
#[derive(Clone)]
pub struct EngineHandle(Rc<RefCell<Engine>>);

impl EngineHandle {
    /// Shares an engine.
    pub fn new(engine: Engine) -> Self {
        Self(Rc::new(RefCell::new(engine)))
    }

    /// Looks at the engine, or does what is no [`Service`].
    pub fn with<T>(&self, look: impl FnOnce(&mut Engine) -> T) -> T {
        look(&mut self.0.borrow_mut())
    }
}

impl EngineHandle {
    /// [`Engine::sample_aloud`].
    pub fn sample_aloud(
        &self,
        request: SampleRequest,
        hear: Hear,
    ) -> LocalBoxFuture<'static, Result<Sample>> {
        submitted(self.with(|e| e.sample_aloud(request, hear)))
    }

    /// [`Engine::create`].
    pub fn create(&self, source: AdapterSource) -> Result<AdapterId> {
        self.with(|e| e.create(&source))
    }

    /// [`Engine::drop_adapter`].
    pub fn drop_adapter(&self, adapter: AdapterId) -> Result<()> {
        self.with(|e| e.drop_adapter(adapter))
    }

    /// [`Engine::snapshot`].
    pub fn snapshot(&self, adapter: AdapterId, moments: bool) -> Result<Snapshot> {
        self.with(|e| e.snapshot(adapter, moments))
    }

    /// [`Engine::restore`].
    pub fn restore(&self, adapter: AdapterId, snapshot: &Snapshot) -> Result<()> {
        self.with(|e| e.restore(adapter, snapshot))
    }
}

impl Service for EngineHandle {
    fn sample(&self, request: SampleRequest) -> LocalBoxFuture<'static, Result<Sample>> {
        submitted(self.with(|e| e.sample(request)))
    }

    fn score(&self, request: ScoreRequest) -> LocalBoxFuture<'static, Result<Score>> {
        queued(self.with(|e| e.score(request)))
    }

    fn embed(&self, request: EmbedRequest) -> LocalBoxFuture<'static, Result<Embedding>> {
        queued(self.with(|e| e.embed(request)))
    }

    fn train(&self, request: TrainRequest) -> LocalBoxFuture<'static, Result<Vec<StepMetrics>>> {
        queued(self.with(|e| e.train(request)))
    }

    fn next_priority(&self) -> u64 {
        self.with(Engine::next_priority)
    }

    fn base_parameters(&self) -> usize {
        self.with(|e| e.config().parameters())
    }

    // These are quick: they are done at once, in the order of the calls.
    fn create(&self, source: AdapterSource) -> LocalBoxFuture<'static, Result<AdapterId>> {
        answered(self.create(source))
    }

    fn drop_adapter(&self, adapter: AdapterId) -> LocalBoxFuture<'static, Result<()>> {
        answered(self.drop_adapter(adapter))
    }

    fn snapshot(&self, adapter: AdapterId, moments: bool) -> LocalBoxFuture<'static, Result<Snapshot>> {
        answered(self.snapshot(adapter, moments))
    }

    fn restore(&self, adapter: AdapterId, snapshot: Arc<Snapshot>) -> LocalBoxFuture<'static, Result<()>> {
        answered(self.restore(adapter, &snapshot))
    }
}

impl Driver for EngineHandle {
    fn step(&self) -> Result<bool> {
        self.with(Engine::step)
    }

    /// All that lanes wait for is queued here: nothing comes from elsewhere.
    fn idle(&self, lanes: usize) -> Result<()> {
        Err(Error::Internal(format!("the engine has nothing to do while {lanes} lanes wait")))
    }

    fn forget_before(&self, iteration: usize) {
        self.with(|e| e.forget_before(iteration));
    }
}

fn submitted(submitted: Result<Submitted>) -> LocalBoxFuture<'static, Result<Sample>> {
    match submitted {
        Ok(Submitted::Done(sample)) => answered(Ok(sample)),
        Ok(Submitted::Pending(receiver)) => delivered(receiver),
        Err(e) => answered(Err(e)),
    }
}

fn answered<T: 'static>(answer: Result<T>) -> LocalBoxFuture<'static, Result<T>> {
    std::future::ready(answer).boxed_local()
}

fn queued<T: 'static>(receiver: Result<oneshot::Receiver<Result<T>>>) -> LocalBoxFuture<'static, Result<T>> {
    receiver.map_or_else(|e| answered(Err(e)), delivered)
}

fn delivered<T: 'static>(receiver: oneshot::Receiver<Result<T>>) -> LocalBoxFuture<'static, Result<T>> {
    let gone = || Err(Error::Internal("the engine ended before it answered".into()));
    receiver.map(move |answer| answer.unwrap_or_else(|_| gone())).boxed_local()
}
