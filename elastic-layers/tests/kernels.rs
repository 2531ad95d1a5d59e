//! Layers with the kernels against layers without them, and against Burn's own.

use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::module::{Module, ModuleVisitor, Param};
use burn::nn::PaddingConfig2d;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Distribution, Tensor};
use elastic_layers::backbones::{MobileNetV2, MobileNetV2Config};
use elastic_layers::capture::capture;
use elastic_layers::kernels::{self, Activation};
use elastic_layers::{
    Backbone, Elastic, ElasticBatchNorm, ElasticBatchNormConfig, ElasticConv2dConfig, SearchSpace, Statistics,
};

/// The switch is the process': one test at a time.
fn process() -> MutexGuard<'static, ()> {
    static PROCESS: Mutex<()> = Mutex::new(());
    PROCESS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The result with the kernels, and without them.
fn both<T>(work: impl Fn() -> T) -> [T; 2] {
    let results = [true, false].map(|on| {
        kernels::set_enabled(on);
        work()
    });
    kernels::set_enabled(true);
    results
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().expect("f32")
}

fn normal<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}

/// Whether every number differs by at most the tolerance, relative to the largest.
fn assert_close(name: &str, expected: &[f32], found: &[f32], tolerance: f32) {
    assert_eq!(expected.len(), found.len(), "{name}: length");
    let largest = expected.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    for (place, (expected, found)) in expected.iter().zip(found).enumerate() {
        assert!((expected - found).abs() <= tolerance * largest, "{name}[{place}]: expected {expected}, found {found}");
    }
}

#[test]
fn every_padding_is_that_of_burns_layer() {
    let _process = process();
    let device = Device::flex();
    for padding in [PaddingConfig2d::Same, PaddingConfig2d::Valid, PaddingConfig2d::Explicit(0, 2, 1, 1)] {
        for (kernel, stride, dilation) in
            [([3, 3], [1, 1], [1, 1]), ([2, 4], [1, 1], [1, 1]), ([3, 5], [2, 3], [1, 1]), ([3, 3], [1, 1], [2, 1])]
        {
            let layer = ElasticConv2dConfig::new([3.into(), 5.into()], kernel)
                .with_stride(stride)
                .with_dilation(dilation)
                .with_padding(padding.clone())
                .init(&device);
            let Conv2d { groups, .. } = Conv2dConfig::new([3, 5], kernel).init(&device);
            let burns = Conv2d {
                weight: layer.weight.clone(),
                bias: layer.bias.clone(),
                stride,
                kernel_size: kernel,
                dilation,
                groups,
                padding: padding.clone(),
            };
            let x = normal([2, 3, 11, 8], &device);
            let expected = burns.forward(x.clone());
            let name = format!("{padding:?} {kernel:?} {stride:?} {dilation:?}");
            let [on, off] = both(|| layer.forward(x.clone()));
            assert_eq!([on.dims(), off.dims()], [expected.dims(); 2], "{name}");
            let expected = values(expected);
            assert_eq!(values(off), expected, "{name}: without the kernels");
            assert_close(&name, &expected, &values(on), 1e-5);
        }
    }
}

/// What a batch norm gives, and the running statistics that it has afterwards, as inference sees them.
fn normalized(norm: &ElasticBatchNorm, x: &Tensor<4>, activation: Activation) -> [Vec<f32>; 2] {
    let output = norm.forward_activated(x.clone(), activation);
    let running = norm.with_statistics(Statistics::Running).valid();
    [values(output), values(running.forward(x.clone().without_autodiff()))]
}

#[test]
fn every_statistic_and_activation_is_that_without_the_kernels() {
    let _process = process();
    for device in [Device::flex(), Device::flex().autodiff()] {
        let x = normal([4, 6, 5, 3], &device) * 3.0 + 0.5;
        for statistics in [Statistics::Running, Statistics::Batch, Statistics::Calibrate { seen: 2 }] {
            for activation in [Activation::None, Activation::Relu, Activation::Relu6] {
                let [on, off] = both(|| {
                    let norm = ElasticBatchNormConfig::new(6).init(&device).with_statistics(statistics);
                    let plain = values(activation.forward(norm.forward(x.clone())));
                    let [output, running] = normalized(&norm, &x, activation);
                    assert_close("two steps and one", &plain, &output, 1e-6);
                    [output, running]
                });
                for (part, name) in ["output", "running"].into_iter().enumerate() {
                    let name = format!("{statistics:?} {activation:?} {name}");
                    assert_close(&name, &off[part], &on[part], 1e-5);
                }
            }
        }
    }
}

