//! What a view uses of a weight, and the zeros around it in the weight's gradient.

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

    /// The smallest corner of the matrix that has both in it.
    pub fn union(self, other: Self) -> Option<Self> {
        let used = [0, 1].map(|axis| self.used[axis].max(other.used[axis]));
        (self.whole == other.whole).then_some(Self { used, ..self })
    }

    /// Writes the corner's numbers, row by row, to their places in the matrix.
    pub fn write(&self, numbers: &[f32], matrix: &mut [f32]) {
        let columns = self.used[1].max(1);
        for (row, numbers) in matrix.chunks_exact_mut(self.whole[1].max(1)).zip(numbers.chunks_exact(columns)) {
            row[..columns].copy_from_slice(numbers);
        }
    }

    /// Writes zeros to the corner, but for what is in the other one, too.
    pub fn clear_outside(&self, other: Self, matrix: &mut [f32]) {
        for (number, row) in matrix.chunks_exact_mut(self.whole[1].max(1)).take(self.used[0]).enumerate() {
            let kept = if number < other.used[0] { other.used[1].min(self.used[1]) } else { 0 };
            row[kept..self.used[1]].fill(0.0);
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

        #[test]
        fn what_is_cleared_is_one_corner_without_the_other(
            whole in [1..=5usize, 1..=5usize], used in [1..=5usize, 1..=5usize], other in [1..=5usize, 1..=5usize],
        ) {
            let corner = |used: [usize; 2]| Corner { whole, used: [0, 1].map(|axis| used[axis].min(whole[axis])) };
            let (cleared, kept) = (corner(used), corner(other));
            let mut matrix = vec![1.0; cleared.numbers()];
            cleared.clear_outside(kept, &mut matrix);
            for (flat, number) in matrix.iter().enumerate() {
                let is_cleared = is_inside(flat, &cleared.used, &whole) && !is_inside(flat, &kept.used, &whole);
                prop_assert_eq!(*number, if is_cleared { 0.0 } else { 1.0 });
            }
            let union = cleared.union(kept).expect("one matrix");
            for flat in 0..cleared.numbers() {
                let is_in_one = is_inside(flat, &cleared.used, &whole) || is_inside(flat, &kept.used, &whole);
                prop_assert!(!is_in_one || is_inside(flat, &union.used, &whole));
            }
        }
    }
}
