//! ONNX files on [`rten`](https://docs.rs/rten).

use std::fmt::{self, Debug, Formatter};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ndarray::ArrayD;
use rten::{DataType, Dimension, Model, NodeId, RunOptions, ThreadPool, Value, ValueType};
use rten_tensor::Tensor;
use rten_tensor::prelude::*;

use super::{Element, Input, Runtime, RuntimeError, RuntimeKind, check_inputs, contained, wire};

/// The crate does not tell its version; a test compares this with `Cargo.lock`.
const VERSION: &str = "0.27.0";

/// A model in rten, with a thread pool of its own.
pub(super) struct Rten {
    path: PathBuf,
    model: Model,
    pool: Arc<ThreadPool>,
    inputs: Vec<Input>,
    fed: Vec<Value>,
}

impl Debug for Rten {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Rten").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Rten {
    pub(super) fn load(path: &Path, threads: usize) -> Result<Self, RuntimeError> {
        let load_error = |reason| RuntimeError::Load { runtime: RuntimeKind::Rten, path: path.to_owned(), reason };
        wire::check(path).map_err(load_error)?;
        let model = contained(|| read(path)).map_err(load_error)?;

        let (inputs, outputs) = (model.input_ids().len(), model.output_ids().len());
        if inputs == 0 || outputs == 0 {
            return Err(RuntimeError::Interface { path: path.to_owned(), inputs, outputs });
        }
        let inputs = model.input_ids().iter().map(|id| input(path, &model, *id)).collect::<Result<_, _>>()?;
        let pool = Arc::new(ThreadPool::with_num_threads(threads));
        Ok(Self { path: path.to_owned(), pool, inputs, fed: Vec::new(), model })
    }
}

/// Reads a file, whatever it is called: rten goes by the name, unless it has the content alone.
fn read(path: &Path) -> Result<Model, String> {
    let named = path.extension().is_some_and(|ending| ending == "onnx");
    let model = if named {
        Model::load_file(path)
    } else {
        Model::load(std::fs::read(path).map_err(|error| error.to_string())?)
    };
    model.map_err(|error| error.to_string())
}

/// What an input is declared as. rten computes with `i32` in place of `i64` and `bool`, and with `f32` in place of `f16`.
fn input(path: &Path, model: &Model, id: NodeId) -> Result<Input, RuntimeError> {
    let info = model.node_info(id);
    let element = match info.as_ref().and_then(|info| info.dtype()) {
        None | Some(ValueType::Tensor(DataType::Float)) => Element::F32,
        Some(ValueType::Tensor(DataType::Int32)) => Element::I32,
        Some(ValueType::Tensor(DataType::Int8)) => Element::I8,
        Some(ValueType::Tensor(DataType::UInt8)) => Element::U8,
        Some(found) => {
            return Err(RuntimeError::ElementType { path: path.to_owned(), place: "input", found: found.to_string() });
        }
    };
    let name = info.as_ref().and_then(|info| info.name()).unwrap_or_default().to_owned();
    let shape = info.and_then(|info| info.shape()).ok_or_else(|| RuntimeError::Load {
        runtime: RuntimeKind::Rten,
        path: path.to_owned(),
        reason: "an input has no declared shape".to_owned(),
    })?;
    Ok(Input { name, element, shape: shape.into_iter().map(size_of_axis).collect() })
}

/// A tensor of the numbers of an input.
fn value(element: Element, data: &ArrayD<f32>) -> Result<Value, String> {
    fn tensor<T: Clone>(data: &ArrayD<f32>, number: impl Fn(f32) -> T) -> Result<Value, String>
    where
        Value: From<Tensor<T>>,
    {
        let numbers: Vec<T> = data.iter().map(|value| number(*value)).collect();
        Tensor::try_from_data(data.shape(), numbers).map(Value::from).map_err(|error| error.to_string())
    }
    match element {
        Element::I8 => tensor(data, |value| value.round() as i8),
        Element::U8 => tensor(data, |value| value.round() as u8),
        Element::F32 => tensor(data, |value| value),
        _ => tensor(data, |value| value.round() as i32),
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

    fn inputs(&self) -> &[Input] {
        &self.inputs
    }

    fn outputs(&self) -> usize {
        self.model.output_ids().len()
    }

    fn feed(&mut self, inputs: &[&ArrayD<f32>]) -> Result<(), RuntimeError> {
        check_inputs(&self.path, &self.inputs, inputs)?;
        let values = self.inputs.iter().zip(inputs).map(|(input, data)| value(input.element, data));
        self.fed = values.collect::<Result<_, _>>().map_err(|reason| self.run_error(reason))?;
        Ok(())
    }

    fn compute(&mut self) -> Result<Vec<ArrayD<f32>>, RuntimeError> {
        let values = contained(|| {
            let named = self.model.input_ids().iter().zip(&self.fed).map(|(id, value)| (*id, value.into())).collect();
            let options = RunOptions::default().with_thread_pool(Some(Arc::clone(&self.pool)));
            self.model.run(named, self.model.output_ids(), Some(options)).map_err(|error| error.to_string())
        })
        .map_err(|reason| self.run_error(reason))?;
        values.into_iter().map(|value| self.array(value)).collect()
    }
}

impl Rten {
    fn run_error(&self, reason: String) -> RuntimeError {
        RuntimeError::Run { runtime: RuntimeKind::Rten, path: self.path.clone(), reason }
    }

    fn array(&self, value: Value) -> Result<ArrayD<f32>, RuntimeError> {
        let found = value.dtype();
        let (shape, data) = match value {
            Value::FloatTensor(tensor) => (tensor.shape().to_vec(), tensor.into_data()),
            Value::Int32Tensor(tensor) => {
                (tensor.shape().to_vec(), tensor.into_data().into_iter().map(|value| value as f32).collect())
            }
            Value::Int8Tensor(tensor) => {
                (tensor.shape().to_vec(), tensor.into_data().into_iter().map(f32::from).collect())
            }
            Value::UInt8Tensor(tensor) => {
                (tensor.shape().to_vec(), tensor.into_data().into_iter().map(f32::from).collect())
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
