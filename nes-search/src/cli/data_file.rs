//! What the networks of a run directory are trained on. It is kept beside their weights, since data sets change.

use std::path::Path;

use anyhow::{anyhow, bail};
use nes_search::data::{ImageData, Inspection, Normalization};
use serde::{Deserialize, Serialize};

use super::directory::{DATA, file_of, read_json};

/// The content of a `data.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataFile {
    /// Channels, height and width of the images.
    pub image: [usize; 3],
    /// Names of the classes, in the order of the labels.
    pub classes: Vec<String>,
    /// How pixels become numbers.
    pub normalization: Normalization,
    pub train: Split,
    pub test: Split,
}

/// The images of a split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Split {
    pub images: usize,
    /// A hash of pixels and labels, or of the files.
    pub hash: String,
}

impl DataFile {
    /// That of a data set whose splits have been looked at.
    pub fn new(data: &ImageData, normalization: &Normalization, [train, test]: [Inspection; 2]) -> Self {
        let [_, channels, height, width] = data.train.shape();
        Self {
            image: [channels, height, width],
            classes: data.class_names.clone(),
            normalization: normalization.clone(),
            train: Split { images: data.train.len(), hash: train.hash },
            test: Split { images: data.test.len(), hash: test.hash },
        }
    }

    /// That of a run directory, or of the one that a network's directory is in.
    pub fn of(directory: &Path) -> anyhow::Result<Self> {
        let path = file_of(directory, DATA);
        if !path.is_file() {
            bail!("{}: expected {DATA}, which says what the networks were trained on, found none", directory.display());
        }
        read_json(&path)
    }

    /// Refuses data that is not what this file was made of.
    pub fn check(&self, found: &Self) -> anyhow::Result<()> {
        let refuse = |what: &str, expected: &dyn std::fmt::Debug, found: &dyn std::fmt::Debug| {
            anyhow!("the data has changed since the run began: {what}: expected {expected:?}, found {found:?}")
        };
        if self.image != found.image {
            return Err(refuse("channels, height and width", &self.image, &found.image));
        }
        if self.classes.len() != found.classes.len() {
            return Err(refuse("number of classes", &self.classes.len(), &found.classes.len()));
        }
        if let Some((expected, found)) = self.classes.iter().zip(&found.classes).find(|(one, other)| one != other) {
            return Err(refuse("name of a class", expected, found));
        }
        for (name, expected, found) in [("training", &self.train, &found.train), ("test", &self.test, &found.test)] {
            if expected.images != found.images {
                return Err(refuse(&format!("{name} images"), &expected.images, &found.images));
            }
            if expected.hash != found.hash {
                return Err(refuse(&format!("hash of the {name} images"), &expected.hash, &found.hash));
            }
        }
        if self.normalization != found.normalization {
            return Err(refuse("normalization", &self.normalization, &found.normalization));
        }
        Ok(())
    }
}
