//! An elastic layer under test, beside Burn's own layer at the sizes of the supernet and of a view.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use elastic_layers::{Architecture, Elastic, SearchSpace, Size};
use proptest::prelude::*;

use super::{
    Entry, Run, assert_close, assert_equal, assert_same_bits, cropped, entries, filled, gradients, ids, in_zeros,
    inside, tensor, to_f64, values,
};

/// A size of a layer, and how much of it the view uses: the concatenation of some parts.
#[derive(Clone, Debug)]
pub struct Width(pub Vec<Part>);

#[derive(Clone, Debug)]
pub struct Part {
    pub max: usize,
    pub active: usize,
    pub elastic: bool,
}

impl Width {
    pub fn fixed(size: usize) -> Self {
        Self(vec![Part { max: size, active: size, elastic: false }])
    }

    /// One dimension.
    pub fn dimension(max: usize, active: usize) -> Self {
        Self(vec![Part { max, active, elastic: true }])
    }

    /// The same width in the view as in the supernet.
    pub fn whole(&self) -> Self {
        Self(self.0.iter().map(|part| Part { active: part.max, ..*part }).collect())
    }

    /// What the view is to the supernet.
    pub fn active(&self) -> usize {
        self.0.iter().map(|part| part.active).sum()
    }

    pub fn max(&self) -> usize {
        self.0.iter().map(|part| part.max).sum()
    }

    /// The entries that the view uses, by the definition of a concatenation.
    pub fn used(&self) -> Vec<usize> {
        let mut start = 0;
        let mut used = Vec::new();
        for part in &self.0 {
            used.extend(start..start + part.active);
            start += part.max;
        }
        used
    }

    /// The entries that the view uses of so many groups of another width, by the definition of groups.
    pub fn used_groups(&self, each: &Self) -> Vec<usize> {
        let of_group = |group: usize| each.used().into_iter().map(move |entry| group * each.max() + entry);
        self.used().into_iter().flat_map(of_group).collect()
    }
}

/// One part or a concatenation of up to three, of up to `max` entries each; one channel and full size are among them.
pub fn widths(max: usize) -> impl Strategy<Value = Width> {
    let part = (1..=max).prop_flat_map(|max| (Just(max), 1..=max, prop::bool::weighted(0.8)));
    let part =
        part.prop_map(|(max, active, elastic)| Part { max, active: if elastic { active } else { max }, elastic });
    prop_oneof![3 => part.clone().prop_map(|part| Width(vec![part])), 2 => prop::collection::vec(part, 2..=3).prop_map(Width)]
}

/// A search space in the making, and the values of its dimensions in the view.
#[derive(Default)]
pub struct Sizes {
    space: SearchSpace,
    values: Vec<usize>,
}

impl Sizes {
    pub fn add(&mut self, width: &Width) -> Size {
        let parts = width.0.iter().map(|&Part { max, active, elastic }| {
            if !elastic {
                return Size::Fixed(max);
            }
            self.values.push(active);
            self.space.channels(format!("d{}", self.values.len()), max).range(1..=max).add().expect("a dimension")
        });
        parts.sum()
    }

    pub fn architectures(self) -> [Architecture; 2] {
        [self.space.architecture(self.values).expect("sizes in range"), self.space.largest()]
    }
}

/// Index of what belongs to the view, in pairs of that and of what belongs to the supernet.
pub const VIEW: usize = 0;
/// Index of what belongs to the supernet.
pub const FULL: usize = 1;

