//! Weights that were trained elsewhere, put into a supernet.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use burn::module::{ModuleMapper, Param};
use burn::store::{ModuleStore, PytorchStore, SafetensorsStore};
use burn::tensor::{Tensor, TensorData};

use crate::cost::named_axes;
use crate::crop::{detached, place};
use crate::{Architecture, Axis, Backbone, Elastic, Size};

/// A backbone that knows what torchvision calls its modules.
pub trait Torchvision: Backbone {
    /// The name in torchvision's network of the module at a path of this one; none if it has none.
    ///
    /// A path is that of a module with parameters of its own, such as `stem.conv`.
    fn torchvision_name(&self, path: &str) -> Option<String>;
}

/// Tensors by their names in PyTorch's network.
#[derive(Clone, Debug)]
pub struct PytorchWeights {
    path: PathBuf,
    tensors: BTreeMap<String, TensorData>,
}

impl PytorchWeights {
    /// Reads a file of PyTorch (`.pth`, `.pt`) or of Safetensors (`.safetensors`).
    ///
    /// # Errors
    /// If it cannot be read, or is of neither kind.
    pub fn read(path: &Path) -> Result<Self, WeightsError> {
        let read = |reason: String| WeightsError::Read { path: path.into(), reason };
        // What a store finds missing is also what it finds damaged; only this says which.
        std::fs::metadata(path).map_err(|error| read(error.to_string()))?;
        let tensors = match path.extension().and_then(|extension| extension.to_str()) {
            Some("pth" | "pt") => tensors(PytorchStore::from_file(path).map_indices_contiguous(false)),
            Some("safetensors") => tensors(SafetensorsStore::from_file(path)),
            _ => Err("expected a file named .pth, .pt or .safetensors".into()),
        };
        Ok(Self { path: path.into(), tensors: tensors.map_err(read)? })
    }

    /// A model with these weights in the entries that an architecture uses, and its own elsewhere.
    ///
    /// Every parameter and running statistic gets the tensor of `name(module path)` and its own name, or what PyTorch
    /// calls that: `weight` and `bias` for `gamma` and `beta` of norms, `weight` for the slope of a PReLU. The weight of
    /// a linear layer is transposed. `num_batches_tracked` is not used.
    ///
    /// The model's running statistics are changed in place, as Burn does it: clones of the model share them.
    ///
    /// # Errors
    /// If a tensor is missing or left over, or has another shape than the parameter at that architecture.
    ///
    /// # Panics
    /// If the architecture is of another search space.
    pub fn put_into<M: Elastic>(
        &self,
        model: M,
        architecture: &Architecture,
        name: impl Fn(&str) -> Option<String>,
    ) -> Result<M, WeightsError> {
        let axes = named_axes(&model);
        let left = self.tensors.keys().filter(|name| !name.ends_with("num_batches_tracked")).map(String::as_str);
        let left = left.collect();
        let mut put = Put { weights: self, architecture, name: &name, axes, path: vec![], left, failed: None };
        let model = model.map(&mut put);
        match (put.failed, put.left.first()) {
            (Some(error), _) => Err(error),
            (None, Some(first)) => {
                Err(WeightsError::LeftOver { path: self.path.clone(), count: put.left.len(), name: (*first).into() })
            }
            (None, None) => Ok(model),
        }
    }

    /// A backbone with torchvision's weights in the entries that an architecture uses, which for a supernet is
    /// [`SearchSpace::base`](crate::SearchSpace::base).
    ///
    /// # Errors
    /// As [`put_into`](Self::put_into).
    ///
    /// # Panics
    /// If the architecture is of another search space.
    pub fn put_into_backbone<M: Torchvision>(&self, model: M, architecture: &Architecture) -> Result<M, WeightsError> {
        let names = model.clone();
        self.put_into(model, architecture, |path| names.torchvision_name(path))
    }
}

fn tensors<S: ModuleStore>(mut store: S) -> Result<BTreeMap<String, TensorData>, String>
where
    S::Error: ToString,
{
    let tensors = store.get_all_tensors().map_err(|error| error.to_string())?;
    let data = tensors.iter().map(|(name, tensor)| {
        let bytes = tensor.to_bytes().map_err(|error| format!("tensor \"{name}\": {error}"))?;
        let data = TensorData::from_bytes(bytes, tensor.shape.clone(), tensor.dtype);
        Ok((name.clone(), data))
    });
    data.collect()
}

