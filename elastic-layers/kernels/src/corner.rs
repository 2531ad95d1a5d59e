//! What a view uses of a weight, and the zeros around it in the weight's gradient.

use crate::buffer::{Buffer, take, zeros};

/// The first rows of a matrix, and the first numbers of each: all that is used of a tensor, or may be other than zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Corner {
    /// Rows and columns of the matrix.
    pub whole: [usize; 2],
    /// Rows and columns of the corner.
    pub used: [usize; 2],
}

impl Corner {
    /// The first `sizes` entries of a shape along every axis, if all but the first two axes are whole.
    pub fn new(sizes: &[usize], shape: &[usize]) -> Option<Self> {
        let behind = |shape: &[usize]| shape.iter().skip(2).product::<usize>();
        let matrix = |shape: &[usize]| [shape[0], shape.get(1).copied().unwrap_or(1) * behind(shape)];
        let is_corner = sizes.iter().zip(shape).skip(2).all(|(size, length)| size == length);
        is_corner.then(|| Self { whole: matrix(shape), used: matrix(sizes) })
    }

    /// Numbers of the matrix.
    pub fn numbers(&self) -> usize {
        self.whole[0] * self.whole[1]
    }

    /// Whether it is all of the matrix.
    pub fn is_whole(&self) -> bool {
        self.whole == self.used
    }

    /// Zeros around the corner, in which there may be any numbers.
    pub fn buffer(&self) -> Buffer {
        if self.is_whole() { take(self.numbers()) } else { zeros(self.numbers()) }
    }

    /// Writes the corner's numbers, row by row, to their places in the matrix.
    pub fn write(&self, numbers: &[f32], matrix: &mut [f32]) {
        let columns = self.used[1].max(1);
        for (row, numbers) in matrix.chunks_exact_mut(self.whole[1].max(1)).zip(numbers.chunks_exact(columns)) {
            row[..columns].copy_from_slice(numbers);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Whether an entry of a shape is among the first `sizes`.
    fn is_inside(flat: usize, sizes: &[usize], shape: &[usize]) -> bool {
        let mut rest = flat;
        shape.iter().zip(sizes).rev().fold(true, |is_inside, (&length, &size)| {
            let index = rest % length;
            rest /= length;
            is_inside && index < size
        })
    }

    proptest! {
        #[test]
        fn every_entry_is_where_its_index_says(
            axes in proptest::collection::vec((1..=4usize, 0..=3usize), 1..=2),
            behind in proptest::collection::vec(1..=3usize, 0..=2),
        ) {
            let behind = if axes.len() == 2 { behind } else { vec![] };
            let sizes: Vec<usize> = axes.iter().map(|axis| axis.0).chain(behind.clone()).collect();
            let shape: Vec<usize> = axes.iter().map(|axis| axis.0 + axis.1).chain(behind).collect();
            let corner = Corner::new(&sizes, &shape).expect("the other axes are whole");
            let numbers: Vec<f32> = (1..=sizes.iter().product::<usize>()).map(|value| value as f32).collect();
            let mut values = numbers.iter();
            let expected: Vec<f32> = (0..corner.numbers())
                .map(|flat| match is_inside(flat, &sizes, &shape) {
                    true => *values.next().expect("as many as fit"),
                    false => 0.0,
                })
                .collect();
            let mut matrix = vec![0.0; corner.numbers()];
            corner.write(&numbers, &mut matrix);
            prop_assert_eq!(matrix, expected);
        }
    }
}