/// The entries used of every parameter, by path.
pub type Used = Vec<(&'static str, Vec<Vec<usize>>)>;

/// An elastic layer under test.
pub struct Subject<E, B, const D: usize> {
    pub supernet: E,
    /// Burn's layers at the sizes of the view and the supernet, with the parameters of the supernet.
    pub burn: [B; 2],
    pub used: Used,
    pub architectures: [Architecture; 2],
    pub inputs: [[usize; D]; 2],
    pub forward: fn(&E, Tensor<D>) -> Tensor<D>,
    pub forward_burn: fn(&B, Tensor<D>) -> Tensor<D>,
    /// Gives reproducible numbers, for parameters and inputs.
    pub numbers: fn(u64, usize) -> Vec<f32>,
    pub seed: u64,
}

/// What differs between layers, of [`Subject`].
pub struct Parts<E, B, const D: usize> {
    pub used: Used,
    pub architectures: [Architecture; 2],
    pub inputs: [[usize; D]; 2],
    pub forward: fn(&E, Tensor<D>) -> Tensor<D>,
    pub forward_burn: fn(&B, Tensor<D>) -> Tensor<D>,
}

impl<E: Elastic, B: Module, const D: usize> Subject<E, B, D> {
    /// A layer that `take_over` makes from Burn's, which `burn` makes at the sizes of the view or the supernet.
    pub fn new(
        parts: Parts<E, B, D>,
        burn: impl Fn(usize) -> B,
        take_over: impl Fn(B) -> E,
        numbers: fn(u64, usize) -> Vec<f32>,
        seed: u64,
    ) -> Self {
        let Parts { used, architectures, inputs, forward, forward_burn } = parts;
        let value = |path: &str, shape: &[usize]| {
            let own = path.bytes().fold(seed, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
            let values = numbers(own, shape.iter().product());
            let positive = |value: f32| value.abs() + 0.5;
            if path.ends_with("running_var") { values.into_iter().map(positive).collect() } else { values }
        };
        // Running statistics are shared by clones: every layer gets its own.
        let full = || filled(burn(FULL), value);
        let large = full();
        let of_large = entries(&large);
        let small = filled(burn(VIEW), |path, shape| {
            let entry = of_large.iter().find(|entry| entry.path == path).expect("the same parameters");
            let small = cropped(&entry.values, &entry.shape, used_of(&used, path));
            assert_eq!(small.len(), shape.iter().product::<usize>(), "{path}");
            small
        });
        let supernet = take_over(full());
        Self { supernet, burn: [small, large], used, architectures, inputs, forward, forward_burn, numbers, seed }
    }

    pub fn view(&self) -> E {
        self.supernet.select(&self.architectures[VIEW])
    }

    pub fn used(&self, path: &str) -> &[Vec<usize>] {
        used_of(&self.used, path)
    }

    /// The input, flat.
    pub fn input(&self, which: usize) -> Vec<f32> {
        (self.numbers)(self.seed + 2, self.inputs[which].iter().product())
    }

    /// The gradient of an output of so many elements.
    pub fn upstream(&self, count: usize) -> Vec<f32> {
        (self.numbers)(self.seed + 3, count)
    }

    pub fn run(&self, layer: &E, which: usize) -> Run {
        Run::new(&self.input(which), self.inputs[which], |count| self.upstream(count), |x| (self.forward)(layer, x))
    }

    pub fn run_burn(&self, layer: &B, which: usize) -> Run {
        let forward = |x| (self.forward_burn)(layer, x);
        Run::new(&self.input(which), self.inputs[which], |count| self.upstream(count), forward)
    }

    /// The output of an elastic layer on a device without gradients.
    pub fn infer(&self, layer: &E, which: usize) -> Vec<f32> {
        let input = tensor(&self.input(which), self.inputs[which], &Device::default());
        values((self.forward)(layer, input))
    }

    /// The output of Burn's layer on a device without gradients.
    pub fn infer_burn(&self, layer: &B, which: usize) -> Vec<f32> {
        let input = tensor(&self.input(which), self.inputs[which], &Device::default());
        values((self.forward_burn)(layer, input))
    }

    /// The parameters of Burn's small layer, as entries of the supernet's.
    pub fn cropped_entries(&self) -> Vec<Entry> {
        let small = |Entry { path, shape, values }| {
            let used = self.used(&path);
            let (values, shape) = (cropped(&values, &shape, used), used.iter().map(Vec::len).collect());
            Entry { path, shape, values }
        };
        entries(&self.supernet).into_iter().map(small).collect()
    }

    /// Output and all gradients of the view are those of Burn's small layer; gradients outside it are exactly zero.
    #[track_caller]
    pub fn check_view(&self, tolerance: f64) -> Run {
        let before = entries(&self.supernet);
        let ours = self.run(&self.view(), VIEW);
        let theirs = self.run_burn(&self.burn[VIEW], VIEW);
        assert_eq!(ours.output_shape, theirs.output_shape);
        assert_close("output", &ours.output, &to_f64(&theirs.output), tolerance);
        assert_close("input gradient", &ours.input_gradient, &to_f64(&theirs.input_gradient), tolerance);
        let of_small = gradients(&self.burn[VIEW], &theirs.gradients);
        let of_supernet = gradients(&self.supernet, &ours.gradients);
        assert_eq!(of_supernet.len(), of_small.len(), "gradients of the same parameters");
        for (Entry { path, shape, values }, small) in of_supernet.iter().zip(&of_small) {
            assert_eq!(path, &small.path);
            let expected = to_f64(&in_zeros(&small.values, shape, self.used(path)));
            assert_close(&format!("{path} gradient"), values, &expected, tolerance);
            let mut outside = values.clone();
            inside(shape, self.used(path)).into_iter().for_each(|position| outside[position] = 0.0);
            assert!(outside.iter().all(|&value| value == 0.0), "{path}: a gradient outside the view: {values:?}");
        }
        assert_eq!(entries(&self.supernet), before, "a view changes nothing of the supernet");
        ours
    }

    /// At full size, as built, as a view and materialised, it is Burn's layer bit for bit.
    #[track_caller]
    pub fn check_full_size(&self) {
        let largest = &self.architectures[FULL];
        let theirs = self.run_burn(&self.burn[FULL], FULL);
        let of_theirs = gradients(&self.burn[FULL], &theirs.gradients);
        let layers = [self.supernet.select(largest), self.supernet.materialize_at(largest), self.supernet.clone()];
        for (layer, name) in layers.iter().zip(["view", "materialised", "as built"]) {
            let ours = self.run(layer, FULL);
            assert_eq!(ours.output_shape, theirs.output_shape);
            assert_same_bits(&format!("{name}: output"), &ours.output, &theirs.output);
            assert_same_bits(&format!("{name}: input gradient"), &ours.input_gradient, &theirs.input_gradient);
            assert_eq!(gradients(layer, &ours.gradients), of_theirs, "{name}: gradients");
        }
        assert_eq!(entries(&self.supernet), entries(&self.burn[FULL]), "running statistics");
    }

    /// The materialised model has the view's parameters as its own, and gives the view's outputs and gradients.
    #[track_caller]
    pub fn check_materialised(&self) {
        let [architecture, largest] = &self.architectures;
        let small = self.supernet.materialize_at(architecture);
        assert_eq!(entries(&small), self.cropped_entries());
        assert!(ids(&small).iter().all(|id| !ids(&self.supernet).contains(id)), "parameters of its own");
        let view = self.run(&self.view(), VIEW);
        // Sizes are fixed: it is the same in any architecture.
        for small in [small.select(largest), small.materialize_at(largest), small] {
            let run = self.run(&small, VIEW);
            assert_same_bits("output", &run.output, &view.output);
            // The kernels may give zeros of the other sign.
            assert_equal("input gradient", &run.input_gradient, &to_f64(&view.input_gradient));
            let of_view = gradients(&self.supernet, &view.gradients);
            let of_small = gradients(&small, &run.gradients);
            assert_eq!(of_small.len(), of_view.len());
            for (small, Entry { path, shape, values }) in of_small.iter().zip(of_view) {
                let expected = to_f64(&cropped(&values, &shape, self.used(&path)));
                assert_equal(&format!("{path} gradient"), &small.values, &expected);
            }
        }
    }
}

fn used_of<'a>(used: &'a Used, path: &str) -> &'a [Vec<usize>] {
    let found = used.iter().find(|(name, _)| *name == path);
    &found.unwrap_or_else(|| panic!("what is used of {path}?")).1
}
