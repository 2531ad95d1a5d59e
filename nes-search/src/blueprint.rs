//! A model that can be built at any architecture, and what each one costs.

use std::sync::{Arc, Mutex, PoisonError};

use burn::module::{ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};
use elastic_layers::blocks::BlockModel;
use elastic_layers::{
    Architecture, Backbone, CostError, CostModel, Elastic, Macs, ModelError, SearchSpace, SpaceError, check_model,
};

use crate::budget::Budget;
use crate::latency::{Latency, LatencyModel, LatencyTable};
use crate::resource::{Bound, Count, Counted, Limit, Limits};
use crate::rng::{Stream, derived_seed};

type Build<M> = dyn Fn(&mut SearchSpace, &Device) -> Result<M, SpaceError> + Send + Sync;

/// How a backbone is built: the supernet, and the static network of any architecture, by the same code.
pub struct Blueprint<M> {
    build: Arc<Build<M>>,
    space: SearchSpace,
    cost: Arc<CostModel>,
    blocks: Arc<BlockModel>,
}

impl<M> Clone for Blueprint<M> {
    fn clone(&self) -> Self {
        let Self { build, space, cost, blocks } = self;
        Self { build: build.clone(), space: space.clone(), cost: cost.clone(), blocks: blocks.clone() }
    }
}

impl<M: Backbone + 'static> Blueprint<M> {
    /// A blueprint from the code that adds a backbone's dimensions to a space and builds it, for images of
    /// `[channels, height, width]`.
    ///
    /// # Errors
    /// If the code fails, or the model is not what its space says: [`check_model`].
    pub fn new<F>(image: [usize; 3], build: F) -> Result<Self, ModelError>
    where
        F: Fn(&mut SearchSpace, &Device) -> Result<M, SpaceError> + Send + Sync + 'static,
    {
        let build: Arc<Build<M>> = Arc::new(build);
        let mut space = SearchSpace::new();
        // Parameters are initialised lazily: this builds the space, and no weights.
        build(&mut space, &Device::default())?;
        check_model(&space, image, |space, device| build(space, device))?;
        let for_cost = build.clone();
        let cost = CostModel::new(&space, image, move |device| for_cost(&mut SearchSpace::new(), device));
        let for_blocks = build.clone();
        let blocks = BlockModel::new(&space, image, move |device| for_blocks(&mut SearchSpace::new(), device));
        Ok(Self { build, space, cost: Arc::new(cost), blocks: Arc::new(blocks) })
    }

    /// The search space.
    pub fn space(&self) -> &SearchSpace {
        &self.space
    }

    /// What architectures cost.
    pub fn cost(&self) -> &CostModel {
        &self.cost
    }

    /// Something that is counted on the layers, as a limit of it needs.
    pub fn counted(&self, count: Count) -> Arc<Counted> {
        Arc::new(Counted::new(count, self.cost.clone()))
    }

    /// A budget of MACs, and bounds.
    ///
    /// # Errors
    /// If what the backbone costs cannot be found, or the budget is a time.
    pub fn limits(&self, budget: Budget, bounds: &[Bound]) -> Result<Limits, CostError> {
        self.limits_by(budget, bounds, None)
    }

    /// A budget of MACs, or of time by a table, and bounds.
    ///
    /// # Errors
    /// If what the backbone costs cannot be found, or the budget is a time and there is no table.
    pub fn limits_by(
        &self,
        budget: Budget,
        bounds: &[Bound],
        table: Option<&LatencyTable>,
    ) -> Result<Limits, CostError> {
        let macs = |macs: Macs| Limit::new(self.counted(Count::Macs), macs.as_f64());
        let budget = match (budget, table) {
            (Budget::Macs(most), _) => macs(most),
            (Budget::Fraction(fraction), _) => {
                let backbone = self.cost.cost(&self.space.base())?.macs;
                macs(Macs((backbone.as_f64() * fraction).round() as u64))
            }
            (Budget::Milliseconds(most), Some(table)) => Limit::new(self.latency(table), most),
            (budget @ Budget::Milliseconds(_), None) => {
                return Err(CostError::Other(format!("budget of {budget}: expected a latency table, found none")));
            }
        };
        let limits = Limits::new(budget);
        let bound = |bound: &Bound| Limit::new(self.counted(bound.count), bound.most as f64);
        Ok(bounds.iter().map(bound).fold(limits, Limits::with_bound))
    }

    /// The latency of architectures by a table, as a limit of it needs.
    pub fn latency(&self, table: &LatencyTable) -> Arc<Latency> {
        Arc::new(Latency::new(self.blocks.clone(), LatencyModel::new(table)))
    }

    /// The fused blocks of architectures.
    pub fn blocks(&self) -> &BlockModel {
        &self.blocks
    }

    /// The supernet with initial weights of a seed.
    ///
    /// # Errors
    /// If the backbone cannot be built.
    pub fn supernet(&self, seed: u64, device: &Device) -> Result<M, SpaceError> {
        seeded(seed, device, || (self.build)(&mut SearchSpace::new(), device))
    }

    /// The static network of an architecture with initial weights of a seed.
    ///
    /// # Errors
    /// If the backbone cannot be built, or the architecture is of another space.
    pub fn network(&self, architecture: &Architecture, seed: u64, device: &Device) -> Result<M, SpaceError> {
        seeded(seed, device, || (self.build)(&mut SearchSpace::pinned(architecture), device))
    }
}

/// Builds a model with the weights of a seed, whose layers know their paths. Burn's backends have one random state for a whole process.
fn seeded<M: Elastic>(
    seed: u64,
    device: &Device,
    build: impl FnOnce() -> Result<M, SpaceError>,
) -> Result<M, SpaceError> {
    static RANDOM_STATE: Mutex<()> = Mutex::new(());

    struct Initialize;
    impl ModuleVisitor for Initialize {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let _ = param.val();
        }
    }

    let _guard = RANDOM_STATE.lock().unwrap_or_else(PoisonError::into_inner);
    device.seed(derived_seed(seed, Stream::Weights));
    let model = build()?.named();
    model.visit(&mut Initialize);
    Ok(model)
}
