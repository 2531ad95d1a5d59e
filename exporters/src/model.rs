//! An exported model, and the files that it becomes.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use elastic_layers::Macs;
use tempfile::NamedTempFile;

use crate::error::ExportError;
use crate::graph::Graph;
use crate::proto::{Header, Storage, constant_bytes, encode};

/// An exported model.
#[derive(Clone, Debug)]
pub struct OnnxModel {
    pub(crate) graph: Graph,
    pub(crate) header: Header,
    pub(crate) external_data: bool,
    pub(crate) captured: BTreeMap<String, usize>,
    pub(crate) macs: Macs,
    pub(crate) parameters: u64,
}

impl OnnxModel {
    /// The bytes of the ONNX file, constants included.
    ///
    /// # Errors
    ///
    /// [`ExportError::TooLarge`] above 2 GiB; [`Self::save`] has no such limit.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ExportError> {
        let bytes = self.constant_bytes();
        if bytes > LIMIT {
            return Err(ExportError::TooLarge { bytes });
        }
        encode(&self.graph, &self.header, &Storage::default())
    }

    /// How many nodes of each ONNX operator the graph has.
    pub fn operators(&self) -> BTreeMap<&'static str, usize> {
        self.graph.operators()
    }

    /// How many operations of each kind the forward was captured as, in Burn's words, such as `Module(Conv2d)`.
    pub fn captured_operations(&self) -> &BTreeMap<String, usize> {
        &self.captured
    }

    /// The names of inputs and outputs.
    pub fn names(&self) -> [Vec<&str>; 2] {
        [&self.graph.inputs, &self.graph.outputs]
            .map(|ids| ids.iter().map(|id| self.graph.value(*id).name.as_str()).collect())
    }

    /// Multiply-accumulates of convolutions and linear layers for one image.
    pub fn macs(&self) -> Macs {
        self.macs
    }

    /// Trainable parameters of the model, as PyTorch counts them: before batch norm was folded.
    pub fn parameters(&self) -> u64 {
        self.parameters
    }

    fn constant_bytes(&self) -> usize {
        let constants = self.graph.used_constants();
        constants.iter().map(|id| constant_bytes(&self.graph, *id, self.header.precision)).sum()
    }

    /// Writes the file: to a temporary file beside it first, then renamed, so that a failure leaves what was there.
    ///
    /// Where constants are in a second file, that one is named as this one with `.data` behind it, and takes its
    /// place first.
    ///
    /// # Errors
    ///
    /// [`ExportError::Write`] with what the operating system says.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), ExportError> {
        self.save_within(path.as_ref(), LIMIT)
    }

    /// Writes the file into a folder beside, shows it to `check`, and puts it in place only if `check` accepts it: of a
    /// file that it refuses nothing is left, and what was there before stays.
    ///
    /// # Errors
    ///
    /// What `check` returns, or [`ExportError::Write`] with what the operating system says.
    pub fn save_checked<T, E: From<ExportError>>(
        &self,
        path: impl AsRef<Path>,
        check: impl FnOnce(&Path) -> Result<T, E>,
    ) -> Result<T, E> {
        let path = path.as_ref();
        let failed = |source| E::from(ExportError::Write { path: path.to_owned(), source });
        let Some(name) = path.file_name() else {
            return Err(failed(std::io::Error::from(std::io::ErrorKind::InvalidInput)));
        };
        let folder = tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(folder_of(path)).map_err(failed)?;
        let beside = folder.path().join(name);
        self.save(&beside)?;
        let checked = check(&beside)?;
        let data = data_path(&beside);
        if data.is_file() {
            std::fs::rename(data, data_path(path)).map_err(failed)?;
        }
        std::fs::rename(beside, path).map_err(failed)?;
        Ok(checked)
    }

    fn save_within(&self, path: &Path, limit: usize) -> Result<(), ExportError> {
        let failed = |source| ExportError::Write { path: path.to_owned(), source };
        let data_path = data_path(path);
        let Some(data_name) = data_path.file_name().filter(|_| path.file_name().is_some()) else {
            return Err(failed(std::io::Error::from(std::io::ErrorKind::InvalidInput)));
        };
        if self.external_data || self.constant_bytes() > limit {
            let storage = Storage::beside(&self.graph, self.header.precision, data_name.to_string_lossy().into_owned());
            let model = encode(&self.graph, &self.header, &storage)?;
            let data = write_beside(&data_path, |file| storage.write(&self.graph, self.header.precision, file));
            let model = write_beside(path, |file| file.write_all(&model)).map_err(failed)?;
            data.and_then(|data| replace(data, &data_path)).and_then(|()| replace(model, path)).map_err(failed)
        } else {
            let model = encode(&self.graph, &self.header, &Storage::default())?;
            write_beside(path, |file| file.write_all(&model)).and_then(|file| replace(file, path)).map_err(failed)
        }
    }
}

