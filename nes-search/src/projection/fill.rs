//! Whole numbers of channels that fill a budget.

use elastic_layers::{Architecture, CostError, DimKind};

use super::{Projection, ProjectionError};

/// Architectures that are looked at when neither scaling nor exchanging channels fills the budget.
const LOOKS: usize = 20_000;

impl Projection<'_> {
    /// The architecture nearest to H that takes the least share of the budget or more; where none does, the one of those
    /// seen that takes most.
    pub(super) fn fullest(&self, params: &[f64]) -> Result<Architecture, ProjectionError> {
        let mut best: Option<(Architecture, f64)> = None;
        let mut keep = |(architecture, share): (Architecture, f64)| -> Result<bool, CostError> {
            if best.as_ref().is_none_or(|(_, most)| share > *most) && self.fits(&architecture)? {
                best = Some((architecture, share));
            }
            Ok(best.as_ref().is_some_and(|(_, share)| *share >= self.least))
        };
        if keep(self.filled(params)?)? {
            return best.map(|(architecture, _)| architecture).ok_or_else(|| self.nothing());
        }
        for structure in self.structures_by_distance(params) {
            if keep(self.filled(&structure)?)? {
                break;
            }
        }
        let (architecture, share) = best.ok_or_else(|| self.nothing())?;
        if share >= self.least {
            return Ok(architecture);
        }
        Ok(self.searched(params, (architecture, share))?)
    }

    fn nothing(&self) -> ProjectionError {
        let budget = self.limits.budget();
        ProjectionError::Nothing { limit: budget.amount(budget.most()) }
    }

    /// The architecture of H with its channels scaled and then changed one by one until they fill the budget, at the
    /// resolution and depth of H wherever that is possible, and the share of the budget that it takes.
    pub(super) fn filled(&self, params: &[f64]) -> Result<(Architecture, f64), CostError> {
        let params = self.project(params)?;
        let levels = params.iter().map(|&h| h as usize).collect();
        let (mut levels, mut share) = self.grown(&params, levels, None)?;
        while share < self.least {
            match self.exchanged(&params, &levels, share)? {
                Some(better) => (levels, share) = better,
                None => break,
            }
        }
        Ok((self.space.at_levels(&levels), share))
    }

    /// Levels with single channel numbers raised within the limits, all but one that is left as it is, and the share of
    /// the budget that this takes.
    fn grown(
        &self,
        params: &[f64],
        mut levels: Vec<usize>,
        left: Option<usize>,
    ) -> Result<(Vec<usize>, f64), CostError> {
        let mut share = self.share(&self.space.at_levels(&levels))?;
        loop {
            let mut best: Option<(f64, usize, f64)> = None;
            for (index, dim) in self.space.dims().iter().enumerate() {
                let fixed = dim.kind != DimKind::Channels || !self.moves(dim) || left == Some(index);
                if fixed || levels[index] + 1 >= dim.levels() {
                    continue;
                }
                let lost = params[index] - levels[index] as f64;
                if best.is_some_and(|(most, ..)| lost <= most) {
                    continue;
                }
                levels[index] += 1;
                let architecture = self.space.at_levels(&levels);
                levels[index] -= 1;
                let grown = self.share(&architecture)?;
                if grown > share && self.fits(&architecture)? {
                    best = Some((lost, index, grown));
                }
            }
            let Some((_, index, grown)) = best else { return Ok((levels, share)) };
            levels[index] += 1;
            share = grown;
        }
    }

    /// Levels of a larger share of the budget, in which one channel number is lowered and others are raised for it. The
    /// first that is tried is the one whose part of the tightest limit is the largest for its part of the budget.
    fn exchanged(&self, params: &[f64], levels: &[usize], share: f64) -> Result<Option<(Vec<usize>, f64)>, CostError> {
        let worst = self.limits.worst(&self.space.at_levels(levels))?;
        let mut lowered = Vec::new();
        for (index, dim) in self.space.dims().iter().enumerate() {
            if dim.kind == DimKind::Channels && self.moves(dim) && levels[index] > 0 {
                let mut levels = levels.to_vec();
                levels[index] -= 1;
                let architecture = self.space.at_levels(&levels);
                let relief = worst - self.limits.worst(&architecture)?;
                let given = share - self.share(&architecture)?;
                if relief > 0.0 {
                    lowered.push((relief / given.max(1e-12), index, levels));
                }
            }
        }
        lowered.sort_by(|(one, ..), (other, ..)| other.total_cmp(one));
        for (_, index, levels) in lowered {
            let (levels, larger) = self.grown(params, levels, Some(index))?;
            if larger > share {
                return Ok(Some((levels, larger)));
            }
        }
        Ok(None)
    }

    /// The first architecture that takes enough of the budget, or the one that takes most of those looked at: dimension by
    /// dimension, the levels near H first. Whatever cannot hold enough, or holds too much, is left out with all that
    /// follows from it.
    fn searched(&self, params: &[f64], best: (Architecture, f64)) -> Result<Architecture, CostError> {
        let mut dims: Vec<usize> =
            (0..self.space.dims().len()).filter(|&index| self.moves(self.space.dims()[index])).collect();
        // The finest last: it is what fills the rest.
        let width = |index: &usize| self.space.dims()[*index].levels();
        dims.sort_by_key(width);
        let mut search = Depths { projection: self, dims, params: self.clamped(params), looks: LOOKS, best };
        let levels = self.space.dims().iter().map(|dim| dim.level_of(dim.base)).collect();
        search.descend(0, levels)?;
        Ok(search.best.0)
    }
}

