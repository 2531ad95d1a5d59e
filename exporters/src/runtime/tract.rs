//! ONNX files on [tract](https://docs.rs/tract-onnx), with one thread.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ndarray::{ArrayD, IxDyn};
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::infer::Factoid;
use tract_onnx::tract_hir::internal::DimLike;

use super::{Element, Input, Runtime, RuntimeError, RuntimeKind, check_inputs, contained, wire};

/// The crate does not tell its version; a test compares this with `Cargo.lock`.
const VERSION: &str = "0.23.9";

/// A model in tract. It is optimised for the shape of its input, so that the first run with a shape takes longer.
#[derive(Debug)]
pub(super) struct Tract {
    path: PathBuf,
    model: InferenceModel,
    /// One: it has one input.
    inputs: Vec<Input>,
    fed: Option<ArrayD<f32>>,
    plan: Option<(Vec<usize>, Arc<TypedRunnableModel>)>,
}

impl Tract {
    pub(super) fn load(path: &Path, threads: usize) -> Result<Self, RuntimeError> {
        if threads != 1 {
            return Err(RuntimeError::OneThread { runtime: RuntimeKind::Tract, found: threads });
        }
        let load_error = |reason| RuntimeError::Load { runtime: RuntimeKind::Tract, path: path.to_owned(), reason };
        wire::check(path).map_err(load_error)?;
        // The shapes that a file gives have its symbolic batch size in them, which does not go with the size of a plan.
        let onnx = tract_onnx::onnx().with_ignore_value_info(true).with_ignore_output_shapes(true);
        let model =
            contained(|| onnx.model_for_path(path).map_err(|error| format!("{error:#}"))).map_err(load_error)?;
        let (&[_], &[_]) = (&model.inputs[..], &model.outputs[..]) else {
            let (inputs, outputs) = (model.inputs.len(), model.outputs.len());
            return Err(RuntimeError::Interface { path: path.to_owned(), inputs, outputs });
        };
        let fact = model.input_fact(0).map_err(|error| load_error(format!("{error:#}")))?;
        match fact.datum_type.concretize() {
            Some(DatumType::F32) => {}
            found => {
                let found = found.map_or_else(|| "no declared type".to_owned(), |found| format!("{found:?}"));
                return Err(RuntimeError::ElementType { path: path.to_owned(), place: "input", found });
            }
        }
        if fact.shape.is_open() {
            return Err(load_error("its input has no declared shape".to_owned()));
        }
        let size = |dim: &tract_onnx::tract_hir::infer::DimFact| dim.concretize().and_then(|dim| dim.to_usize().ok());
        let name = model.node(model.inputs[0].node).name.clone();
        let inputs = vec![Input { name, element: Element::F32, shape: fact.shape.dims().map(size).collect() }];
        Ok(Self { path: path.to_owned(), inputs, fed: None, model, plan: None })
    }

    /// The plan for inputs of a shape.
    fn plan(&mut self, shape: &[usize]) -> Result<Arc<TypedRunnableModel>, String> {
        match &self.plan {
            Some((planned, plan)) if planned == shape => Ok(plan.clone()),
            _ => {
                let plan = contained(|| {
                    let model = self.model.clone().with_input_fact(0, f32::fact(shape).into());
                    let plan = model.and_then(InferenceModel::into_optimized).and_then(IntoRunnable::into_runnable);
                    plan.map_err(|error| format!("{error:#}"))
                })?;
                self.plan = Some((shape.to_vec(), plan.clone()));
                Ok(plan)
            }
        }
    }
}

impl Runtime for Tract {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Tract
    }

    fn version(&self) -> String {
        VERSION.to_owned()
    }

    fn options(&self) -> &'static str {
        "optimised for the shape of its input; one thread"
    }

    fn inputs(&self) -> &[Input] {
        &self.inputs
    }

    fn outputs(&self) -> usize {
        1
    }

    fn feed(&mut self, inputs: &[&ArrayD<f32>]) -> Result<(), RuntimeError> {
        check_inputs(&self.path, &self.inputs, inputs)?;
        // There is one, as has been checked.
        self.fed = Some(inputs[0].as_standard_layout().into_owned());
        Ok(())
    }

    fn compute(&mut self) -> Result<Vec<ArrayD<f32>>, RuntimeError> {
        let path = self.path.clone();
        let run_error = |reason| RuntimeError::Run { runtime: RuntimeKind::Tract, path: path.clone(), reason };
        let input = self.fed.clone().ok_or_else(|| run_error("no data".to_owned()))?;
        let plan = self.plan(input.shape()).map_err(run_error)?;
        let data = &input;
        let output = contained(|| {
            let tensor = Tensor::from_shape(input.shape(), data.as_slice().unwrap_or_default());
            let outputs = tensor.and_then(|tensor| plan.run(tvec!(tensor.into())));
            outputs.map_err(|error| format!("{error:#}"))
        })
        .map_err(run_error)?;
        let [output] = &output[..] else { return Err(run_error(format!("{} outputs", output.len()))) };
        if output.datum_type() != DatumType::F32 {
            let found = format!("{:?}", output.datum_type());
            return Err(RuntimeError::ElementType { path, place: "output", found });
        }
        let values = output.to_plain_array_view::<f32>().map(|values| values.iter().copied().collect());
        let values = values.map_err(|error| run_error(error.to_string()))?;
        let output =
            ArrayD::from_shape_vec(IxDyn(output.shape()), values).map_err(|error| run_error(error.to_string()));
        Ok(vec![output?])
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
            .find(|entry| entry.trim_start().starts_with("name = \"tract-onnx\"\n"))
            .expect("tract is locked");
        assert!(entry.contains(&format!("version = \"{VERSION}\"")), "expected version {VERSION}, found {entry}");
    }
}
