//! Sizes of layers as expressions over dimensions, and the part of an axis that an architecture uses.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, Mul, Range};
use std::sync::Arc;

use burn::tensor::Tensor;

use crate::crop::crop_axis;
use crate::{Architecture, ElasticDim};

/// The size of one axis of a layer: a number, a dimension of the search space, or an expression over these.
///
/// An expression also says which entries of the supernet's axis an architecture uses. A dimension uses the first ones.
/// A sum is a concatenation, of which every part uses its own first entries. A product `groups * each` is an axis of
/// `groups` groups, of which the first ones are used, and of each of these the first `each` entries.
///
/// ```
/// use elastic_layers::{SearchSpace, Size};
///
/// # fn main() -> Result<(), elastic_layers::SpaceError> {
/// let mut space = SearchSpace::new();
/// let left = space.channels("left", 8).range(2..=8).add()?;
/// let right = space.channels("right", 4).range(1..=4).add()?;
/// let joined = left.clone() + right; // of a concatenation
/// let flat = joined.clone() * 49; // of its 7x7 maps, flattened
/// let groups = Size::from(4) * left; // of a convolution in 4 groups
/// let narrow = space.smallest();
/// assert_eq!([joined.at(&narrow), flat.at(&narrow), groups.at(&narrow)], [3, 147, 8]);
/// assert_eq!([joined.max(), flat.max(), groups.max()], [12, 588, 32]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Size {
    /// The same in every architecture.
    Fixed(usize),
    /// The value of a dimension.
    Elastic {
        /// Position of the dimension in its space.
        index: usize,
        /// The dimension; the supernet holds its largest value.
        dim: &'static ElasticDim,
    },
    /// The size of a concatenation of parts; made by `+` and by `sum`.
    Sum(Arc<[Size]>),
    /// The size of groups of equal size, the number of groups and the size of each; made by `*`.
    Product(Arc<[Size; 2]>),
}

impl Size {
    /// The size in the supernet.
    pub fn max(&self) -> usize {
        self.evaluate(&|_, dim| dim.max)
    }

    /// The size in an architecture.
    ///
    /// # Panics
    /// If the architecture belongs to another space than this size.
    pub fn at(&self, architecture: &Architecture) -> usize {
        self.evaluate(&|index, dim| architecture.value_of(index, dim))
    }

    fn evaluate(&self, value: &impl Fn(usize, &'static ElasticDim) -> usize) -> usize {
        match self {
            Self::Fixed(size) => *size,
            Self::Elastic { index, dim } => value(*index, dim),
            Self::Sum(parts) => parts.iter().map(|part| part.evaluate(value)).sum(),
            Self::Product(factors) => factors.iter().map(|factor| factor.evaluate(value)).product(),
        }
    }

    /// Whether the size depends on the architecture.
    pub fn is_elastic(&self) -> bool {
        match self {
            Self::Fixed(_) => false,
            Self::Elastic { .. } => true,
            Self::Sum(parts) => parts.iter().any(Self::is_elastic),
            Self::Product(factors) => factors.iter().any(Self::is_elastic),
        }
    }

    /// Appends the positions in their space of the dimensions that the size depends on.
    pub(crate) fn dimensions(&self, found: &mut Vec<usize>) {
        match self {
            Self::Fixed(_) => {}
            Self::Elastic { index, .. } => found.push(*index),
            Self::Sum(parts) => parts.iter().for_each(|part| part.dimensions(found)),
            Self::Product(factors) => factors.iter().for_each(|factor| factor.dimensions(found)),
        }
    }

    /// The size of each of so many groups, if this size is written as a product with them.
    pub(crate) fn in_groups(&self, groups: &Self) -> Option<Self> {
        match (self, groups) {
            (size, groups) if size == groups => Some(Self::Fixed(1)),
            (size, Self::Fixed(1)) => Some(size.clone()),
            (Self::Fixed(size), Self::Fixed(groups)) if *groups > 0 && size % groups == 0 => {
                Some(Self::Fixed(size / groups))
            }
            (size, Self::Product(factors)) => size.in_groups(&factors[0])?.in_groups(&factors[1]),
            (Self::Product(factors), groups) => Some(factors[0].in_groups(groups)? * factors[1].clone()),
            _ => None,
        }
    }

    /// Appends the entries that an architecture uses of an axis that begins at `start`, in order.
    fn push_ranges(&self, architecture: &Architecture, start: usize, ranges: &mut Vec<Range<usize>>) {
        match self {
            Self::Fixed(_) | Self::Elastic { .. } => push(ranges, start..start + self.at(architecture)),
            Self::Sum(parts) => {
                let mut start = start;
                for part in parts.iter() {
                    part.push_ranges(architecture, start, ranges);
                    start += part.max();
                }
            }
            Self::Product(factors) => {
                let [groups, each] = &**factors;
                let size = each.max();
                let mut used = Vec::new();
                groups.push_ranges(architecture, 0, &mut used);
                for group in used {
                    if each.at(architecture) == size {
                        push(ranges, start + group.start * size..start + group.end * size);
                    } else {
                        group.for_each(|group| each.push_ranges(architecture, start + group * size, ranges));
                    }
                }
            }
        }
    }
}

/// Appends a range; two that touch become one.
fn push(ranges: &mut Vec<Range<usize>>, range: Range<usize>) {
    match ranges.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        _ => ranges.push(range),
    }
}

