//! Whether a model is what its search space says, before anything is searched.

use std::any::Any;
use std::collections::{BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::tensor::Device;

use crate::capture::{CaptureError, capture};
use crate::cost::named_axes;
use crate::{Architecture, Backbone, DimKind, SearchSpace, Size, SpaceError};

/// What is wrong with a model or its search space.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The model cannot be built at all.
    #[error(transparent)]
    Space(#[from] SpaceError),
    /// The model cannot be built for one architecture alone, as the final network is.
    #[error("the model cannot be built at {architecture} alone, as a final network is: {reason}")]
    Build {
        /// The architecture.
        architecture: String,
        /// Why.
        reason: String,
    },
    /// A parameter has another shape in the network of one architecture than in the view.
    #[error(
        "parameter `{path}` at {architecture}: expected the shape {expected:?} of a view, found {found:?} where the network \
         is built for that architecture alone: every size has to be made of dimensions, and none of a number that is read \
         from one, such as `max()`"
    )]
    Shape {
        /// The module path of the parameter.
        path: String,
        /// The architecture.
        architecture: String,
        /// The view's shape.
        expected: Vec<usize>,
        /// The shape as built.
        found: Vec<usize>,
    },
    /// No parameter depends on a dimension of channels.
    #[error("dimension \"{name}\": expected a layer that uses it, found none")]
    Unused {
        /// The name.
        name: String,
    },
    /// The layers do not fit together.
    #[error("the model's forward fails at {architecture}: {reason}")]
    Forward {
        /// The architecture.
        architecture: String,
        /// The message of the layer, with its module path.
        reason: String,
    },
    /// The forward cannot be captured.
    #[error(transparent)]
    Capture(#[from] CaptureError),
}

/// Checks a model at its smallest, its base and its largest architecture: that it can be built for each alone, with the
/// sizes of the view; that its layers fit together; and that every dimension of channels is used.
///
/// `image` is `[channels, height, width]`.
///
/// # Errors
/// The first thing that is wrong, with the layer's module path or the dimension's name.
pub fn check_model<M, F>(space: &SearchSpace, image: [usize; 3], build: F) -> Result<(), ModelError>
where
    M: Backbone,
    F: Fn(&mut SearchSpace, &Device) -> Result<M, SpaceError>,
{
    let axes = named_axes(&build(&mut SearchSpace::new(), &Device::default())?);
    check_use(space, &axes)?;
    for architecture in [space.smallest(), space.base(), space.largest()] {
        check_sizes(&architecture, &axes, &build)?;
        check_forward(&architecture, image, &build)?;
    }
    Ok(())
}

/// Whether every dimension of channels is in some axis. A resolution or a depth need not be.
fn check_use(space: &SearchSpace, axes: &HashMap<String, Vec<Size>>) -> Result<(), ModelError> {
    let mut used = Vec::new();
    axes.values().flatten().for_each(|size| size.dimensions(&mut used));
    let used: BTreeSet<usize> = used.into_iter().collect();
    let channels = space.dims().iter().enumerate().filter(|(_, dim)| dim.kind == DimKind::Channels);
    match channels.into_iter().find(|(index, _)| !used.contains(index)) {
        Some((_, dim)) => Err(ModelError::Unused { name: dim.name.clone() }),
        None => Ok(()),
    }
}

/// Whether the network that is built for an architecture has the sizes of the view.
fn check_sizes<M: Backbone>(
    architecture: &Architecture,
    axes: &HashMap<String, Vec<Size>>,
    build: &impl Fn(&mut SearchSpace, &Device) -> Result<M, SpaceError>,
) -> Result<(), ModelError> {
    let at = || architecture.to_string();
    let alone = contained(|| build(&mut SearchSpace::pinned(architecture), &Device::default()));
    let alone = match alone {
        Ok(Ok(network)) => network,
        Ok(Err(error)) => return Err(ModelError::Build { architecture: at(), reason: error.to_string() }),
        Err(reason) => return Err(ModelError::Build { architecture: at(), reason }),
    };
    let is_running = |path: &str| path.rsplit('.').next().is_some_and(|name| name.starts_with("running_"));
    // A running statistic is no parameter, and has the axis of the scale beside it.
    for (path, found) in named_axes(&alone).into_iter().filter(|(path, _)| !is_running(path)) {
        let found: Vec<usize> = found.iter().map(Size::max).collect();
        let Some(expected) = axes.get(&path) else { continue };
        let expected: Vec<usize> = expected.iter().map(|size| size.at(architecture)).collect();
        if expected != found {
            return Err(ModelError::Shape { path, architecture: at(), expected, found });
        }
    }
    Ok(())
}

/// Whether the forward of the view runs.
fn check_forward<M: Backbone>(
    architecture: &Architecture,
    [channels, height, width]: [usize; 3],
    build: &impl Fn(&mut SearchSpace, &Device) -> Result<M, SpaceError>,
) -> Result<(), ModelError> {
    let view = |device: &Device| {
        let model = build(&mut SearchSpace::new(), device).expect("it was built before");
        model.named().select(architecture)
    };
    let forward = || capture([2, channels, height, width], view, |model: &M, images| model.forward(images));
    match contained(forward) {
        Ok(captured) => Ok(captured.map(drop)?),
        Err(reason) => Err(ModelError::Forward { architecture: architecture.to_string(), reason }),
    }
}

/// Runs code of a user, whose panic becomes a reason.
fn contained<T>(code: impl FnOnce() -> T) -> Result<T, String> {
    let message = |payload: Box<dyn Any + Send>| {
        let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
        text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it panicked".to_owned())
    };
    catch_unwind(AssertUnwindSafe(code)).map_err(message)
}
