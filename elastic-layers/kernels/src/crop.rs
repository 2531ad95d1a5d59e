//! A part of a tensor put into zeros: the gradient of a crop.

/// Zeros of a shape, with `part`, of shape `sizes`, as the first entries along every axis.
pub(crate) fn in_zeros(part: &[f32], sizes: &[usize], shape: &[usize]) -> Vec<f32> {
    let mut output = vec![0.0; shape.iter().product()];
    // Behind the last axis that is cropped, entries lie next to each other in both.
    let whole = sizes.iter().zip(shape).rev().take_while(|(size, length)| size == length).count();
    let cropped = sizes.len() - whole;
    let Some(last) = cropped.checked_sub(1) else {
        output.copy_from_slice(part);
        return output;
    };
    let run: usize = sizes[last..].iter().product();
    // Distances between neighbours along the axes before the last that is cropped.
    let strides: Vec<usize> = (0..last).map(|axis| shape[axis + 1..].iter().product()).collect();
    let mut place = vec![0; last];
    for run in part.chunks_exact(run.max(1)) {
        let start: usize = place.iter().zip(&strides).map(|(index, stride)| index * stride).sum();
        output[start..start + run.len()].copy_from_slice(run);
        for axis in (0..last).rev() {
            place[axis] += 1;
            if place[axis] < sizes[axis] {
                break;
            }
            place[axis] = 0;
        }
    }
    output
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_entry_is_where_its_index_says(axes in proptest::collection::vec((1..=4usize, 0..=3usize), 1..=5)) {
            let sizes: Vec<usize> = axes.iter().map(|axis| axis.0).collect();
            let shape: Vec<usize> = axes.iter().map(|axis| axis.0 + axis.1).collect();
            let part: Vec<f32> = (1..=sizes.iter().product::<usize>()).map(|value| value as f32).collect();
            let mut values = part.iter();
            let expected: Vec<f32> = (0..shape.iter().product::<usize>())
                .map(|flat| {
                    let mut rest = flat;
                    let is_inside = shape.iter().zip(&sizes).rev().fold(true, |is_inside, (&length, &size)| {
                        let index = rest % length;
                        rest /= length;
                        is_inside && index < size
                    });
                    if is_inside { *values.next().expect("as many as fit") } else { 0.0 }
                })
                .collect();
            prop_assert_eq!(in_zeros(&part, &sizes, &shape), expected);
        }
    }
}
