//! What is asked of every network.

use std::collections::HashMap;

use burn::module::{Module, ModuleMapper, Param};
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::{Device, Tensor, TensorData};
use elastic_layers::capture::capture_model;
use elastic_layers::{
    Architecture, Backbone, CostModel, DimKind, Elastic, SearchSpace, SpaceError, Statistics, recalibrate,
};
use exporters::{OnnxExporter, OnnxModel, reference, verify};

use crate::common::{Entry, assert_close, assert_same_bits, below, device, entries, fractions, tensor, to_f64, values};
use crate::onnx::{check_with_tools, runtimes};

const ARCHITECTURES: usize = 20;

/// The largest difference between a file in a runtime and Burn, as a part of the largest output.
const TOLERANCE: f32 = 1e-4;

/// A network, built at all sizes, and its forward.
pub struct Case<M, const I: usize, const O: usize> {
    /// The shape of its input, with a batch of 1.
    pub input: [usize; I],
    pub build: fn(&mut SearchSpace, &Device) -> Result<M, SpaceError>,
    pub forward: fn(&M, Tensor<I>) -> Tensor<O>,
}

impl<M: Elastic + 'static, const I: usize, const O: usize> Case<M, I, O> {
    /// The space and the supernet, every parameter with values of its own.
    fn supernet(&self, device: &Device) -> (SearchSpace, M) {
        let mut space = SearchSpace::new();
        let model = (self.build)(&mut space, device).expect("a supernet");
        (space, refill(model, initial))
    }

    fn batch(&self, seed: u64, batch: usize, device: &Device) -> Tensor<I> {
        let mut shape = self.input;
        shape[0] = batch;
        tensor(&fractions(seed, shape.iter().product()), shape, device)
    }

    fn scores(&self, model: &M, input: Tensor<I>) -> Vec<f32> {
        values((self.forward)(model, input))
    }

    fn recalibrated(&self, model: &M) -> M {
        let device = Device::default();
        let batches = [self.batch(2, 2, &device), self.batch(3, 4, &device)];
        recalibrate(model, batches, |model, input| drop((self.forward)(model, input)))
    }

    pub fn views_are_the_materialised_networks(&self) {
        let device = Device::default();
        let (space, supernet) = self.supernet(&device);
        let input = || self.batch(1, 3, &device);
        for architecture in architectures(&space) {
            let (view, small) = (supernet.select(&architecture), supernet.materialize_at(&architecture));
            let expected = self.scores(&small.with_statistics(Statistics::Batch), input());
            assert_same_bits(&format!("{architecture}"), &self.scores(&view, input()), &expected);
            assert!(expected.iter().any(|score| *score != expected[0]), "{architecture}: a constant");

            let (view, small) = (self.recalibrated(&view), self.recalibrated(&small));
            let expected = self.scores(&small, input());
            assert_same_bits(&format!("{architecture}, recalibrated"), &self.scores(&view, input()), &expected);
            assert_eq!(entries(&view.materialize_at(&architecture)), entries(&small), "{architecture}");
        }
    }

    /// The supernet at all its channels, with zeros for every entry outside a view, computes what the view does, but for
    /// the order of additions: what is left out feeds nothing that is in use, and the other way round. That holds where
    /// a norm looks at one channel, or at groups of channels that are in use as a whole.
    pub fn what_a_view_leaves_out_is_as_if_it_were_zero(&self) {
        let device = Device::default();
        let (space, supernet) = self.supernet(&device);
        let input = || self.batch(1, 3, &device);
        for architecture in architectures(&space) {
            let inside = positions(&supernet, &architecture);
            let masked = refill(supernet.clone(), |path, _, old| {
                let mut masked = vec![0.0; old.len()];
                for &index in inside.get(path).into_iter().flatten() {
                    masked[index] = old[index];
                }
                masked
            });
            let wide = space.with_values(|dim| match dim.kind {
                DimKind::Channels => dim.max,
                DimKind::Resolution | DimKind::Depth => architecture.get(&dim.name).expect("a dimension"),
            });
            let expected = to_f64(&self.scores(&masked.select(&wide), input()));
            let got = self.scores(&supernet.select(&architecture), input());
            assert_close(&format!("{architecture}"), &got, &expected, 1e-5);
        }
    }

    /// One step of SGD on a view: the loss falls, and the supernet's parameters inside the view are those of the
    /// materialised network after the same step, bit for bit; all others are what they were.
    pub fn a_step_on_a_view_is_the_step_of_its_network(&self) {
        let (space, supernet) = self.supernet(&device());
        for architecture in architectures(&space) {
            let small = supernet.materialize_at(&architecture).with_statistics(Statistics::Batch);
            let (after, loss) = self.step(&supernet, &supernet.select(&architecture));
            let (small_after, small_loss) = self.step(&small, &small);
            assert_same_bits(&format!("{architecture}: loss"), &[loss], &[small_loss]);
            let (_, next_loss) = self.step(&after, &after.select(&architecture));
            assert!(next_loss < loss, "{architecture}: expected a loss below {loss}, got {next_loss}");

            let inside = positions(&supernet, &architecture);
            let small_after: HashMap<_, _> =
                entries(&small_after).into_iter().map(|entry| (entry.path, entry.values)).collect();
            for (before, after) in entries(&supernet).iter().zip(&entries(&after)) {
                let mut expected = before.values.clone();
                if let (false, Some(inside)) = (is_statistic(before), inside.get(&before.path)) {
                    for (&index, &value) in inside.iter().zip(&small_after[&before.path]) {
                        expected[index] = value;
                    }
                }
                assert_same_bits(&format!("{architecture}: {}", before.path), &after.values, &expected);
            }
        }
    }

    /// `model` after a step on a view of it, and the view's loss before.
    fn step(&self, model: &M, view: &M) -> (M, f32) {
        let output = (self.forward)(view, self.batch(4, 4, &device()));
        let shape = output.dims();
        let target = tensor(&fractions(5, shape.iter().product()), shape, &device());
        let loss = (output - target).powf_scalar(2.0).mean();
        let gradients = GradientsParams::from_grads(loss.backward(), view);
        let after = SgdConfig::new().init().step(0.01, model.clone(), gradients);
        (after, loss.into_scalar::<f32>())
    }

    /// `image` is the input of the network as a backbone.
    pub fn costs_and_shapes_are_those_of_the_materialised_network(&self, image: [usize; 3])
    where
        M: Backbone,
    {
        let device = Device::default();
        let (space, supernet) = self.supernet(&device);
        let build = self.build;
        let costs = CostModel::new(&space, image, move |device| build(&mut SearchSpace::new(), device));
        for architecture in architectures(&space) {
            let small = supernet.materialize_at(&architecture);
            let mut pinned_space = SearchSpace::pinned(&architecture);
            let pinned = build(&mut pinned_space, &device).expect("a pinned network");
            assert_eq!(pinned_space.hash(), space.hash());
            assert_eq!(shapes(&pinned), shapes(&small), "{architecture}");

            let trainable = entries(&small).into_iter().filter(|entry| !is_statistic(entry));
            let elements: usize = trainable.map(|entry| entry.values.len()).sum();
            let cost = costs.cost(&architecture).expect("a cost");
            assert_eq!(cost.parameters, elements as u64, "{architecture}");
            for (what, model) in [("materialised", &small), ("view", &supernet.select(&architecture))] {
                let model = model.with_statistics(Statistics::Running);
                let captured = capture_model(&model, self.input, self.forward).expect("captures");
                assert_eq!(captured.cost(), cost, "{architecture}: {what}");
            }
        }
    }

    /// Every architecture as a file, in every runtime; views give files of the same nodes. `allowed` are the operators
    /// that other people's tools are to accept. Returns the file of the largest architecture.
    pub fn files_compute_what_the_network_does(&self, allowed: &[&str]) -> OnnxModel {
        let device = Device::default();
        let (space, supernet) = self.supernet(&device);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut files = vec![];
        for architecture in architectures(&space) {
            let view = self.recalibrated(&supernet.select(&architecture));
            let small = view.materialize_at(&architecture);
            let export = |model: &M| OnnxExporter::new(self.input).export(model, self.forward).expect("exports");
            let (onnx, of_view) = (export(&small), export(&view));
            assert_eq!(of_view.operators(), onnx.operators(), "{architecture}: the view");
            assert_eq!((of_view.macs(), of_view.parameters()), (onnx.macs(), onnx.parameters()), "{architecture}");

            let path = folder.path().join(format!("{}.onnx", files.len()));
            onnx.save(&path).expect("writes");
            let references = [1, 3].map(|batch| {
                let input = self.batch(batch as u64, batch, &device);
                reference(input.clone(), (self.forward)(&small, input))
            });
            let report = verify(&path, &references, &runtimes(), TOLERANCE);
            assert!(report.passed(), "{architecture}: {report:#?}");
            assert_eq!(report.entries.len(), 2 * runtimes().len(), "{architecture}");
            files.push((path, onnx));
        }
        let paths: Vec<_> = files.iter().take(6).map(|(path, _)| path.clone()).collect();
        check_with_tools(&paths, allowed);
        files.swap_remove(1).1
    }
}

