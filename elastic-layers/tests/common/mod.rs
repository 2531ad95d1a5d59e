//! What several test files share: reproducible values, hand-cropped parameters, and naive loops as oracles.

// Every test binary uses a part of these.
#![allow(dead_code)]

pub mod backbones;
pub mod conv;
pub mod layers;
pub mod naive;
pub mod norm;
pub mod subject;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use elastic_layers::{Architecture, Backbone, SearchSpace};

/// The device of training.
pub fn device() -> Device {
    Device::default().autodiff()
}

fn random(seed: u64, count: usize) -> impl Iterator<Item = u64> {
    // SplitMix64.
    let start = seed.wrapping_mul(0xd134_2543_de82_ef95);
    (1..=count as u64).map(move |index| {
        let x = start.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    })
}

/// Multiples of 1/8 from -2 to 2. Sums of up to 60,000 products of two of these are exact in 32-bit floats, in whatever
/// order they are added, so that a convolution can be compared with a naive loop without a tolerance.
pub fn eighths(seed: u64, count: usize) -> Vec<f32> {
    random(seed, count).map(|x| (x % 33) as f32 / 8.0 - 2.0).collect()
}

/// Values from -1 to 1 with all digits in use, which give away any other order of additions.
pub fn fractions(seed: u64, count: usize) -> Vec<f32> {
    random(seed, count).map(|x| (x >> 40) as f32 / (1u64 << 23) as f32 - 1.0).collect()
}

/// A number below `bound`.
pub fn below(seed: u64, bound: usize) -> usize {
    random(seed, 1).map(|x| (x % bound as u64) as usize).sum()
}

pub fn tensor<const D: usize>(values: &[f32], shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
}

pub fn param<const D: usize>(values: &[f32], shape: [usize; D], device: &Device) -> Param<Tensor<D>> {
    Param::from_tensor(tensor(values, shape, device))
}

pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().expect("floats")
}

/// The gradient of a parameter, which has to have one.
pub fn gradient<const D: usize>(param: &Param<Tensor<D>>, gradients: &Gradients) -> Vec<f32> {
    values(param.val().grad(gradients).expect("a gradient"))
}

/// A forward and backward through a layer.
pub struct Run {
    pub output: Vec<f32>,
    pub output_shape: Vec<usize>,
    pub input_gradient: Vec<f32>,
    pub gradients: Gradients,
}

impl Run {
    /// Runs `forward`, and back from the gradient of the output that `upstream` gives for a number of elements.
    pub fn new<const D: usize, const E: usize>(
        input: &[f32],
        shape: [usize; D],
        upstream: impl Fn(usize) -> Vec<f32>,
        forward: impl FnOnce(Tensor<D>) -> Tensor<E>,
    ) -> Self {
        let input = tensor(input, shape, &device()).require_grad();
        let output = forward(input.clone());
        let shape = output.dims();
        let upstream = tensor(&upstream(shape.iter().product()), shape, &device());
        let gradients = (output.clone() * upstream).sum().backward();
        let input_gradient = values(input.grad(&gradients).expect("a gradient of the input"));
        Self { output: values(output), output_shape: shape.to_vec(), input_gradient, gradients }
    }
}

/// The positions, in a flat parameter of this shape, whose index is among those used on every axis.
pub fn inside(shape: &[usize], used: &[Vec<usize>]) -> Vec<usize> {
    assert_eq!(shape.len(), used.len());
    let is_inside = |flat: &usize| {
        let mut rest = *flat;
        shape.iter().zip(used).rev().all(|(&length, used)| {
            let index = rest % length;
            rest /= length;
            used.contains(&index)
        })
    };
    (0..shape.iter().product()).filter(is_inside).collect()
}

/// The first entries of every axis, as those that are used.
pub fn first(sizes: &[usize]) -> Vec<Vec<usize>> {
    sizes.iter().map(|&size| (0..size).collect()).collect()
}

/// The entries that are used on every axis.
pub fn cropped(values: &[f32], shape: &[usize], used: &[Vec<usize>]) -> Vec<f32> {
    inside(shape, used).into_iter().map(|index| values[index]).collect()
}

/// `outside` with the entries that are used on every axis replaced.
pub fn replaced(outside: &[f32], small: &[f32], shape: &[usize], used: &[Vec<usize>]) -> Vec<f32> {
    let mut all = outside.to_vec();
    let positions = inside(shape, used);
    assert_eq!(positions.len(), small.len());
    for (position, &value) in positions.into_iter().zip(small) {
        all[position] = value;
    }
    all
}

/// A small gradient at its place in a large one that is zero elsewhere.
pub fn in_zeros(small: &[f32], shape: &[usize], used: &[Vec<usize>]) -> Vec<f32> {
    replaced(&vec![0.0; shape.iter().product()], small, shape, used)
}

/// Equal bit for bit.
#[track_caller]
pub fn assert_same_bits(what: &str, got: &[f32], expected: &[f32]) {
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    assert!(bits(got) == bits(expected), "{what}: expected {expected:?}, got {got:?}");
}

/// Equal as numbers: zeros of either sign are the same.
#[track_caller]
pub fn assert_equal(what: &str, got: &[f32], expected: &[f64]) {
    let same = got.len() == expected.len() && got.iter().zip(expected).all(|(&got, &expected)| got as f64 == expected);
    assert!(same, "{what}: expected {expected:?}, got {got:?}");
}