/// What a protobuf message can have.
const LIMIT: usize = i32::MAX as usize;

/// How the names of files and folders begin that are being written. Whoever owns the directory knows by it what a killed
/// process left.
const UNFINISHED: &str = ".writing-";

/// The second file of a file, with its large constants.
fn data_path(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{name}.data"))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A temporary file in the folder of `path` with what `write` makes.
fn write_beside(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<&mut NamedTempFile>) -> std::io::Result<()>,
) -> std::io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(UNFINISHED);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // What a plain new file gets; the process's mask still applies.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let mut file = builder.tempfile_in(folder_of(path))?;
    let mut writer = BufWriter::new(&mut file);
    write(&mut writer)?;
    writer.flush()?;
    drop(writer);
    file.as_file().sync_all()?;
    Ok(file)
}

fn replace(file: NamedTempFile, path: &Path) -> std::io::Result<()> {
    file.persist(path).map(|_| ()).map_err(|error| error.error)
}

#[cfg(test)]
mod tests {
    use burn::nn::{Linear, LinearConfig};
    use burn::tensor::{Device, Tensor};

    use super::*;
    use crate::runtime::available;
    use crate::{OnnxExporter, random_reference};

    fn linear() -> (Linear, OnnxModel) {
        let model = LinearConfig::new(40, 30).init(&Device::default());
        let onnx = OnnxExporter::new([1, 40]).export(&model, forward).expect("exports");
        (model, onnx)
    }

    fn forward(model: &Linear, x: Tensor<2>) -> Tensor<2> {
        model.forward(x)
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").file_name());
        let mut names: Vec<String> = entries.map(|name| name.to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// As above 2 GiB, with a limit that a small network exceeds.
    #[test]
    fn constants_above_the_limit_go_into_a_second_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let (model, onnx) = linear();
        assert_eq!(onnx.constant_bytes(), 4 * (40 * 30 + 30));
        let path = folder.path().join("model.onnx");
        onnx.save_within(&path, onnx.constant_bytes()).expect("writes");
        assert_eq!(names(folder.path()), ["model.onnx"]);
        onnx.save_within(&path, onnx.constant_bytes() - 1).expect("writes");
        assert_eq!(names(folder.path()), ["model.onnx", "model.onnx.data"]);
        let size = std::fs::metadata(folder.path().join("model.onnx.data")).expect("a file").len();
        assert_eq!(size, 4 * 40 * 30, "the weight; the bias is too small for it");
        let reference = random_reference([3, 40], &Device::default(), |x| forward(&model, x));
        let report = onnx.verify(&path, &[reference], &available(), 1e-5);
        assert!(report.passed(), "{report}");
    }

    #[test]
    fn a_file_that_is_refused_leaves_what_was_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let (_, mut onnx) = linear();
        onnx.external_data = true;
        let path = folder.path().join("model.onnx");
        let whole = |path: &Path| path.is_file() && data_path(path).is_file();
        let refuse =
            |path: &Path| if whole(path) { Err::<(), _>(ExportError::Encode("refused".into())) } else { Ok(()) };
        assert!(onnx.save_checked(&path, refuse).is_err());
        assert!(names(folder.path()).is_empty());

        std::fs::write(&path, "before").expect("writes");
        assert!(onnx.save_checked(&path, refuse).is_err());
        assert_eq!(std::fs::read(&path).expect("a file"), b"before");

        let accepted: Result<bool, ExportError> =
            onnx.save_checked(&path, |beside| Ok(whole(beside) && beside != path));
        assert!(accepted.expect("accepted"));
        assert_eq!(names(folder.path()), ["model.onnx", "model.onnx.data"]);
        assert!(available().iter().all(|kind| crate::runtime::load(*kind, &path, 1).is_ok()));
    }
}