impl From<usize> for Size {
    fn from(size: usize) -> Self {
        Self::Fixed(size)
    }
}

/// The size of a concatenation.
impl<T: Into<Size>> Add<T> for Size {
    type Output = Size;

    fn add(self, other: T) -> Size {
        [self, other.into()].into_iter().sum()
    }
}

/// The size of a concatenation.
impl Sum for Size {
    fn sum<I: Iterator<Item = Size>>(parts: I) -> Size {
        let mut flat = Vec::new();
        for part in parts {
            match part {
                Self::Fixed(0) => {}
                Self::Sum(parts) => flat.extend(parts.iter().cloned()),
                part => flat.push(part),
            }
        }
        match &*flat {
            [] => Self::Fixed(0),
            [part] => part.clone(),
            _ => Self::Sum(flat.into()),
        }
    }
}

/// So many groups of that size. Groups of groups are more groups: `(a * b) * c` is `a * (b * c)`.
impl<T: Into<Size>> Mul<T> for Size {
    type Output = Size;

    fn mul(self, each: T) -> Size {
        match (self, each.into()) {
            (Self::Fixed(1), size) | (size, Self::Fixed(1)) => size,
            (Self::Fixed(groups), Self::Fixed(each)) => Self::Fixed(groups * each),
            (Self::Product(factors), each) => factors[0].clone() * (factors[1].clone() * each),
            (groups, each) => Self::Product(Arc::new([groups, each])),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(size) => write!(f, "{size}"),
            Self::Elastic { dim, .. } => write!(f, "{}<={}", dim.name, dim.max),
            Self::Sum(parts) => {
                for (index, part) in parts.iter().enumerate() {
                    write!(f, "{}{part}", if index == 0 { "(" } else { " + " })?;
                }
                write!(f, ")")
            }
            Self::Product(factors) => write!(f, "{} * {}", factors[0], factors[1]),
        }
    }
}

/// One axis of a layer: its size, and the entries of it that are in use.
///
/// As made from a [`Size`], all entries of the supernet's axis are in use; [`Adaptation::axis`](crate::Adaptation::axis)
/// gives those of an architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Axis {
    size: Size,
    len: usize,
    /// The entries in use; without it, the first `len`.
    ranges: Option<Arc<[Range<usize>]>>,
}

impl Axis {
    /// An axis of one entry.
    pub(crate) fn one() -> &'static Self {
        static ONE: Axis = Axis { size: Size::Fixed(1), len: 1, ranges: None };
        &ONE
    }

    /// The number of entries in use.
    #[allow(clippy::len_without_is_empty, reason = "the length of an axis in use is a size, not that of a container")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The size.
    pub fn size(&self) -> &Size {
        &self.size
    }

    /// The entries in use of a tensor along one of its axes, which is this one.
    ///
    /// # Panics
    /// If the tensor has fewer entries there than the supernet.
    pub fn crop<const D: usize>(&self, tensor: Tensor<D>, dim: usize) -> Tensor<D> {
        crop_axis(tensor, dim, self)
    }

    /// The same axis at an architecture.
    pub(crate) fn at(&self, architecture: &Architecture) -> Self {
        let len = self.size.at(architecture);
        let ranges = match &self.size {
            Size::Fixed(_) | Size::Elastic { .. } => None,
            size => {
                let mut ranges = Vec::new();
                size.push_ranges(architecture, 0, &mut ranges);
                (ranges.len() > 1).then(|| ranges.into())
            }
        };
        Self { size: self.size.clone(), len, ranges }
    }

    /// The entries in use, in order.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = Range<usize>> {
        let first = self.ranges.is_none().then_some(0..self.len);
        first.into_iter().chain(self.ranges.iter().flat_map(|ranges| ranges.iter().cloned()))
    }

    /// Whether the entries in use are the first ones.
    pub(crate) fn is_first(&self) -> bool {
        self.ranges.is_none()
    }
}

