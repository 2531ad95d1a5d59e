//! An exported model, and the files that it becomes.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::Path;

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

    fn save_within(&self, path: &Path, limit: usize) -> Result<(), ExportError> {
        let failed = |source| ExportError::Write { path: path.to_owned(), source };
        let Some(name) = path.file_name() else {
            return Err(failed(std::io::Error::from(std::io::ErrorKind::InvalidInput)));
        };
        let data_name = format!("{}.data", name.to_string_lossy());
        let data_path = path.with_file_name(&data_name);
        if self.external_data || self.constant_bytes() > limit {
            let storage = Storage::beside(&self.graph, self.header.precision, data_name);
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

/// A temporary file in the folder of `path` with what `write` makes.
fn write_beside(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<&mut NamedTempFile>) -> std::io::Result<()>,
) -> std::io::Result<NamedTempFile> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    // Whoever owns the directory knows by this name what a killed process left.
    builder.prefix(".writing-");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // What a plain new file gets; the process's mask still applies.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let mut file = builder.tempfile_in(folder)?;
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
