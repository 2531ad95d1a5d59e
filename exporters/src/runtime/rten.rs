//! ONNX files on [`rten`](https://docs.rs/rten).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ndarray::ArrayD;
use rten::{DataType, Dimension, Model, NodeId, RunOptions, ThreadPool, Value, ValueOrView, ValueType};
use rten_tensor::TensorView;
use rten_tensor::prelude::*;

use super::{Runtime, RuntimeError, RuntimeKind, check_inputs, contained, wire};

/// The crate does not tell its version; a test compares this with `Cargo.lock`.
const VERSION: &str = "0.27.0";

/// A model in rten, with a thread pool of its own.
#[derive(Debug)]
pub(super) struct Rten {
    path: PathBuf,
    model: Model,
    pool: Arc<ThreadPool>,
    input_shapes: Vec<Vec<Option<usize>>>,
}

impl Rten {
    pub(super) fn load(path: &Path, threads: usize) -> Result<Self, RuntimeError> {
        let load_error = |reason| RuntimeError::Load { runtime: RuntimeKind::Rten, path: path.to_owned(), reason };
        wire::check(path).map_err(load_error)?;
        let model = contained(|| Model::load_file(path).map_err(|error| error.to_string())).map_err(load_error)?;

        let (inputs, outputs) = (model.input_ids().len(), model.output_ids().len());
        if inputs == 0 || outputs == 0 {
            return Err(RuntimeError::Interface { path: path.to_owned(), inputs, outputs });
        }
        let input_shapes =
            model.input_ids().iter().map(|id| float_shape(path, &model, *id)).collect::<Result<_, _>>()?;
        Ok(Self { path: path.to_owned(), pool: Arc::new(ThreadPool::with_num_threads(threads)), input_shapes, model })
    }
}

/// The declared shape of a tensor of `f32`.
fn float_shape(path: &Path, model: &Model, input: NodeId) -> Result<Vec<Option<usize>>, RuntimeError> {
    let info = model.node_info(input);
    match info.as_ref().and_then(|info| info.dtype()) {
        None | Some(ValueType::Tensor(DataType::Float)) => {}
        Some(found) => {
            return Err(RuntimeError::ElementType { path: path.to_owned(), place: "input", found: found.to_string() });
        }
    }
    let shape = info.and_then(|info| info.shape()).ok_or_else(|| RuntimeError::Load {
        runtime: RuntimeKind::Rten,
        path: path.to_owned(),
        reason: "an input has no declared shape".to_owned(),
    })?;
    Ok(shape.into_iter().map(size_of_axis).collect())
}

fn size_of_axis(dimension: Dimension) -> Option<usize> {
    match dimension {
        Dimension::Fixed(size) => Some(size),
        Dimension::Symbolic(_) => None,
    }
}

impl Runtime for Rten {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Rten
    }

    fn version(&self) -> String {
        VERSION.to_owned()
    }

    fn options(&self) -> &'static str {
        "default graph optimisations; a thread pool of its own"
    }

    fn input_shapes(&self) -> &[Vec<Option<usize>>] {
        &self.input_shapes
    }

    fn outputs(&self) -> usize {
        self.model.output_ids().len()
    }

    fn run_all(&mut self, inputs: &[&ArrayD<f32>]) -> Result<Vec<ArrayD<f32>>, RuntimeError> {
        check_inputs(&self.path, &self.input_shapes, inputs)?;
        let run_error = |reason| RuntimeError::Run { runtime: RuntimeKind::Rten, path: self.path.clone(), reason };
        let inputs: Vec<_> = inputs.iter().map(|input| input.as_standard_layout()).collect();
        let values = contained(|| {
            let mut named = Vec::new();
            for (id, input) in self.model.input_ids().iter().zip(&inputs) {
                let data = input.as_slice().unwrap_or_default();
                let view = TensorView::try_from_data(input.shape(), data).map_err(|error| error.to_string())?;
                named.push((*id, ValueOrView::from(view)));
            }
            let options = RunOptions::default().with_thread_pool(Some(Arc::clone(&self.pool)));
            self.model.run(named, self.model.output_ids(), Some(options)).map_err(|error| error.to_string())
        })
        .map_err(run_error)?;
        values.into_iter().map(|value| self.array(value)).collect()
    }
}

impl Rten {
    fn array(&self, value: Value) -> Result<ArrayD<f32>, RuntimeError> {
        let found = value.dtype();
        let (shape, data) = match value {
            Value::FloatTensor(tensor) => (tensor.shape().to_vec(), tensor.into_data()),
            Value::Int32Tensor(tensor) => {
                (tensor.shape().to_vec(), tensor.into_data().into_iter().map(|value| value as f32).collect())
            }
            _ => {
                return Err(RuntimeError::ElementType {
                    path: self.path.clone(),
                    place: "output",
                    found: found.to_string(),
                });
            }
        };
        ArrayD::from_shape_vec(shape, data).map_err(|error| RuntimeError::Run {
            runtime: RuntimeKind::Rten,
            path: self.path.clone(),
            reason: error.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::VERSION;

    #[test]
    fn version_is_the_locked_one() {
        let lock = include_str!("../../../Cargo.lock");
        let entry = lock
            .split("[[package]]")
            .find(|entry| entry.trim_start().starts_with("name = \"rten\"\n"))
            .expect("rten is locked");
        assert!(entry.contains(&format!("version = \"{VERSION}\"")), "expected version {VERSION}, found {entry}");
    }
}
