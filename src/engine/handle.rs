//! The engine as lanes share it, and the loop that runs them.

use std::cell::RefCell;
use std::rc::Rc;

use futures::FutureExt;
use futures::channel::oneshot;
use futures::executor::LocalPool;
use futures::future::LocalBoxFuture;
use futures::task::LocalSpawnExt;

use super::engine::Engine;
use super::lane::Service;
use super::request::*;
use super::sampler::Submitted;
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

impl Service for EngineHandle {
    fn sample(&self, request: SampleRequest) -> LocalBoxFuture<'static, Result<Sample>> {
        match self.with(|e| e.sample(request)) {
            Ok(Submitted::Done(sample)) => std::future::ready(Ok(sample)).boxed_local(),
            Ok(Submitted::Pending(receiver)) => delivered(receiver),
            Err(e) => std::future::ready(Err(e)).boxed_local(),
        }
    }

    fn score(&self, request: ScoreRequest) -> LocalBoxFuture<'static, Result<Score>> {
        match self.with(|e| e.score(request)) {
            Ok(receiver) => delivered(receiver),
            Err(e) => std::future::ready(Err(e)).boxed_local(),
        }
    }

    fn embed(&self, request: EmbedRequest) -> LocalBoxFuture<'static, Result<Embedding>> {
        match self.with(|e| e.embed(request)) {
            Ok(receiver) => delivered(receiver),
            Err(e) => std::future::ready(Err(e)).boxed_local(),
        }
    }

    fn train(&self, request: TrainRequest) -> LocalBoxFuture<'static, Result<Vec<StepMetrics>>> {
        match self.with(|e| e.train(request)) {
            Ok(receiver) => delivered(receiver),
            Err(e) => std::future::ready(Err(e)).boxed_local(),
        }
    }

    fn base_parameters(&self) -> usize {
        self.with(|e| e.config().parameters())
    }

    fn create(&self, source: AdapterSource) -> Result<AdapterId> {
        self.with(|e| e.create(&source))
    }

    fn drop_adapter(&self, adapter: AdapterId) -> Result<()> {
        self.with(|e| e.drop_adapter(adapter))
    }

    fn snapshot(&self, adapter: AdapterId, moments: bool) -> Result<Snapshot> {
        self.with(|e| e.snapshot(adapter, moments))
    }

    fn restore(&self, adapter: AdapterId, snapshot: &Snapshot) -> Result<()> {
        self.with(|e| e.restore(adapter, snapshot))
    }
}

fn delivered<T: 'static>(receiver: oneshot::Receiver<Result<T>>) -> LocalBoxFuture<'static, Result<T>> {
    let gone = || Err(Error::Internal("the engine ended before it answered".into()));
    receiver.map(move |answer| answer.unwrap_or_else(|_| gone())).boxed_local()
}

/// Runs lanes to their end: lets all of them go on until each waits for the engine, then does a step of it, and so on. The first
/// error of a lane ends the run.
pub fn run_lanes(engine: &EngineHandle, lanes: Vec<LocalBoxFuture<'static, Result<()>>>) -> Result<()> {
    let mut pool = LocalPool::new();
    let left = Rc::new(RefCell::new((lanes.len(), None::<Error>)));
    for lane in lanes {
        let left = left.clone();
        let outcome = async move {
            let result = lane.await;
            let mut left = left.borrow_mut();
            left.0 -= 1;
            if let (Err(e), None) = (result, &left.1) {
                left.1 = Some(e);
            }
        };
        pool.spawner()
            .spawn_local(outcome)
            .map_err(|e| Error::Internal(format!("a lane cannot be started: {e}")))?;
    }
    loop {
        pool.run_until_stalled();
        let waiting = {
            let mut left = left.borrow_mut();
            if let Some(e) = left.1.take() {
                return Err(e);
            }
            left.0
        };
        if waiting == 0 {
            return Ok(());
        }
        if !engine.with(Engine::step)? {
            return Err(Error::Internal(format!("the engine has nothing to do while {waiting} lanes wait")));
        }
    }
}