/// Puts tensors into the parameters of a model.
struct Put<'a, N> {
    weights: &'a PytorchWeights,
    architecture: &'a Architecture,
    name: &'a N,
    axes: HashMap<String, Vec<Size>>,
    /// Every name on the way to a parameter, and the type of what it is in.
    path: Vec<(String, String)>,
    left: BTreeSet<&'a str>,
    failed: Option<WeightsError>,
}

impl<N: Fn(&str) -> Option<String>> Put<'_, N> {
    /// The tensor of the parameter at this path, and the axes of that.
    fn find<const D: usize>(&mut self) -> Result<(Tensor<D>, [Axis; D]), WeightsError> {
        let Some(((leaf, container), modules)) = self.path.split_last() else {
            return Err(WeightsError::Unnamed { module: String::new() });
        };
        let module = modules.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(".");
        // Running statistics are no parameters, and have the axis of the scale.
        let like = if leaf.starts_with("running_") { "gamma" } else { leaf.as_str() };
        let sizes = self.axes.get(&format!("{module}.{like}")).cloned().unwrap_or_default();
        let axes: [Axis; D] = std::array::from_fn(|axis| Axis::from(sizes[axis].clone()).at(self.architecture));
        let expected: Vec<usize> = axes.iter().map(Axis::len).collect();

        let leaf = match leaf.as_str() {
            "gamma" | "alpha" => "weight",
            "beta" => "bias",
            leaf => leaf,
        };
        let path = || self.weights.path.clone();
        let name = (self.name)(&module).ok_or_else(|| WeightsError::Unnamed { module: module.clone() })?;
        let name = format!("{name}.{leaf}");
        let Some((key, data)) = self.weights.tensors.get_key_value(&name) else {
            return Err(WeightsError::Missing { path: path(), name });
        };
        self.left.remove(key.as_str());
        let transposed = container.ends_with("Linear") && D == 2;
        let mut found = data.shape().to_vec();
        if transposed {
            found.reverse();
        }
        if found != expected {
            return Err(WeightsError::Shape { path: path(), name, expected, found });
        }
        let tensor = Tensor::<D>::from_data(data.clone().convert::<f32>(), &burn::tensor::Device::default());
        Ok((if transposed { tensor.swap_dims(0, 1) } else { tensor }, axes))
    }
}

impl<N: Fn(&str) -> Option<String>> ModuleMapper for Put<'_, N> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.failed.is_some() {
            return param;
        }
        match self.find::<D>() {
            Ok((tensor, axes)) => {
                let is_active = param.val().is_require_grad() || !param.val().is_autodiff();
                let put = param.map(|all| {
                    let small = tensor.to_device(&all.device());
                    detached(place(all.detach(), small, axes.each_ref()))
                });
                put.set_require_grad(is_active)
            }
            Err(error) => {
                self.failed = Some(error);
                param
            }
        }
    }

    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.push((name.into(), container_type.into()));
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }
}

/// Why weights cannot be put into a model.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum WeightsError {
    /// A file that cannot be read.
    #[error("{}: cannot be read as weights: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A module of the model for which there is no name.
    #[error("module \"{module}\": has parameters, but no name in the other network")]
    Unnamed {
        /// Its path.
        module: String,
    },
    /// A tensor that the model needs is not there.
    #[error("{}: expected a tensor \"{name}\", found none", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// A tensor of another shape.
    #[error("{}: tensor \"{name}\": expected the shape {expected:?}, found {found:?}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The parameter's shape at the architecture; that of a linear weight is `[inputs, outputs]`.
        expected: Vec<usize>,
        /// The tensor's, in the same order.
        found: Vec<usize>,
    },
    /// Tensors that the model has no parameter for.
    #[error("{}: expected tensors of this model only, found {count} others, such as \"{name}\"", path.display())]
    LeftOver {
        /// The file.
        path: PathBuf,
        /// How many.
        count: usize,
        /// The first.
        name: String,
    },
}
