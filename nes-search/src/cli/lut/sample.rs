//! Which blocks a space can contain, and which architectures stand for it.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use elastic_layers::blocks::{Block, BlocksError, ElasticBlock};
use elastic_layers::{Architecture, DimKind, ElasticDim, SearchSpace};
use nes_search::latency::Family;
use nes_search::{AnyBackbone, Blueprint};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// Channels that are multiples of this fill the vectors and the layouts of runtimes. They are rare among random
/// architectures and frequent among fast ones.
const VECTOR: usize = 8;

/// An architecture drawn at random. Of every two, one has numbers of channels that are multiples of [`VECTOR`] where a
/// dimension has such.
pub fn random_architecture(space: &SearchSpace, aligned: bool, rng: &mut ChaCha8Rng) -> Architecture {
    let levels: Vec<usize> = space.dims().iter().map(|dim| random_level(dim, aligned, rng)).collect();
    space.at_levels(&levels)
}

fn random_level(dim: &ElasticDim, aligned: bool, rng: &mut ChaCha8Rng) -> usize {
    let fits = |level: &usize| dim.at_level(*level).is_multiple_of(VECTOR);
    let levels: Vec<usize> = match aligned && dim.kind == DimKind::Channels {
        true => (0..dim.levels()).filter(fits).collect(),
        false => Vec::new(),
    };
    if levels.is_empty() { rng.random_range(0..dim.levels()) } else { levels[rng.random_range(0..levels.len())] }
}

/// The distinct blocks of architectures that are drawn until there are so many blocks, or nothing new comes.
pub fn blocks_of_random_architectures(
    blueprint: &Blueprint<AnyBackbone>,
    count: usize,
    rng: &mut ChaCha8Rng,
) -> Result<Vec<Block>, BlocksError> {
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    let mut without_news = 0;
    for draw in 0.. {
        if found.len() >= count || without_news >= 50 {
            break;
        }
        let architecture = random_architecture(blueprint.space(), draw % 2 == 1, rng);
        let before = found.len();
        found.extend(blueprint.blocks().blocks(&architecture)?.into_iter().filter(|block| seen.insert(*block)));
        without_news = if found.len() == before { without_news + 1 } else { 0 };
    }
    Ok(found)
}

/// How many distinct blocks of each family the architectures of a space contain, all together.
pub fn distinct_blocks(
    blueprint: &Blueprint<AnyBackbone>,
    mut progress: impl FnMut(usize, usize) -> bool,
) -> Result<Option<BTreeMap<Family, usize>>, BlocksError> {
    let space = blueprint.space();
    let structures = structures(space);
    let mut forms: BTreeSet<(Block, Vec<usize>)> = BTreeSet::new();
    let mut seen: HashSet<Block> = HashSet::new();
    for (index, levels) in structures.iter().enumerate() {
        if !progress(index, structures.len()) {
            return Ok(None);
        }
        let blocks = blueprint.blocks().elastic_blocks(&space.at_levels(levels))?;
        for form in blocks.iter().filter(|form| forms.insert((form.widest(), form.dimensions()))) {
            insert_all(space, form, levels, &mut seen);
        }
    }
    progress(structures.len(), structures.len());
    let mut counts = BTreeMap::new();
    for block in &seen {
        *counts.entry(Family::of(block)).or_default() += 1;
    }
    Ok(Some(counts))
}

/// The levels of every combination of resolution and depth, channels at their smallest.
fn structures(space: &SearchSpace) -> Vec<Vec<usize>> {
    let structural: Vec<usize> =
        (0..space.dims().len()).filter(|&index| space.dims()[index].kind != DimKind::Channels).collect();
    combinations(space, &structural, &vec![0; space.dims().len()])
}

fn insert_all(space: &SearchSpace, form: &ElasticBlock, levels: &[usize], seen: &mut HashSet<Block>) {
    let blocks = combinations(space, &form.dimensions(), levels).into_iter();
    seen.extend(blocks.map(|levels| form.at(&space.at_levels(&levels))));
}

/// All levels of some dimensions, with those of the others as given.
fn combinations(space: &SearchSpace, dimensions: &[usize], levels: &[usize]) -> Vec<Vec<usize>> {
    dimensions.iter().fold(vec![levels.to_vec()], |all, &index| {
        let at = |levels: &Vec<usize>, level: usize| {
            let mut changed = levels.clone();
            changed[index] = level;
            changed
        };
        all.iter().flat_map(|levels| (0..space.dims()[index].levels()).map(move |level| at(levels, level))).collect()
    })
}
