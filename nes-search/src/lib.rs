//! NES search of channels, resolution and depth, jointly with the weights, under a budget.

mod backbone;
pub mod baselines;
mod blueprint;
mod budget;
mod config;
pub mod data;
mod estimator;
mod evaluate;
pub mod files;
pub mod latency;
mod observer;
mod optimizer;
mod params;
mod projection;
mod resource;
pub mod rng;
mod room;
pub mod search;
pub mod searchers;
mod settings;
mod train;
mod trainings;

// Burn's derive of `RecordState` looks for these at the root of the crate that uses it.
use burn::optim::{RecordState, StateSink, StateSource};

pub use backbone::{AnyBackbone, BackboneName, BackboneSettings, ScaleSettings, StageSettings};
pub use blueprint::Blueprint;
pub use budget::{Budget, BudgetError, Penalty, Phi};
pub use config::{BenchSettings, Config, ConfigError, Preset};
pub use estimator::{Estimator, Gradient, Moves, Sampling, Shaping};
pub use evaluate::{Evaluation, batch_loss, evaluate};
pub use observer::{Observer, Progress};
pub use optimizer::{Nes, NesConfig, NesState};
pub use params::ArchParams;
pub use projection::{LEAST_SHARE, Projection, ProjectionError};
pub use resource::{Bound, BoundError, Count, Counted, Limit, Limits, Resource};
pub use room::Room;
pub use search::{Found, Search, SearchError, SearchSettings, Task};
pub use settings::SettingsError;
pub use train::{SgdSettings, TrainSettings, Trained, train};
pub use trainings::{Trainer, Training};