/// Within `tolerance` of the largest magnitude, or of 1.
#[track_caller]
pub fn assert_close(what: &str, got: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(1.0f64, |scale, value| scale.max(value.abs()));
    for (index, (&got, &expected)) in got.iter().zip(expected).enumerate() {
        assert!((got as f64 - expected).abs() <= tolerance * scale, "{what} [{index}]: expected {expected}, got {got}");
    }
}

pub fn to_f64(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| value as f64).collect()
}

/// One parameter or running statistic of a module.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub path: String,
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// All parameters and running statistics, by path, in the module's order.
pub fn entries<M: Module>(module: &M) -> Vec<Entry> {
    // `valid` waits for running statistics that are still on their way.
    visited(&module.valid(), None)
}

/// The gradients of all parameters that have one, by path, in the module's order.
pub fn gradients<M: Module>(module: &M, gradients: &Gradients) -> Vec<Entry> {
    visited(module, Some(gradients))
}

fn visited<M: Module>(module: &M, gradients: Option<&Gradients>) -> Vec<Entry> {
    struct Visitor<'a> {
        path: Vec<String>,
        gradients: Option<&'a Gradients>,
        entries: Vec<Entry>,
    }

    impl ModuleVisitor for Visitor<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let (path, shape) = (self.path.join("."), param.val().dims().to_vec());
            let tensor = match self.gradients {
                None => Some(param.val()),
                Some(gradients) => param.val().grad(gradients),
            };
            self.entries.extend(tensor.map(|tensor| Entry { path, shape, values: values(tensor) }));
        }

        fn enter_module(&mut self, name: &str, _container: &str) {
            self.path.push(name.to_string());
        }

        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.pop();
        }
    }

    let mut visitor = Visitor { path: Vec::new(), gradients, entries: Vec::new() };
    module.visit(&mut visitor);
    visitor.entries
}

/// A module whose parameters and running statistics are what `values` gives for their path and shape, as new parameters.
pub fn filled<M: Module>(module: M, values: impl Fn(&str, &[usize]) -> Vec<f32>) -> M {
    struct Mapper<F> {
        path: Vec<String>,
        values: F,
    }

    impl<F: Fn(&str, &[usize]) -> Vec<f32>> ModuleMapper for Mapper<F> {
        fn map_float<const D: usize>(&mut self, old: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let shape = old.lazy_shape().dims::<D>();
            param(&(self.values)(&self.path.join("."), &shape), shape, &old.lazy_device())
        }

        fn enter_module(&mut self, name: &str, _container: &str) {
            self.path.push(name.to_string());
        }

        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.pop();
        }
    }

    module.map(&mut Mapper { path: Vec::new(), values })
}

/// The values of one entry.
#[track_caller]
pub fn entry<M: Module>(module: &M, path: &str) -> Vec<f32> {
    let found = entries(module).into_iter().find(|entry| entry.path == path);
    found.unwrap_or_else(|| panic!("no parameter {path}")).values
}

/// Whether an entry is a running statistic, and no parameter.
pub fn is_statistic(entry: &Entry) -> bool {
    entry.path.ends_with("running_mean") || entry.path.ends_with("running_var")
}

/// Paths and shapes of entries.
pub fn shapes(entries: Vec<Entry>) -> Vec<(String, Vec<usize>)> {
    entries.into_iter().map(|entry| (entry.path, entry.shape)).collect()
}

/// Random architectures, the two extremes first.
pub fn architectures(space: &SearchSpace, count: usize) -> Vec<Architecture> {
    let level = |number: usize, index: usize| below((number * 1000 + index) as u64, space.dims()[index].levels());
    let random =
        |number| space.at_levels(&(0..space.dims().len()).map(|index| level(number, index)).collect::<Vec<_>>());
    [space.smallest(), space.largest()].into_iter().chain((2..).map(random)).take(count).collect()
}

/// Takes a step of gradient descent on a view: something inside the view changes, nothing outside does, and all stays
/// finite. The supernet has to be on the device of training.
pub fn assert_step_stays_inside<M: Backbone>(supernet: &M, architecture: &Architecture, images: Tensor<4>) {
    let view = supernet.select(architecture);
    let scores = view.forward(Tensor::from_inner(images));
    let gradients = GradientsParams::from_grads(scores.powf_scalar(2.0).mean().backward(), &view);
    let after = SgdConfig::new().init().step(0.5, supernet.clone(), gradients);
    let small = shapes(entries(&view.materialize_at(architecture)));
    let mut changed = 0;
    for (before, after) in entries(supernet).iter().zip(&entries(&after)) {
        assert_eq!(before.path, after.path);
        // A block that was dropped has no entry in the small network, and nothing inside.
        let sizes = small.iter().find(|(path, _)| *path == before.path).map(|(_, shape)| shape);
        let inside = sizes.map_or(vec![], |sizes| inside(&before.shape, &first(sizes)));
        let mut expected = before.values.clone();
        for index in inside {
            assert!(after.values[index].is_finite(), "{architecture}: {}", before.path);
            changed += usize::from(expected[index] != after.values[index]);
            expected[index] = after.values[index];
        }
        assert_same_bits(&format!("{architecture}: {}", before.path), &after.values, &expected);
    }
    assert!(changed > 0, "{architecture}: the step does something");
}

/// The ids of all parameters, in the module's order.
pub fn ids<M: Module>(module: &M) -> Vec<ParamId> {
    burn::module::list_param_ids(module)
}