/// A depth-first search over all levels.
struct Depths<'a> {
    projection: &'a Projection<'a>,
    /// The order in which dimensions are decided.
    dims: Vec<usize>,
    params: Vec<f64>,
    /// Architectures that may still be looked at.
    looks: usize,
    best: (Architecture, f64),
}

impl Depths<'_> {
    fn over(&self) -> bool {
        self.looks == 0 || self.best.1 >= self.projection.least
    }

    /// What levels take at least and at most, if those of the dimensions behind a place are open.
    fn ends(&mut self, place: usize, levels: &[usize]) -> Result<[(Architecture, f64); 2], CostError> {
        let Self { projection, dims, .. } = self;
        let end = |largest: bool| {
            let mut levels = levels.to_vec();
            for &dim in &dims[place..] {
                levels[dim] = if largest { projection.space.dims()[dim].levels() - 1 } else { 0 };
            }
            let architecture = projection.space.at_levels(&levels);
            let share = projection.share(&architecture)?;
            Ok::<_, CostError>((architecture, share))
        };
        let ends = [end(false)?, end(true)?];
        self.looks = self.looks.saturating_sub(1);
        Ok(ends)
    }

    fn descend(&mut self, place: usize, levels: Vec<usize>) -> Result<(), CostError> {
        if self.over() {
            return Ok(());
        }
        let [(least, low), (_, high)] = self.ends(place, &levels)?;
        if low > 1.0 || high <= self.best.1 {
            return Ok(());
        }
        if low > self.best.1 && self.projection.fits(&least)? {
            self.best = (least, low);
        }
        let Some(&dim) = self.dims.get(place) else { return Ok(()) };
        let near = self.params[dim] as usize;
        let mut order: Vec<usize> = (0..self.projection.space.dims()[dim].levels()).collect();
        order.sort_by_key(|level| level.abs_diff(near));
        for level in order {
            let mut levels = levels.clone();
            levels[dim] = level;
            self.descend(place + 1, levels)?;
            if self.over() {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use elastic_layers::SearchSpace;
    use proptest::prelude::*;

    use super::*;
    use crate::{LEAST_SHARE, Limit, Limits, Resource};

    /// A chain of dense layers behind three channels, before ten classes.
    #[derive(Debug)]
    struct Chain;

    impl Resource for Chain {
        fn name(&self) -> &str {
            "macs"
        }

        fn unit(&self) -> &str {
            "MACs"
        }

        fn of(&self, architecture: &Architecture) -> Result<f64, CostError> {
            let values = architecture.values();
            let (first, last) = (3 * values[0], 10 * values[values.len() - 1]);
            Ok((first + last + values.windows(2).map(|pair| pair[0] * pair[1]).sum::<usize>()) as f64)
        }
    }

    /// All architectures.
    fn all(space: &SearchSpace) -> Vec<Architecture> {
        let mut levels = vec![Vec::new()];
        for dim in space.dims() {
            let with = |levels: &Vec<usize>, level| [levels.clone(), vec![level]].concat();
            levels = levels.iter().flat_map(|some| (0..dim.levels()).map(move |level| with(some, level))).collect();
        }
        levels.iter().map(|levels| space.at_levels(levels)).collect()
    }

    proptest! {
        #[test]
        fn what_brute_force_finds_is_found(
            bases in prop::collection::vec(2..9_usize, 2..6),
            step in prop::sample::select(vec![1, 4, 8]),
            budget in 0.15..0.9_f64,
            point in prop::collection::vec(0.0..9.0_f64, 6),
        ) {
            let mut space = SearchSpace::new();
            for (index, base) in bases.iter().enumerate() {
                let base = base * step;
                space.channels(format!("width{index}"), base).range(step..=base).step_by(step).add().expect("one");
            }
            let most = budget * Chain.of(&space.base()).expect("arithmetic");
            let limits = Limits::new(Limit::new(Arc::new(Chain), most));
            let share = |one: &Architecture| Chain.of(one).expect("arithmetic") / most;
            let best = all(&space).iter().map(share).filter(|share| *share <= 1.0).fold(0.0, f64::max);
            match Projection::new(&space, &limits) {
                Err(_) => prop_assert_eq!(best, 0.0, "nothing fits"),
                Ok(projection) => {
                    let found = projection.architecture(&point[..bases.len()]).expect("one");
                    let found = share(&found);
                    prop_assert!(found <= 1.0 && found >= best.min(LEAST_SHARE), "{} of {}", found, best);
                    prop_assert_eq!(projection.least(), best.min(LEAST_SHARE), "the least share is what there is");
                }
            }
        }
    }
}