/// Random architectures, the two extremes first.
fn architectures(space: &SearchSpace) -> Vec<Architecture> {
    let level = |number: usize, index: usize| below((number * 1000 + index) as u64, space.dims()[index].levels());
    let random =
        |number| space.at_levels(&(0..space.dims().len()).map(|index| level(number, index)).collect::<Vec<_>>());
    [space.smallest(), space.largest()].into_iter().chain((2..).map(random)).take(ARCHITECTURES).collect()
}

/// Values as after some training: nothing that is still one, zero or the same for all channels could hide a mistake.
fn initial(path: &str, shape: &[usize], old: Vec<f32>) -> Vec<f32> {
    let seed = path.bytes().fold(7, |seed: u64, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
    let spread = fractions(seed, old.len()).into_iter();
    let name = path.rsplit('.').next();
    match name {
        Some("running_mean" | "running_var") => old,
        Some("gamma") => spread.map(|x| 1.0 + 0.5 * x).collect(),
        Some("alpha") => spread.map(|x| 0.25 + 0.2 * x).collect(),
        _ if shape.len() == 1 => spread.map(|x| 0.3 * x).collect(),
        _ => {
            // A standard deviation of 1 over the square root of what is summed over.
            let factor = (3.0 / (old.len() / shape[0]) as f32).sqrt();
            spread.map(|x| factor * x).collect()
        }
    }
}

/// The positions, in every flat parameter of the supernet, of the materialised network's entries: the values that it has
/// when each entry of the supernet is its own position.
fn positions<M: Elastic>(supernet: &M, architecture: &Architecture) -> HashMap<String, Vec<usize>> {
    let numbered = refill(supernet.clone(), |_, _, old| (0..old.len()).map(|index| index as f32).collect());
    let small = entries(&numbered.materialize_at(architecture)).into_iter();
    small.map(|entry| (entry.path, entry.values.into_iter().map(|index| index as usize).collect())).collect()
}

fn shapes<M: Module>(model: &M) -> Vec<(String, Vec<usize>)> {
    entries(model).into_iter().map(|entry| (entry.path, entry.shape)).collect()
}

fn is_statistic(entry: &Entry) -> bool {
    entry.path.ends_with("running_mean") || entry.path.ends_with("running_var")
}

/// A module with other values of all parameters and running statistics, from their paths, shapes and values.
fn refill<M: Module>(model: M, new: impl FnMut(&str, &[usize], Vec<f32>) -> Vec<f32>) -> M {
    struct Refill<F> {
        path: Vec<String>,
        new: F,
    }

    impl<F: FnMut(&str, &[usize], Vec<f32>) -> Vec<f32>> ModuleMapper for Refill<F> {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let path = self.path.join(".");
            param.map(|old| {
                let (shape, device, is_trained) = (old.dims(), old.device(), old.is_require_grad());
                let new = (self.new)(&path, &shape, values(old));
                let new = Tensor::from_data(TensorData::new(new, shape), &device);
                if is_trained { new.require_grad() } else { new }
            })
        }

        fn enter_module(&mut self, name: &str, _container: &str) {
            self.path.push(name.to_string());
        }

        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.pop();
        }
    }

    model.map(&mut Refill { path: vec![], new })
}