fn network(device: &Device) -> (SearchSpace, MobileNetV2) {
    let mut space = SearchSpace::new();
    let network = MobileNetV2Config::small(1, 14, 10).init(&mut space, device).expect("a network");
    (space, network)
}

/// Names of the operations, without their tensors.
fn captured_operations() -> Vec<String> {
    let captured = capture([2, 1, 14, 14], |device| network(device).1, |network, images| network.forward(images));
    let name = |debug: String| debug.split(['{', '[']).next().unwrap_or_default().to_owned();
    captured.expect("captures").operations.iter().map(|operation| name(format!("{operation:?}"))).collect()
}

#[test]
fn a_capture_has_burns_operations() {
    let _process = process();
    let [on, off] = both(captured_operations);
    assert_eq!(on, off);
    assert!(on.iter().all(|name| !name.starts_with("Custom")), "{on:?}");
    assert!(on.iter().any(|name| name.contains("Clamp")), "{on:?}");
}

/// All gradients of a view, one after the other.
fn gradients(view: &MobileNetV2, images: &Tensor<4>) -> Vec<f32> {
    struct Gather(GradientsParams, Vec<f32>);
    impl ModuleVisitor for Gather {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.1.extend(self.0.get::<D>(param.id).map(values).unwrap_or_default());
        }
    }
    let loss = view.forward(images.clone()).powf_scalar(2.0).sum();
    let mut gather = Gather(GradientsParams::from_grads(loss.backward(), view), Vec::new());
    view.visit(&mut gather);
    gather.1
}

/// The length of the difference, relative to the length of the first.
fn distance(expected: &[f32], found: &[f32]) -> f64 {
    assert_eq!(expected.len(), found.len());
    let square = |value: f32| f64::from(value).powi(2);
    let difference: f64 = expected.iter().zip(found).map(|(expected, found)| square(expected - found)).sum();
    (difference / expected.iter().copied().map(square).sum::<f64>()).sqrt()
}

/// Rounding in one layer grows in the next ones, and moves a number over an edge of ReLU6 now and then: the kernels may
/// change the gradients no more than the last digits of the images do.
#[test]
fn a_networks_gradients_differ_by_rounding() {
    let _process = process();
    let device = Device::flex().autodiff();
    let (space, supernet) = network(&device);
    let narrow = space.with_values(|dim| dim.base / 2);
    for view in [supernet.clone(), supernet.select(&narrow)] {
        let mut with = Vec::new();
        let mut moved = Vec::new();
        for _ in 0..5 {
            let images = normal([16, 1, 14, 14], &device);
            let [on, off] = both(|| gradients(&view, &images));
            let [_, last_digits] = both(|| gradients(&view, &(images.clone() * (1.0 + 2e-7))));
            assert!(on.len() > 10_000, "{} numbers", on.len());
            with.push(distance(&off, &on));
            moved.push(distance(&off, &last_digits));
        }
        // The batch in which no number is moved over an edge.
        let least = with.iter().copied().fold(f64::INFINITY, f64::min);
        assert!(least < 1e-5, "{with:?}, and for other last digits {moved:?}");
    }
}

#[test]
fn a_view_is_its_materialised_model_bit_for_bit() {
    let _process = process();
    kernels::set_enabled(true);
    let device = Device::flex();
    let (space, supernet) = network(&device);
    let narrow = space.with_values(|dim| dim.base / 2);
    let images = normal([8, 1, 14, 14], &device);
    let view = supernet.select(&narrow);
    let materialized = supernet.materialize_at(&narrow).with_statistics(Statistics::Batch);
    assert_eq!(values(view.forward(images.clone())), values(materialized.forward(images)));
}
