//! NES search of channels, resolution and depth, jointly with the weights, under a budget.

mod backbone;
pub mod baselines;
mod blueprint;
mod budget;
pub mod checkpoint;
mod config;
pub mod data;
mod evaluate;
pub mod files;
pub mod latency;
pub mod nes;
mod observer;
mod projection;
mod resource;
pub mod rng;
mod room;
pub mod search;
pub mod searchers;
mod settings;
mod train;
mod training_state;
mod trainings;
mod workers;

// Burn's derive of `RecordState` looks for these at the root of the crate that uses it.
use burn::optim::{RecordState, StateSink, StateSource};

pub use backbone::{AnyBackbone, BackboneName, BackboneSettings, ScaleSettings, StageSettings};
pub use blueprint::Blueprint;
pub use budget::{Budget, BudgetError};
pub use config::{BenchSettings, Config, ConfigError, Preset};
pub use evaluate::{Evaluation, batch_loss, evaluate};
pub use nes::{ArchParams, Estimator, Gradient, Nes, NesConfig, NesSettings, NesState};
pub use observer::{Observer, Progress};
pub use projection::{ALL_KINDS, LEAST_SHARE, Projection, ProjectionError};
pub use resource::{Bound, BoundError, Count, Counted, Limit, Limits, Resource};
pub use room::Room;
pub use search::{Found, Search, SearchError, SearchSettings, Task};
pub use settings::SettingsError;
pub use train::{Course, SgdSettings, TrainError, TrainSettings, Trained, train};
pub use training_state::Checkpoints;
pub use trainings::{Trainer, Training};
