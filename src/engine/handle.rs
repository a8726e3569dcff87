//! The engine as lanes share it, and the loop that runs them.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use futures::FutureExt;
use futures::channel::oneshot;
use futures::executor::LocalPool;
use futures::future::LocalBoxFuture;
use futures::task::LocalSpawnExt;

use super::engine::Engine;
use super::request::*;
use super::sampler::Submitted;
use super::scope::Service;
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
        match self.with(|e| e.sample(request)) {
            Ok(Submitted::Done(sample)) => answered(Ok(sample)),
            Ok(Submitted::Pending(receiver)) => delivered(receiver),
            Err(e) => answered(Err(e)),
        }
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

/// Runs one lane to its end and returns its output.
pub fn run_lane<T: 'static>(
    engine: &EngineHandle,
    lane: impl Future<Output = Result<T>> + 'static,
) -> Result<T> {
    let (sender, mut receiver) = oneshot::channel();
    let lane = async move {
        // The receiver outlives the lane.
        let _ = sender.send(lane.await?);
        Ok(())
    };
    run_lanes(engine, vec![lane.boxed_local()])?;
    let output = receiver.try_recv().ok().flatten();
    output.ok_or_else(|| Error::Internal("a lane ended without its output".into()))
}

/// Runs lanes to their end: polls them until each waits for the engine, does one step of the engine,
/// and repeats. The first error of a lane ends the run.
pub fn run_lanes(engine: &EngineHandle, lanes: Vec<LocalBoxFuture<'static, Result<()>>>) -> Result<()> {
    run_waves(engine, lanes.into_iter().map(|lane| (0, lane)).collect(), 0, &|| Ok(()))
}

/// Runs lanes that do not all fit at once. Each comes with the number of adapters that it makes; there
/// is `room` for so many. Lanes start in their order, as soon as the earlier ones have started and left
/// room; at least one is always running. The results are those of [`run_lanes`], since no lane depends
/// on what shares its batches. `go_on` is called before each step of the engine; its error ends the run.
pub fn run_waves(
    engine: &EngineHandle,
    lanes: Vec<(usize, LocalBoxFuture<'static, Result<()>>)>,
    room: usize,
    go_on: &dyn Fn() -> Result<()>,
) -> Result<()> {
    let mut pool = LocalPool::new();
    let state = Rc::new(RefCell::new(Running::default()));
    let mut waiting = lanes.into_iter().peekable();
    loop {
        while let Some((adapters, lane)) = waiting.next_if(|(adapters, _)| {
            let now = state.borrow();
            now.lanes == 0 || now.adapters + adapters <= room
        }) {
            state.borrow_mut().lanes += 1;
            state.borrow_mut().adapters += adapters;
            let state = state.clone();
            let outcome = async move {
                let result = lane.await;
                let mut now = state.borrow_mut();
                now.lanes -= 1;
                now.adapters -= adapters;
                now.ended = true;
                if let (Err(e), None) = (result, &now.error) {
                    now.error = Some(e);
                }
            };
            pool.spawner()
                .spawn_local(outcome)
                .map_err(|e| Error::Internal(format!("a lane cannot be started: {e}")))?;
        }
        pool.run_until_stalled();
        let mut now = state.borrow_mut();
        if let Some(e) = now.error.take() {
            return Err(e);
        }
        if std::mem::take(&mut now.ended) && waiting.peek().is_some() {
            continue;
        }
        if now.lanes == 0 {
            return Ok(());
        }
        let lanes = now.lanes;
        drop(now);
        go_on()?;
        if !engine.with(Engine::step)? {
            return Err(Error::Internal(format!("the engine has nothing to do while {lanes} lanes wait")));
        }
    }
}

/// Lanes under way.
#[derive(Default)]
struct Running {
    lanes: usize,
    adapters: usize,
    /// One has ended since this was last looked at.
    ended: bool,
    error: Option<Error>,
}
