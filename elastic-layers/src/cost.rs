//! What an architecture costs, as arithmetic over layer shapes.

use std::collections::HashMap;
use std::slice;
use std::sync::{Arc, Mutex, PoisonError};

use burn::module::{ModuleVisitor, Param, ParamId};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::capture::{BYTES, CaptureError, CapturedModel, LayerCost, LayerKind, capture};
use crate::{Architecture, AxesVisitor, Backbone, DimKind, Elastic, Macs, SearchSpace, Size, SpaceError, Statistics};

/// What one architecture costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// Multiply-accumulates of convolutions and linear layers for one image.
    pub macs: Macs,
    /// Trainable parameters in use.
    pub parameters: u64,
    /// The most that one convolution or linear layer takes for its input and output together, as 32-bit numbers for one
    /// image, in bytes: what running layer by layer needs at least. Other tensors that are kept meanwhile, such as
    /// shortcuts, are not counted.
    pub activation_bytes: u64,
}

/// Why the cost of a model cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum CostError {
    /// The model cannot be built.
    #[error(transparent)]
    Space(#[from] SpaceError),
    /// The model's forward cannot be captured.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// What else an architecture takes cannot be found.
    #[error("{0}")]
    Other(String),
}

/// A tensor's number of elements as a product of sizes.
#[derive(Clone, Debug)]
struct Product {
    constant: u64,
    sizes: Vec<Size>,
}

impl Default for Product {
    fn default() -> Self {
        Self { constant: 1, sizes: vec![] }
    }
}

impl Product {
    fn new(axes: &[Size]) -> Self {
        let constant = axes.iter().filter(|size| !size.is_elastic()).map(|size| size.max() as u64).product();
        Self { constant, sizes: axes.iter().filter(|size| size.is_elastic()).cloned().collect() }
    }

    fn max(&self) -> u64 {
        self.sizes.iter().fold(self.constant, |product, size| product * size.max() as u64)
    }

    fn at(&self, architecture: &Architecture) -> u64 {
        self.sizes.iter().fold(self.constant, |product, size| product * size.at(architecture) as u64)
    }
}

/// The layers that run at one input resolution and depth.
#[derive(Debug)]
struct Trace {
    layers: Vec<Layer>,
    parameters: Vec<Product>,
}

/// A layer that multiplies. Tensors are a number of positions, and a product of channels at each.
#[derive(Debug)]
struct Layer {
    /// The positions that the weight is applied at.
    positions: u64,
    weight: Product,
    input: (u64, Product),
    output: (u64, Product),
}

impl Layer {
    fn new(cost: &LayerCost, axes: Option<&Vec<Size>>) -> Self {
        let weight = axes.map_or_else(Product::default, |axes| Product::new(axes));
        let [input, output] = axes.map_or_else(<[Product; 2]>::default, |axes| channels(cost, axes));
        let positions = |shape: &[usize], channels: &Product| {
            shape.iter().map(|&size| size as u64).product::<u64>() / channels.max()
        };
        Self {
            positions: cost.macs.0 / weight.max(),
            weight,
            input: (positions(&cost.input, &input), input),
            output: (positions(&cost.output, &output), output),
        }
    }

    fn macs(&self, architecture: &Architecture) -> u64 {
        self.positions * self.weight.at(architecture)
    }

    fn activation_bytes(&self, architecture: &Architecture) -> u64 {
        let elements = |(positions, channels): &(u64, Product)| positions * channels.at(architecture);
        BYTES * (elements(&self.input) + elements(&self.output))
    }
}

/// The channels of a layer's input and output, from the axes of its weight.
fn channels(cost: &LayerCost, axes: &[Size]) -> [Product; 2] {
    // The axis that lists all channels of one side, and the one that lists those of one group of the other.
    let (whole, each) = (&axes[0], &axes[1]);
    let groups = match whole {
        Size::Product(factors) if factors[0].max() == cost.groups => factors[0].clone(),
        size if size.max() == cost.groups => size.clone(),
        _ => Size::Fixed(cost.groups),
    };
    let (whole, grouped) = (Product::new(slice::from_ref(whole)), Product::new(&[groups, each.clone()]));
    match cost.kind {
        LayerKind::Convolution => [grouped, whole],
        LayerKind::TransposedConvolution | LayerKind::Linear => [whole, grouped],
    }
}

type Tracer = dyn Fn(&Architecture) -> Result<Trace, CostError> + Send + Sync;

/// Computes the [`Cost`] of any architecture of a space.
///
/// A convolution or linear layer takes one multiply-accumulate for each element of its weight at each position that the
/// weight is applied at. Positions depend on resolution and depth only: they are read once from the captured forward for
/// each combination, and kept. After that a cost is a sum of products of channel numbers.
pub struct CostModel {
    tracer: Box<Tracer>,
    /// The indices of the dimensions that change positions or the list of layers.
    structural: Vec<usize>,
    traces: Mutex<HashMap<Vec<usize>, Arc<Trace>>>,
}

