//! Operations on their own, as the networks have them.

use std::hint::black_box;

use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Distribution, Tensor};
use elastic_layers::kernels::{Activation, batch_norm_train, conv2d};
use serde_json::{Value, json};

use crate::networks::Step;

/// Images in a batch.
pub const BATCH: usize = 64;

/// One operation, in one direction.
#[derive(Clone, Debug)]
pub struct Operation {
    kind: Kind,
    /// Height and width of the input.
    size: usize,
    /// Whether the gradients are computed too.
    backward: bool,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Dense { inputs: usize, outputs: usize, kernel: usize, stride: usize },
    Depthwise { channels: usize, stride: usize },
    Norm { channels: usize },
}

/// Layers of both networks at widths 1 and 0.25, forward, and forward with backward.
pub fn all() -> Vec<Operation> {
    let dense = |inputs, outputs, kernel, stride| Kind::Dense { inputs, outputs, kernel, stride };
    let depthwise = |channels, stride| Kind::Depthwise { channels, stride };
    [
        (dense(3, 32, 3, 1), 32),
        (dense(16, 96, 1, 1), 32),
        (dense(24, 144, 1, 1), 16),
        (dense(144, 24, 1, 1), 16),
        (dense(6, 36, 1, 1), 16),
        (dense(384, 64, 1, 1), 4),
        (dense(320, 1280, 1, 1), 4),
        (dense(16, 16, 3, 1), 32),
        (dense(32, 32, 3, 1), 16),
        (dense(64, 64, 3, 1), 8),
        (dense(32, 64, 3, 2), 16),
        (dense(4, 4, 3, 1), 32),
        (depthwise(32, 1), 32),
        (depthwise(96, 2), 32),
        (depthwise(144, 1), 16),
        (depthwise(36, 1), 16),
        (depthwise(384, 1), 4),
        (Kind::Norm { channels: 96 }, 32),
        (Kind::Norm { channels: 24 }, 32),
        (Kind::Norm { channels: 384 }, 4),
    ]
    .into_iter()
    .flat_map(|(kind, size)| [false, true].map(|backward| Operation { kind, size, backward }))
    .collect()
}

impl Operation {
    /// Its name in tables.
    pub fn name(&self) -> String {
        let Self { size, backward, .. } = self;
        let operation = match self.kind {
            Kind::Dense { inputs, outputs, kernel, stride } => {
                format!("conv {kernel}x{kernel}/{stride} {inputs}->{outputs}")
            }
            Kind::Depthwise { channels, stride } => format!("depthwise 3x3/{stride} {channels}"),
            Kind::Norm { channels } => format!("batch norm, ReLU6 {channels}"),
        };
        format!("{operation} at {size}x{size}{}", if *backward { ", forward and backward" } else { "" })
    }

    /// MACs of the forward pass, of the whole batch; none for a batch norm.
    pub fn macs(&self) -> u64 {
        let outputs = |stride: usize| (BATCH * self.size.div_ceil(stride).pow(2)) as u64;
        match self.kind {
            Kind::Dense { inputs, outputs: channels, kernel, stride } => {
                outputs(stride) * (inputs * channels * kernel * kernel) as u64
            }
            Kind::Depthwise { channels, stride } => outputs(stride) * (channels * 9) as u64,
            Kind::Norm { .. } => 0,
        }
    }

    /// Whether the gradients are computed too.
    pub fn is_backward(&self) -> bool {
        self.backward
    }

    /// Bytes of the input and of the output, which are read and written at least once.
    pub fn bytes(&self) -> u64 {
        let [batch, channels, ..] = self.input();
        let pixels = |stride: usize| batch * self.size.div_ceil(stride).pow(2);
        let (outputs, stride) = match self.kind {
            Kind::Dense { outputs, stride, .. } => (outputs, stride),
            Kind::Depthwise { channels, stride } => (channels, stride),
            Kind::Norm { channels } => (channels, 1),
        };
        ((pixels(1) * channels + pixels(stride) * outputs) * size_of::<f32>()) as u64
    }

    fn input(&self) -> [usize; 4] {
        let channels = match self.kind {
            Kind::Dense { inputs, .. } => inputs,
            Kind::Depthwise { channels, .. } | Kind::Norm { channels } => channels,
        };
        [BATCH, channels, self.size, self.size]
    }

    /// Shape of the weight, stride, padding and groups of a convolution.
    fn convolution(&self) -> Option<([usize; 4], usize, usize, usize)> {
        match self.kind {
            Kind::Dense { inputs, outputs, kernel, stride } => {
                Some(([outputs, inputs, kernel, kernel], stride, kernel / 2, 1))
            }
            Kind::Depthwise { channels, stride } => Some(([channels, 1, 3, 3], stride, 1, channels)),
            Kind::Norm { .. } => None,
        }
    }

    /// What PyTorch's process needs to do the same.
    pub fn request(&self, layout: &str) -> Value {
        let mut request = json!({
            "kind": "operation", "input": self.input(), "backward": self.backward, "layout": layout,
        });
        if let Some((weight, stride, padding, groups)) = self.convolution() {
            request["weight"] = json!(weight);
            request["stride"] = json!(stride);
            request["padding"] = json!(padding);
            request["groups"] = json!(groups);
        }
        request
    }

    /// The operation, on random numbers.
    pub fn step(&self) -> Step {
        let device = if self.backward { Device::flex().autodiff() } else { Device::flex() };
        let leaf = |tensor: Tensor<4>| if self.backward { tensor.require_grad() } else { tensor };
        let random = |shape: [usize; 4]| Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), &device);
        // As the layer before leaves its output in memory.
        let behind_a_layer = |x: Tensor<4>| {
            let [_, channels, ..] = x.dims();
            let (ones, zeros) = (Tensor::ones([channels], &device), Tensor::zeros([channels], &device));
            batch_norm_train(x, ones, zeros, 1e-5, Activation::None).output.detach()
        };
        let x = leaf(behind_a_layer(random(self.input())));
        let forward: Box<dyn Fn() -> Tensor<4>> = match self.convolution() {
            Some((weight, stride, padding, groups)) => {
                let weight = leaf(random(weight));
                let options = ConvOptions::new([stride; 2], [padding; 2], [1; 2], groups);
                Box::new(move || conv2d(x.clone(), weight.clone(), None, options.clone()))
            }
            None => {
                let channels = self.input()[1];
                let parameter = |value| {
                    let parameter = Tensor::<1>::full([channels], value, &device);
                    if self.backward { parameter.require_grad() } else { parameter }
                };
                let (gamma, beta) = (parameter(1.0), parameter(0.0));
                Box::new(move || {
                    batch_norm_train(x.clone(), gamma.clone(), beta.clone(), 1e-5, Activation::Relu6).output
                })
            }
        };
        if !self.backward {
            return Box::new(move || {
                black_box(forward());
                Ok(0.0)
            });
        }
        Box::new(move || {
            // The sum and its gradient of ones are two passes that PyTorch does not make.
            black_box(forward().sum().backward());
            Ok(0.0)
        })
    }
}
