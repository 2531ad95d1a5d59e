//! A model that is wrong is told before anything is searched, with the name of what is wrong.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use elastic_layers::{
    Backbone, Elastic, ElasticConv2d, ElasticConv2dConfig, ElasticLinear, ElasticLinearConfig, SearchSpace, Size,
    SpaceError, check_model,
};

#[derive(Module, Elastic, Debug)]
struct Net {
    stem: ElasticConv2d,
    head: ElasticLinear,
}

impl Backbone for Net {
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        self.head.forward(self.stem.forward(images).mean_dims(&[2, 3]).flatten(1, 3))
    }
}

/// A network whose head gets what `head` makes of the stem's width.
fn message(head: fn(Size) -> Size, unused: bool) -> Option<String> {
    let build = move |space: &mut SearchSpace, device: &Device| -> Result<Net, SpaceError> {
        let width = space.channels("width", 8).range(2..=8).step_by(2).add()?;
        if unused {
            space.channels("other", 8).range(2..=8).add()?;
        }
        Ok(Net {
            stem: ElasticConv2dConfig::new([3.into(), width.clone()], [3, 3]).init(device),
            head: ElasticLinearConfig::new(head(width), 10).init(device),
        })
    };
    let mut space = SearchSpace::new();
    build(&mut space, &Device::default()).expect("a space");
    check_model(&space, [3, 8, 8], build).err().map(|error| error.to_string())
}

#[test]
fn a_good_model_passes() {
    assert_eq!(message(|width| width, false), None);
}

#[test]
fn a_dimension_that_no_layer_uses_is_named() {
    let message = message(|width| width, true).expect("an error");
    assert_eq!(message, "dimension \"other\": expected a layer that uses it, found none");
}

#[test]
fn a_size_that_is_read_from_a_dimension_is_named() {
    let message = message(|width| (width.max() / 2 * 2).into(), false).expect("an error");
    assert!(
        message.contains("`head.weight` at width=2: expected the shape [8, 10] of a view, found [2, 10]"),
        "{message}"
    );
    assert!(message.contains("`max()`"), "{message}");
}

#[test]
fn layers_that_do_not_fit_are_named() {
    let message = message(|width| width + 1, false).expect("an error");
    assert!(message.contains("forward fails at width=2") && message.contains("head"), "{message}");
}
