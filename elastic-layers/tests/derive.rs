//! The derive macro: structs, enums, generics, skipped fields, and what is not elastic.

mod common;

use std::marker::PhantomData;

use burn::module::{Module, Param};
use burn::nn::conv::Conv2d;
use burn::nn::{BatchNorm, BatchNormConfig, Linear, Relu};
use burn::tensor::{Device, Tensor};
use common::{assert_same_bits, entries, fractions, tensor, values};
use elastic_layers::{
    AxesVisitor, Elastic, ElasticConv2d, ElasticConv2dConfig, ElasticLinear, ElasticLinearConfig, SearchSpace, Size,
    Statistics,
};

fn space() -> (SearchSpace, [Size; 2]) {
    let mut space = SearchSpace::new();
    let ins = space.channels("in", 5).range(1..=5).add().expect("a dimension");
    let outs = space.channels("out", 4).range(1..=4).add().expect("a dimension");
    (space, [ins, outs])
}

fn linear([ins, outs]: [Size; 2]) -> ElasticLinear {
    ElasticLinearConfig::new(ins, outs).init(&Device::default())
}

fn input(features: usize) -> Tensor<2> {
    tensor(&fractions(1, 2 * features), [2, features], &Device::default())
}

#[derive(Module, Elastic, Debug)]
struct Pair<M: Module> {
    first: M,
    second: Option<M>,
}

#[derive(Module, Elastic, Debug)]
#[allow(clippy::large_enum_variant)]
enum Layer {
    Linear(ElasticLinear),
    Convolution(ElasticConv2d),
    Nothing(Relu),
}

#[derive(Module, Elastic, Debug)]
struct Net {
    pair: Pair<ElasticLinear>,
    layers: Vec<Layer>,
    twins: [ElasticLinear; 2],
    #[elastic(skip)]
    norm: BatchNorm,
    scale: f64,
}

fn net(sizes: [Size; 2]) -> Net {
    let device = Device::default();
    Net {
        pair: Pair { first: linear(sizes.clone()), second: Some(linear(sizes.clone())) },
        layers: vec![
            Layer::Linear(linear(sizes.clone())),
            Layer::Convolution(ElasticConv2dConfig::new(sizes.clone(), [1, 1]).init(&device)),
            Layer::Nothing(Relu::new()),
        ],
        twins: [linear(sizes.clone()), linear(sizes)],
        norm: BatchNormConfig::new(7).init(&device),
        scale: 0.5,
    }
}

fn linears(net: &Net) -> Vec<&ElasticLinear> {
    let Layer::Linear(in_enum) = &net.layers[0] else { panic!("the variant stays") };
    let option = net.pair.second.as_ref().expect("the option stays");
    vec![&net.pair.first, option, in_enum, &net.twins[0], &net.twins[1]]
}

#[test]
fn a_view_reaches_every_field() {
    let (space, sizes) = space();
    let supernet = net(sizes);
    let architecture = space.architecture([3, 2]).expect("sizes of the space");
    let (view, small) = (supernet.select(&architecture), supernet.materialize_at(&architecture));
    for (index, layer) in linears(&supernet).into_iter().enumerate() {
        let expected = values(layer.select(&architecture).forward(input(3)));
        assert_eq!(expected.len(), 2 * 2);
        assert_same_bits("view", &values(linears(&view)[index].forward(input(3))), &expected);
        assert_same_bits("materialised", &values(linears(&small)[index].forward(input(3))), &expected);
    }
    let Layer::Convolution(convolution) = &view.layers[1] else { panic!("the variant stays") };
    assert_eq!(convolution.active_channels(), [3, 2]);
    assert!(matches!(view.layers[2], Layer::Nothing(_)));
    assert_eq!(view.scale, 0.5);
    let linear_parameters = 3 * 2 + 2;
    assert_eq!(small.num_params(), 5 * linear_parameters + linear_parameters + 4 * 7);
}

#[test]
fn a_skipped_field_is_kept_as_it_is() {
    let (space, sizes) = space();
    let supernet = net(sizes);
    for changed in [
        supernet.select(&space.smallest()),
        supernet.materialize_at(&space.smallest()),
        supernet.with_statistics(Statistics::Batch),
    ] {
        assert_eq!(entries(&changed.norm), entries(&supernet.norm));
        assert_eq!(changed.norm.gamma.id, supernet.norm.gamma.id);
    }
}

#[test]
fn axes_of_every_elastic_parameter_are_found_and_of_no_other() {
    let (_, sizes) = space();
    let supernet = net(sizes.clone());
    let axes = AxesVisitor::of(&supernet);
    for layer in linears(&supernet) {
        assert_eq!(axes.get(layer.weight.id), Some(&sizes[..]));
        assert_eq!(axes.get(layer.bias.as_ref().expect("a bias").id), Some(&sizes[1..]));
    }
    let Layer::Convolution(convolution) = &supernet.layers[1] else { panic!("a convolution") };
    let [ins, outs] = sizes;
    assert_eq!(axes.get(convolution.weight.id), Some(&[outs, ins, Size::Fixed(1), Size::Fixed(1)][..]));
    assert_eq!(axes.get(supernet.norm.gamma.id), None);
}

struct Probe<M>(PhantomData<M>);

impl<M: Elastic> Probe<M> {
    fn is_elastic(&self) -> bool {
        true
    }
}

trait Otherwise {
    fn is_elastic(&self) -> bool {
        false
    }
}

impl<M> Otherwise for Probe<M> {}

/// The derive asks every field that is not skipped to be elastic. These are what a forgotten swap leaves behind.
#[test]
fn burns_layers_with_parameters_are_not_elastic() {
    assert!(Probe::<Net>(PhantomData).is_elastic());
    assert!(Probe::<Relu>(PhantomData).is_elastic());
    assert!(!Probe::<BatchNorm>(PhantomData).is_elastic());
    assert!(!Probe::<Linear>(PhantomData).is_elastic());
    assert!(!Probe::<Conv2d>(PhantomData).is_elastic());
    assert!(!Probe::<Option<Conv2d>>(PhantomData).is_elastic());
    assert!(!Probe::<Vec<BatchNorm>>(PhantomData).is_elastic());
    assert!(!Probe::<Param<Tensor<1>>>(PhantomData).is_elastic());
}
