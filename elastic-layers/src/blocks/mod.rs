//! The fused blocks that a network consists of once it is exported, for tables of latencies.

mod block;
mod trace;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::Device;

pub use block::{Block, BlockActivation, BlockKind, Pair};
use trace::{Tracing, blocks_of};

use crate::cost::{CostError, view_of_structure};
use crate::{Architecture, Backbone, DimKind, SearchSpace, Size, SpaceError};

/// Why the blocks of a model cannot be listed.
#[derive(Debug, thiserror::Error)]
pub enum BlocksError {
    /// The model cannot be built or captured.
    #[error(transparent)]
    Cost(#[from] CostError),
    /// The forward has operations that are no part of a block.
    #[error(
        "blocks of a network: expected convolutions, linear layers, pooling, resizing, additions, and batch norms and \
         activations (relu, relu6) right behind these, found {}", .0.join(", ")
    )]
    Unsupported(Vec<String>),
}

/// A block whose numbers of channels are sizes.
#[derive(Clone, Debug, PartialEq)]
pub struct ElasticBlock {
    widest: Block,
    inputs: Size,
    outputs: Size,
    /// Input channels of each group.
    per_group: Size,
}

impl ElasticBlock {
    /// The block in an architecture.
    ///
    /// # Panics
    /// If the architecture is of another search space.
    pub fn at(&self, architecture: &Architecture) -> Block {
        let inputs = self.inputs.at(architecture);
        Block {
            inputs,
            outputs: self.outputs.at(architecture),
            groups: inputs / self.per_group.at(architecture).max(1),
            ..self.widest
        }
    }

    /// The block at full size.
    pub fn widest(&self) -> Block {
        self.widest
    }

    /// The positions in their space of the dimensions that the block depends on, ascending.
    pub fn dimensions(&self) -> Vec<usize> {
        let mut found = Vec::new();
        for size in [&self.inputs, &self.outputs, &self.per_group] {
            size.dimensions(&mut found);
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}

type Tracer = dyn Fn(&Architecture) -> Result<Vec<ElasticBlock>, BlocksError> + Send + Sync;

/// Lists the blocks of any architecture of a space.
///
/// They are read once from the captured forward for each combination of resolution and depth, and kept; numbers of
/// channels are arithmetic after that.
pub struct BlockModel {
    tracer: Box<Tracer>,
    structural: Vec<usize>,
    traces: Mutex<HashMap<Vec<usize>, Arc<[ElasticBlock]>>>,
}

impl std::fmt::Debug for BlockModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlockModel").field("structural", &self.structural).finish_non_exhaustive()
    }
}

impl BlockModel {
    /// The blocks of the supernet that `build` makes, for images of `[channels, height, width]`.
    pub fn new<M, F>(space: &SearchSpace, image: [usize; 3], build: F) -> Self
    where
        M: Backbone,
        F: Fn(&Device) -> Result<M, SpaceError> + Send + Sync + 'static,
    {
        let structural =
            (0..space.dims().len()).filter(|&index| space.dims()[index].kind != DimKind::Channels).collect();
        let space = space.clone();
        let tracer = move |architecture: &Architecture| {
            let (captured, axes) = view_of_structure(&space, architecture, image, &build)?;
            blocks_of(&Tracing { captured: &captured, axes: &axes })
        };
        Self { tracer: Box::new(tracer), structural, traces: Mutex::default() }
    }

    /// The blocks at an architecture's resolution and depth, in execution order.
    ///
    /// # Errors
    /// If the model cannot be captured there, or has operations that are no blocks.
    pub fn elastic_blocks(&self, architecture: &Architecture) -> Result<Arc<[ElasticBlock]>, BlocksError> {
        let key: Vec<_> = self.structural.iter().map(|&index| architecture.values()[index]).collect();
        let lock = || self.traces.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(trace) = lock().get(&key) {
            return Ok(trace.clone());
        }
        let trace: Arc<[ElasticBlock]> = (self.tracer)(architecture)?.into();
        lock().insert(key, trace.clone());
        Ok(trace)
    }

    /// The blocks of an architecture, in execution order.
    ///
    /// # Errors
    /// As [`elastic_blocks`](Self::elastic_blocks).
    ///
    /// # Panics
    /// If the architecture is of another search space.
    pub fn blocks(&self, architecture: &Architecture) -> Result<Vec<Block>, BlocksError> {
        Ok(self.elastic_blocks(architecture)?.iter().map(|block| block.at(architecture)).collect())
    }
}
