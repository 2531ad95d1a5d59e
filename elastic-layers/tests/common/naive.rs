//! The naive loop of a convolution.

use std::array::from_fn;

use burn::module::Module;
use elastic_layers::Elastic;

use super::conv::{Case, Direction};
use super::entry;
use super::subject::{Subject, VIEW, Width};

/// Output and gradients of a view of a convolution.
pub struct Naive {
    pub output: Vec<f64>,
    pub input: Vec<f64>,
    pub weight: Vec<f64>,
    pub bias: Vec<f64>,
}

impl Naive {
    /// One loop per axis: the definition of a convolution, and of its gradients for the output's gradient `upstream`.
    pub fn new<E: Elastic, B: Module, const D: usize>(
        case: &Case,
        direction: Direction,
        subject: &Subject<E, B, D>,
    ) -> Self {
        let groups = case.groups_in(VIEW);
        let [inputs, outputs] = case.each.each_ref().map(Width::active);
        let [height, width] = case.image;
        let [rows, columns] = from_fn(|axis| case.output_size(axis, direction).expect("an output"));
        let x = subject.input(VIEW);
        let weight = entry(&subject.burn[VIEW], "weight");
        let upstream = subject.upstream(case.batch * groups * outputs * rows * columns);
        let [horizontal, vertical] = [1, 0].map(|axis| case.joints(axis, direction));
        let mut naive = Self {
            output: vec![0.0; upstream.len()],
            input: vec![0.0; x.len()],
            weight: vec![0.0; weight.len()],
            bias: vec![0.0; groups * outputs],
        };
        for (position, gradient) in upstream.iter().enumerate() {
            naive.bias[position / (rows * columns) % (groups * outputs)] += *gradient as f64;
        }
        if case.bias {
            let bias = entry(&subject.burn[VIEW], "bias");
            for (position, output) in naive.output.iter_mut().enumerate() {
                *output = bias[position / (rows * columns) % bias.len()] as f64;
            }
        }
        let channels = (0..case.batch * groups).flat_map(|group| {
            (0..inputs).flat_map(move |input| (0..outputs).map(move |output| [group, input, output]))
        });
        for [group, input, output] in channels {
            let (from_map, to_map) = (group * inputs + input, group * outputs + output);
            let group = group % groups;
            let plane = match direction {
                Direction::Forward => (group * outputs + output) * inputs + input,
                Direction::Transposed => (group * inputs + input) * outputs + output,
            };
            for [y, row, kernel_row] in &vertical {
                for [z, column, kernel_column] in &horizontal {
                    let from = (from_map * height + y) * width + z;
                    let to = (to_map * rows + row) * columns + column;
                    let by = (plane * case.kernel[0] + kernel_row) * case.kernel[1] + kernel_column;
                    naive.output[to] += x[from] as f64 * weight[by] as f64;
                    naive.input[from] += upstream[to] as f64 * weight[by] as f64;
                    naive.weight[by] += upstream[to] as f64 * x[from] as f64;
                }
            }
        }
        naive
    }
}
