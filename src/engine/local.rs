//! Adapter ids that are a lane's own.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use futures::future::{FutureExt, LocalBoxFuture, TryFutureExt};

use super::request::*;
use super::scope::Service;
use super::slots;
use crate::adapter::Snapshot;
use crate::error::Result;

/// A service as one lane sees it: the lane's adapters are numbered 1, 2, … in the order in which
/// it makes them, whatever other lanes make. So a lane's requests are the same whoever shares the
/// service, and with the lane's name they are the same in every run.
pub struct LaneService {
    service: Rc<dyn Service>,
    /// The service's id of each adapter of the lane; none while it is being made and once it is
    /// dropped.
    ids: Rc<RefCell<Vec<Option<AdapterId>>>>,
}

impl LaneService {
    /// A lane without adapters.
    pub fn new(service: Rc<dyn Service>) -> Self {
        Self { service, ids: Rc::default() }
    }

    fn service_id(&self, id: AdapterId) -> Result<AdapterId> {
        if id == AdapterId::BASE {
            return Ok(id);
        }
        self.ids.borrow().get(id.0 as usize - 1).copied().flatten().ok_or_else(|| slots::unknown(id))
    }

    /// Has the service do `work` on the adapter that the lane calls `id`.
    fn on<T: 'static>(
        &self,
        id: AdapterId,
        work: impl FnOnce(&dyn Service, AdapterId) -> LocalBoxFuture<'static, Result<T>>,
    ) -> LocalBoxFuture<'static, Result<T>> {
        match self.service_id(id) {
            Ok(known) => work(&*self.service, known),
            Err(e) => std::future::ready(Err(e)).boxed_local(),
        }
    }
}

impl Service for LaneService {
    fn sample(&self, mut request: SampleRequest) -> LocalBoxFuture<'static, Result<Sample>> {
        for (id, _) in &mut request.adapters {
            match self.service_id(*id) {
                Ok(known) => *id = known,
                Err(e) => return std::future::ready(Err(e)).boxed_local(),
            }
        }
        self.service.sample(request)
    }

    fn score(&self, request: ScoreRequest) -> LocalBoxFuture<'static, Result<Score>> {
        self.on(request.adapter, |s, adapter| s.score(ScoreRequest { adapter, ..request }))
    }

    fn embed(&self, request: EmbedRequest) -> LocalBoxFuture<'static, Result<Embedding>> {
        self.on(request.adapter, |s, adapter| s.embed(EmbedRequest { adapter, ..request }))
    }

    fn train(&self, request: TrainRequest) -> LocalBoxFuture<'static, Result<Vec<StepMetrics>>> {
        self.on(request.adapter, |s, adapter| s.train(TrainRequest { adapter, ..request }))
    }

    fn next_priority(&self) -> u64 {
        self.service.next_priority()
    }

    fn base_parameters(&self) -> usize {
        self.service.base_parameters()
    }

    fn create(&self, source: AdapterSource) -> LocalBoxFuture<'static, Result<AdapterId>> {
        let made = match source {
            AdapterSource::Clone(parent) => self.on(parent, |s, id| s.create(AdapterSource::Clone(id))),
            numbers => self.service.create(numbers),
        };
        let ids = self.ids.clone();
        let place = ids.borrow().len();
        ids.borrow_mut().push(None);
        made.map_ok(move |id| {
            ids.borrow_mut()[place] = Some(id);
            AdapterId(place as u32 + 1)
        })
        .boxed_local()
    }

    fn drop_adapter(&self, adapter: AdapterId) -> LocalBoxFuture<'static, Result<()>> {
        let ids = self.ids.clone();
        let forget = move |()| ids.borrow_mut()[adapter.0 as usize - 1] = None;
        self.on(adapter, |s, id| s.drop_adapter(id)).map_ok(forget).boxed_local()
    }

    fn snapshot(&self, adapter: AdapterId, moments: bool) -> LocalBoxFuture<'static, Result<Snapshot>> {
        self.on(adapter, |s, id| s.snapshot(id, moments))
    }

    fn restore(&self, adapter: AdapterId, snapshot: Arc<Snapshot>) -> LocalBoxFuture<'static, Result<()>> {
        self.on(adapter, |s, id| s.restore(id, snapshot))
    }
}
