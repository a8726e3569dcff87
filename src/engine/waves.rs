//! The loop that runs lanes over whatever does their work.

use std::cell::RefCell;
use std::rc::Rc;

use futures::FutureExt;
use futures::channel::oneshot;
use futures::executor::LocalPool;
use futures::future::LocalBoxFuture;
use futures::task::LocalSpawnExt;

use crate::error::{Error, Result};

/// What does the work of lanes, driven a step at a time: an engine, many of them elsewhere, or a
/// simulated one.
pub trait Driver {
    /// Does a step of what is queued. Returns false if nothing is.
    ///
    /// # Errors
    ///
    /// An error of the driver itself, which ends the run. A request's own error goes to the lane
    /// that waits for it.
    fn step(&self) -> Result<bool>;
    /// Waits for what comes from elsewhere, as nothing is queued while so many `lanes` wait.
    ///
    /// # Errors
    ///
    /// Nothing can come.
    fn idle(&self, lanes: usize) -> Result<()>;
    /// Forgets what iterations before this one drew. A lane that asks for it again has it drawn
    /// again, with the same result.
    fn forget_before(&self, iteration: usize);
}

/// Runs one lane to its end and returns its output.
pub fn run_lane<T: 'static>(
    engine: &dyn Driver,
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
pub fn run_lanes(engine: &dyn Driver, lanes: Vec<LocalBoxFuture<'static, Result<()>>>) -> Result<()> {
    run_waves(engine, lanes.into_iter().map(|lane| (0, lane)).collect(), 0, &|| Ok(()))
}

/// Runs lanes that do not all fit at once. Each comes with the number of adapters that it makes; there
/// is `room` for so many. Lanes start in their order, as soon as the earlier ones have started and left
/// room; at least one is always running. The results are those of [`run_lanes`], since no lane depends
/// on what shares its batches. `go_on` is called before each step of the engine; its error ends the run.
pub fn run_waves(
    engine: &dyn Driver,
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
        if !engine.step()? {
            engine.idle(lanes)?;
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
