//! Normalisation from its definition.

/// Output and gradients of a normalisation with scale and shift.
pub struct NaiveNorm {
    pub output: Vec<f64>,
    pub input: Vec<f64>,
    pub gamma: Vec<f64>,
    pub beta: Vec<f64>,
    /// By how much an error of a rounding is magnified: the largest 1 / deviation.
    pub gain: f64,
}

impl NaiveNorm {
    /// Of numbers `x` and the output's gradient `g`. `set` says which of them are normalised together, `channel` which
    /// scale and shift is whose.
    pub fn new(
        [x, g]: [&[f32]; 2],
        [gamma, beta]: [&[f32]; 2],
        epsilon: f64,
        set: impl Fn(usize) -> usize,
        channel: impl Fn(usize) -> usize,
    ) -> Self {
        let zeros = |count| vec![0.0; count];
        let mut naive = Self {
            output: zeros(x.len()),
            input: zeros(x.len()),
            gamma: zeros(gamma.len()),
            beta: zeros(gamma.len()),
            gain: 1.0,
        };
        let sets = (0..x.len()).map(&set).max().map_or(0, |last| last + 1);
        for places in (0..sets).map(|index| (0..x.len()).filter(|&place| set(place) == index).collect::<Vec<_>>()) {
            let mean_of = |value: &dyn Fn(usize) -> f64| {
                places.iter().map(|&place| value(place)).sum::<f64>() / places.len() as f64
            };
            let mean = mean_of(&|place| x[place] as f64);
            let deviation = (mean_of(&|place| (x[place] as f64 - mean).powi(2)) + epsilon).sqrt();
            let normal = |place: usize| (x[place] as f64 - mean) / deviation;
            let scaled = |place: usize| g[place] as f64 * gamma[channel(place)] as f64;
            let mean_gradient = mean_of(&scaled);
            let mean_product = mean_of(&|place| scaled(place) * normal(place));
            for &place in &places {
                let feature = channel(place);
                naive.output[place] = gamma[feature] as f64 * normal(place) + beta[feature] as f64;
                naive.input[place] = (scaled(place) - mean_gradient - normal(place) * mean_product) / deviation;
                naive.gamma[feature] += g[place] as f64 * normal(place);
                naive.beta[feature] += g[place] as f64;
            }
            naive.gain = naive.gain.max(1.0 / deviation);
        }
        naive
    }
}