impl std::fmt::Debug for CostModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CostModel").field("structural", &self.structural).finish_non_exhaustive()
    }
}

impl CostModel {
    /// The cost model of the supernet that `build` makes, for images of `[channels, height, width]`.
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
            Ok(trace(&captured, &axes))
        };
        Self { tracer: Box::new(tracer), structural, traces: Mutex::default() }
    }

    /// The cost of an architecture.
    ///
    /// # Errors
    /// If the model's forward cannot be captured at the architecture's resolution and depth.
    ///
    /// # Panics
    /// If the architecture is of another search space.
    pub fn cost(&self, architecture: &Architecture) -> Result<Cost, CostError> {
        let Trace { layers, parameters } = &*self.trace(architecture)?;
        Ok(Cost {
            macs: Macs(layers.iter().map(|layer| layer.macs(architecture)).sum()),
            parameters: parameters.iter().map(|parameter| parameter.at(architecture)).sum(),
            activation_bytes: layers.iter().map(|layer| layer.activation_bytes(architecture)).max().unwrap_or(0),
        })
    }

    fn trace(&self, architecture: &Architecture) -> Result<Arc<Trace>, CostError> {
        let key: Vec<_> = self.structural.iter().map(|&index| architecture.values()[index]).collect();
        let lock = || self.traces.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(trace) = lock().get(&key) {
            return Ok(trace.clone());
        }
        let trace = Arc::new((self.tracer)(architecture)?);
        lock().insert(key, trace.clone());
        Ok(trace)
    }
}

fn trace(captured: &CapturedModel, axes: &HashMap<String, Vec<Size>>) -> Trace {
    let product = |name: &str| axes.get(name).map_or_else(Product::default, |axes| Product::new(axes));
    let layers = captured.layers();
    let layers = layers.iter().map(|layer| Layer::new(layer, axes.get(&format!("{}.weight", layer.name))));
    let parameters = captured.used_parameters().into_keys().map(product);
    Trace { layers: layers.collect(), parameters: parameters.collect() }
}

/// The captured forward of the widest network at an architecture's resolution and depth (every layer that runs, at full
/// size), and the axes of its parameters by their paths.
pub(crate) fn view_of_structure<M: Backbone>(
    space: &SearchSpace,
    architecture: &Architecture,
    [channels, height, width]: [usize; 3],
    build: impl Fn(&Device) -> Result<M, SpaceError>,
) -> Result<(CapturedModel, HashMap<String, Vec<Size>>), CostError> {
    let widest = space.with_values(|dim| match dim.kind {
        DimKind::Channels => dim.max,
        DimKind::Resolution | DimKind::Depth => architecture.get(&dim.name).unwrap_or(dim.max),
    });
    let mut axes = HashMap::new();
    let mut failed = None;
    let captured = capture(
        [1, channels, height, width],
        |device| match build(device) {
            Ok(model) => Some(model.select(&widest).with_statistics(Statistics::Running)),
            Err(error) => {
                failed = Some(error);
                None
            }
        },
        |model, images| match model {
            Some(model) => {
                axes = named_axes(model);
                model.forward(images)
            }
            None => images.reshape([1, -1]),
        },
    )?;
    match failed {
        Some(error) => Err(error.into()),
        None => Ok((captured, axes)),
    }
}

/// The axes of every parameter by its path; those that are not elastic have fixed ones.
pub(crate) fn named_axes<E: Elastic>(model: &E) -> HashMap<String, Vec<Size>> {
    struct Names<'a> {
        path: Vec<String>,
        elastic: &'a AxesVisitor,
        axes: HashMap<String, Vec<Size>>,
    }

    impl Names<'_> {
        fn insert(&mut self, id: ParamId, shape: &[usize]) {
            let fixed = || shape.iter().copied().map(Size::Fixed).collect();
            self.axes.insert(self.path.join("."), self.elastic.get(id).map_or_else(fixed, <[Size]>::to_vec));
        }
    }

    impl ModuleVisitor for Names<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.insert(param.id, &param.lazy_shape());
        }

        fn enter_module(&mut self, name: &str, _container_type: &str) {
            self.path.push(name.to_string());
        }

        fn exit_module(&mut self, _name: &str, _container_type: &str) {
            self.path.pop();
        }
    }

    let elastic = AxesVisitor::of(model);
    let mut names = Names { path: vec![], elastic: &elastic, axes: HashMap::new() };
    model.visit(&mut names);
    names.axes
}
