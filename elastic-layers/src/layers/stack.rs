//! Elastic depth.

use burn::module::Module;

use crate::{Adaptation, AxesVisitor, Change, Elastic, Size};

/// Blocks in a row, of which the last ones can be dropped.
///
/// The first blocks are kept and the others left out, so that what is dropped must not change the shape: repeated
/// blocks with a shortcut (figure 1c of the paper). Several stacks can share one depth dimension: each counts the
/// layers of the network that come before its own.
#[derive(Module, Debug)]
pub struct ElasticStack<M: Module> {
    blocks: Vec<M>,
    #[module(skip)]
    depth: Size,
    before: usize,
    least: usize,
    active: usize,
}

impl<M: Module> ElasticStack<M> {
    /// All blocks, always.
    pub fn new(blocks: Vec<M>) -> Self {
        let count = blocks.len();
        Self { blocks, depth: Size::Fixed(count), before: 0, least: 0, active: count }
    }

    /// Keeps `depth - before` blocks, at least `least` and at most all. Of a fixed depth, the others are gone.
    pub fn with_depth(self, depth: Size, before: usize, least: usize) -> Self {
        let mut stack = Self { depth, before, least, ..self };
        stack.active = stack.count_at(stack.depth.max());
        if !stack.depth.is_elastic() {
            stack.blocks.truncate(stack.active);
        }
        stack
    }

    /// The blocks of this view, in order.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use elastic_layers::{ElasticLinear, ElasticLinearConfig, ElasticStack};
    ///
    /// let device = Device::default();
    /// let blocks: Vec<ElasticLinear> = (0..2).map(|_| ElasticLinearConfig::new(4, 4).init(&device)).collect();
    /// let stack = ElasticStack::new(blocks);
    /// let x = stack.iter().fold(Tensor::<2>::zeros([1, 4], &device), |x, block| block.forward(x));
    /// assert_eq!(x.dims(), [1, 4]);
    /// ```
    pub fn iter(&self) -> impl Iterator<Item = &M> {
        self.blocks[..self.active].iter()
    }

    /// All blocks, those too that this view leaves out.
    pub fn blocks(&self) -> &[M] {
        &self.blocks
    }

    fn count_at(&self, depth: usize) -> usize {
        depth.saturating_sub(self.before).max(self.least).min(self.blocks.len())
    }
}

impl<M: Elastic> Elastic for ElasticStack<M> {
    fn adapt(&self, adaptation: &Adaptation<'_>) -> Self {
        let blocks = self.blocks.adapt(&adaptation.field("blocks"));
        match adaptation.change() {
            Change::Select(architecture) => {
                let active = self.count_at(self.depth.at(architecture));
                Self { blocks, active, depth: self.depth.clone(), ..*self }
            }
            Change::Materialize(architecture) => {
                let active = self.count_at(self.depth.at(architecture));
                Self::new(blocks.into_iter().take(active).collect())
            }
            Change::Statistics(_) | Change::Name => Self { blocks, depth: self.depth.clone(), ..*self },
        }
    }

    fn visit_axes(&self, visitor: &mut AxesVisitor) {
        self.blocks.visit_axes(visitor);
    }
}
