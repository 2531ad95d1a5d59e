//! What normalised numbers were made of.
//!
//! The gradient of a convolution reads the convolution's input once more. Where that is what a normalisation made of
//! another convolution's output, which the normalisation's own gradient needs anyway, the input is made again of it, piece
//! by piece, rather than kept: a training step then keeps one tensor for every layer, not two.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;

use crate::applied::Framed;
use crate::maps::Maps;
use crate::normalization::Normalizer;

/// Numbers, and the normalisation that made others of them.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub x: FlexTensor,
    pub normalizer: Arc<Normalizer>,
}

/// By the addresses of buffers in use.
fn origins() -> MutexGuard<'static, HashMap<usize, Origin>> {
    static ORIGINS: LazyLock<Mutex<HashMap<usize, Origin>>> = LazyLock::new(Mutex::default);
    ORIGINS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Remembers what made the numbers at an address, until [`forget`].
pub(crate) fn remember(address: usize, origin: Origin) {
    origins().insert(address, origin);
}

/// To be called before others write to the numbers, and before their memory is used for others.
pub(crate) fn forget(address: usize) {
    let forgotten = origins().remove(&address);
    // Dropped where the lock is not held: its memory may have to be forgotten, too.
    drop(forgotten);
}

/// What made all numbers of a tensor, if it is known.
pub(crate) fn origin_of(tensor: &FlexTensor) -> Option<Origin> {
    let numbers = tensor.storage::<f32>();
    let is_all = tensor.layout().start_offset() == 0 && numbers.len() == tensor.shape().num_elements();
    origins().get(&numbers.as_ptr().addr()).filter(|_| is_all).cloned()
}

/// Input of a convolution, channels-last.
#[derive(Debug)]
pub(crate) enum Input {
    Kept(Maps),
    Made { x: Maps, normalizer: Arc<Normalizer> },
}

impl Input {
    /// A map in its frame, or pixels.
    pub fn framed<'a>(&'a self, range: Range<usize>, framed: &'a mut Framed) -> &'a [f32] {
        match self {
            Self::Kept(x) => framed.of(&x.data()[range]),
            Self::Made { x, normalizer } => framed.of_normalized(&x.data()[range], normalizer),
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;
    use burn::backend::ops::FloatTensorOps;

    use super::*;
    use crate::Activation;
    use crate::maps::dense;
    use crate::normalization::Affine;

    fn normalized() -> FlexTensor {
        let affine = Affine { gamma: &[2.0, -1.0], beta: &[0.5, 3.0], epsilon: 0.0, activation: Activation::Relu6 };
        let x = dense((0..2 * 2 * 9 * 9).map(|number| number as f32).collect(), [2, 2, 9, 9]);
        Maps::normalized(Origin {
            x: Maps::new(x).into_unique().expect("a copy"),
            normalizer: Arc::new(Normalizer::new(affine, &[70.0, 90.0], &[400.0, 1600.0])),
        })
    }

    #[test]
    fn an_origin_is_that_of_all_numbers_as_they_were_made() {
        let tensor = normalized();
        let address = tensor.storage::<f32>().as_ptr().addr();
        let part = Flex::float_slice(tensor.clone(), &[(1..2).into()]);
        assert!(origin_of(&part).is_none(), "some of the numbers");
        drop(part);
        let mut written = tensor;
        written.storage_mut::<f32>()[3] = 1.0;
        assert_eq!(written.storage::<f32>().as_ptr().addr(), address, "in place: nothing else holds the tensor");
        assert!(origin_of(&written).is_none(), "others have written to it");
        drop(written);
        let tensor = normalized();
        let address = tensor.storage::<f32>().as_ptr().addr();
        let x = origin_of(&tensor).expect("nobody has written to it").x;
        assert!(!x.is_unique());
        drop(tensor);
        assert!(!origins().contains_key(&address), "its memory may be used for others");
        assert!(x.is_unique(), "what it was made of is not held any longer");
    }
}
