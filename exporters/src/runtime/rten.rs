//! ONNX files on [`rten`](https://docs.rs/rten).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ndarray::ArrayD;
use rten::{DataType, Dimension, Model, RunOptions, ThreadPool, ValueOrView, ValueType};
use rten_tensor::prelude::*;
use rten_tensor::{Tensor, TensorView};

use super::{Runtime, RuntimeError, RuntimeKind, check_input_shape, contained, wire};

/// The crate does not tell its version; a test compares this with `Cargo.lock`.
const VERSION: &str = "0.27.0";

/// A model in rten, with a thread pool of its own.
#[derive(Debug)]
pub(super) struct Rten {
    path: PathBuf,
    model: Model,
    pool: Arc<ThreadPool>,
    input_shape: Vec<Option<usize>>,
}

impl Rten {
    pub(super) fn load(path: &Path, threads: usize) -> Result<Self, RuntimeError> {
        let load_error = |reason| RuntimeError::Load { runtime: RuntimeKind::Rten, path: path.to_owned(), reason };
        wire::check(path).map_err(load_error)?;
        let model = contained(|| Model::load_file(path).map_err(|error| error.to_string())).map_err(load_error)?;

        let (&[input], &[_]) = (model.input_ids(), model.output_ids()) else {
            let (inputs, outputs) = (model.input_ids().len(), model.output_ids().len());
            return Err(RuntimeError::Interface { path: path.to_owned(), inputs, outputs });
        };
        let info = model.node_info(input);
        match info.as_ref().and_then(|info| info.dtype()) {
            None | Some(ValueType::Tensor(DataType::Float)) => {}
            Some(found) => {
                return Err(RuntimeError::ElementType {
                    path: path.to_owned(),
                    place: "input",
                    found: found.to_string(),
                });
            }
        }
        let Some(shape) = info.and_then(|info| info.shape()) else {
            return Err(load_error("its input has no declared shape".to_owned()));
        };
        let input_shape = shape.into_iter().map(size_of_axis).collect();
        Ok(Self { path: path.to_owned(), pool: Arc::new(ThreadPool::with_num_threads(threads)), input_shape, model })
    }
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

    fn input_shape(&self) -> Vec<Option<usize>> {
        self.input_shape.clone()
    }

    fn run(&mut self, input: &ArrayD<f32>) -> Result<ArrayD<f32>, RuntimeError> {
        check_input_shape(&self.path, &self.input_shape, input.shape())?;
        let run_error = |reason| RuntimeError::Run { runtime: RuntimeKind::Rten, path: self.path.clone(), reason };
        let input = input.as_standard_layout();
        let data = input.as_slice().unwrap_or_default();
        let value = contained(|| {
            let view = TensorView::try_from_data(input.shape(), data).map_err(|error| error.to_string())?;
            let options = RunOptions::default().with_thread_pool(Some(Arc::clone(&self.pool)));
            self.model.run_one(ValueOrView::from(view), Some(options)).map_err(|error| error.to_string())
        })
        .map_err(run_error)?;
        let found = value.dtype();
        let output = Tensor::<f32>::try_from(value).map_err(|_| RuntimeError::ElementType {
            path: self.path.clone(),
            place: "output",
            found: found.to_string(),
        })?;
        let shape = output.shape().to_vec();
        ArrayD::from_shape_vec(shape, output.into_data()).map_err(|error| run_error(error.to_string()))
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
