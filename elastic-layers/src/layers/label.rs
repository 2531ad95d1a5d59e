//! What a layer is called in its messages.

use std::fmt;

use crate::Adaptation;
use crate::intern::Interned;

/// The module path of a layer, once it is known.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Label(Option<&'static str>);

static PATHS: Interned<str> = Interned::new();

impl Label {
    /// The label of the layer that a change has come to. One that is known stays; a layer that was changed on its own may
    /// have become part of a model since.
    pub(super) fn at(&self, adaptation: &Adaptation<'_>) -> Self {
        match self.0 {
            Some(path) if !path.is_empty() => *self,
            _ => Self(Some(PATHS.of(adaptation.path().into()))),
        }
    }
}

/// The path, quoted, with a space behind it; nothing where there is none.
impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None | Some("") => Ok(()),
            Some(path) => write!(f, "`{path}` "),
        }
    }
}