impl<T: Into<Size>> From<T> for Axis {
    fn from(size: T) -> Self {
        let size = size.into();
        Self { len: size.max(), size, ranges: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SearchSpace;
    use proptest::prelude::*;

    /// An expression, and by the definition: for every entry of the supernet's axis, whether it is used.
    #[derive(Clone, Debug)]
    enum Tree {
        Leaf(usize, usize),
        Sum(Vec<Tree>),
        Product(Box<Tree>, Box<Tree>),
    }

    impl Tree {
        fn size(&self, space: &mut SearchSpace, values: &mut Vec<usize>) -> Size {
            match self {
                Self::Leaf(max, value) => {
                    values.push(*value);
                    space.channels(format!("d{}", values.len()), *max).range(1..=*max).add().expect("a dimension")
                }
                Self::Sum(parts) => parts.iter().map(|part| part.size(space, values)).sum(),
                Self::Product(groups, each) => {
                    let groups = groups.size(space, values);
                    groups * each.size(space, values)
                }
            }
        }

        fn used(&self) -> Vec<bool> {
            match self {
                Self::Leaf(max, value) => (0..*max).map(|entry| entry < *value).collect(),
                Self::Sum(parts) => parts.iter().flat_map(Self::used).collect(),
                Self::Product(groups, each) => {
                    let each = each.used();
                    groups.used().iter().flat_map(|group| each.iter().map(move |entry| *group && *entry)).collect()
                }
            }
        }
    }

    fn trees() -> impl Strategy<Value = Tree> {
        let leaf =
            (1..=5usize).prop_flat_map(|max| (Just(max), 1..=max)).prop_map(|(max, value)| Tree::Leaf(max, value));
        leaf.prop_recursive(3, 12, 3, |inner| {
            let pair = (inner.clone(), inner.clone());
            let product = pair.prop_map(|(groups, each)| Tree::Product(Box::new(groups), Box::new(each)));
            prop_oneof![proptest::collection::vec(inner, 1..=3).prop_map(Tree::Sum), product]
        })
    }

    proptest! {
        #[test]
        fn an_axis_uses_the_entries_of_its_definition(tree in trees()) {
            let (mut space, mut values) = (SearchSpace::new(), vec![]);
            let size = tree.size(&mut space, &mut values);
            let used = tree.used();
            prop_assert_eq!(size.max(), used.len());
            prop_assert!(Axis::from(size.clone()).ranges().eq(std::iter::once(0..used.len())));

            let architecture = space.architecture(values).expect("values in range");
            let axis = Axis::from(size).at(&architecture);
            let expected: Vec<_> = (0..used.len()).filter(|&entry| used[entry]).collect();
            prop_assert_eq!(axis.ranges().flatten().collect::<Vec<_>>(), expected);
            prop_assert_eq!(axis.len(), used.iter().filter(|used| **used).count());
        }
    }

    #[test]
    fn a_product_divides_by_its_groups() {
        let mut space = SearchSpace::new();
        let mut dim = |name, max| space.channels(name, max).range(1..=max).add().expect("a dimension");
        let (groups, width) = (dim("groups", 4), dim("width", 6));
        let channels = groups.clone() * width.clone();
        assert_eq!(channels.in_groups(&groups), Some(width.clone()));
        assert_eq!(channels.in_groups(&width), None);
        assert_eq!(channels.in_groups(&channels), Some(Size::Fixed(1)));
        assert_eq!(width.in_groups(&1.into()), Some(width.clone()));
        assert_eq!(Size::from(12).in_groups(&3.into()), Some(Size::Fixed(4)));
        assert_eq!(Size::from(12).in_groups(&5.into()), None);
        assert_eq!(width.in_groups(&2.into()), None, "which of the channels would be whose?");
        assert_eq!((width.clone() * 2).in_groups(&2.into()), None);
        // Of a hidden layer that is as many times as wide.
        let hidden = channels.clone() * 2;
        assert_eq!(hidden.in_groups(&groups), Some(width.clone() * 2));
        assert_eq!(hidden.in_groups(&channels), Some(Size::Fixed(2)));
        assert_eq!((Size::from(6) * width.clone()).in_groups(&2.into()), Some(Size::from(3) * width.clone()));
        assert_eq!((Size::from(6) * width.clone()).in_groups(&4.into()), None);
        assert_eq!(Size::from(0) + width.clone(), width, "as `fold` begins");
        assert_eq!((channels + width).to_string(), "(groups<=4 * width<=6 + width<=6)");
    }
}
