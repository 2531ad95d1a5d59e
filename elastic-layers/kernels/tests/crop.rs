//! Crops against Burn's slices: output and gradient, bit for bit, over layouts.

mod common;

use burn::tensor::{Device, Tensor};
use common::{LAYOUTS, laid_out, process, tensor, values};
use elastic_kernels::crop;
use proptest::prelude::*;

proptest! {
    #[test]
    fn a_crop_is_burns_slice(axes in proptest::array::uniform4((1..=4usize, 0..=3usize)), layout in proptest::sample::select(&LAYOUTS)) {
        let _guard = process();
        let sizes = axes.map(|axis| axis.0);
        let shape = axes.map(|axis| axis.0 + axis.1);
        let device = Device::flex().autodiff();
        let run = |work: &dyn Fn(Tensor<4>) -> Tensor<4>| {
            let [source, x] = laid_out(1, shape, layout, &device, |x| x);
            let output = work(x);
            // Two uses of one tensor: gradients add up.
            let upstream = [2, 3].map(|seed| tensor(seed, sizes, &device));
            let loss = upstream.into_iter().map(|upstream| (output.clone() * upstream).sum()).reduce(|a, b| a + b);
            let gradients = loss.expect("two").backward();
            (values(output), values(source.grad(&gradients).expect("a gradient")))
        };
        let ours = run(&|x| crop(x, sizes));
        prop_assert_eq!(ours, run(&|x| x.slice(sizes.map(|size| 0..size))));
    }
}

#[test]
#[should_panic(expected = "crop: expected at most [2, 3], got [1, 4]")]
fn more_than_there_is_is_refused() {
    crop(Tensor::<2>::zeros([2, 3], &Device::flex()), [1, 4]);
}
