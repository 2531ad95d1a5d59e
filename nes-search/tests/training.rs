//! Trainings from scratch: that they go on where they were interrupted, and end where they diverge.

use elastic_layers::Backbone;
use elastic_layers::backbones::{MobileNetV2, MobileNetV2Config};
use nes_search::data::{Augment, ImageData, ImageSet, Normalization};
use nes_search::{Blueprint, Checkpoints, Course, Observer, Progress, SgdSettings, TrainSettings, train};

fn blueprint() -> Blueprint<MobileNetV2> {
    let config = MobileNetV2Config::small(1, 28, 10);
    Blueprint::new([1, 28, 28], move |space, device| config.init(space, device)).expect("a network")
}

fn settings() -> TrainSettings {
    TrainSettings {
        epochs: 6.0,
        sgd: SgdSettings {
            batch_size: 32,
            learning_rate: 0.1,
            warmup: 0.2,
            momentum: 0.9,
            weight_decay: 1e-4,
            gradient_norm: 1.0,
            label_smoothing: 0.1,
            augment: Augment { flip: true, shift: 1, random_resized_crop: false },
        },
        average_decay: 0.9,
        recalibration_batches: 2,
    }
}

fn images() -> (ImageSet, Normalization) {
    let (_, set) = ImageData::embedded().train.split_per_class(32, 0).expect("enough images");
    let normalization = Normalization::of(&set).expect("in memory");
    (set, normalization)
}

/// Asks to stop before a step.
struct StopBefore {
    step: usize,
    seen: usize,
}

impl Observer for StopBefore {
    fn progress(&mut self, _progress: Progress<'_>) {
        self.seen += 1;
    }

    fn interrupted(&self) -> bool {
        self.seen >= self.step
    }
}

#[test]
fn an_interrupted_training_goes_on_bit_for_bit() {
    let blueprint = blueprint();
    let (set, normalization) = images();
    let device = burn::tensor::Device::default();
    let network =
        || blueprint.network(&blueprint.space().smallest(), 5, &device.clone().autodiff()).expect("a network");
    let logits = |model: &elastic_layers::backbones::MobileNetV2| {
        let ones = burn::tensor::Tensor::ones([1, 1, 28, 28], &device);
        model.forward(ones).into_data().iter::<f32>().map(f32::to_bits).collect::<Vec<_>>()
    };
    let (settings, seed) = (settings(), 5);
    let course = Course { set: &set, normalization: &normalization, settings: &settings, seed, checkpoints: None };
    let whole = course.train(network(), "test", &mut ()).expect("in memory").expect("not interrupted");
    // 60 steps, in 6 epochs.
    for stops in [vec![1], vec![4, 3, 9], vec![59], vec![60]] {
        let directory = tempfile::tempdir().expect("a directory");
        let every = std::time::Duration::from_secs(3600);
        let checkpoints = Checkpoints { directory: directory.path().join("state"), every };
        let kept = Course { checkpoints: Some(&checkpoints), ..course };
        for &step in &stops {
            let mut stop = StopBefore { step, seen: 0 };
            let interrupted = kept.train(network(), "test", &mut stop).expect("in memory");
            assert_eq!(interrupted.is_none(), step < 60, "{stops:?}");
        }
        let resumed = kept.train(network(), "test", &mut ()).expect("a checkpoint").expect("not interrupted");
        assert_eq!(logits(&resumed.model), logits(&whole.model), "{stops:?}");
        assert_eq!((resumed.loss, resumed.images), (whole.loss, whole.images), "{stops:?}");
        // Another training does not go on from it.
        let other = Course { seed: 6, ..kept };
        let message = other.train(network(), "test", &mut ()).expect_err("another seed").to_string();
        assert!(message.contains("expected one with seed 6, found seed 5"), "{message}");
    }
}

#[test]
fn a_training_ends_at_the_first_loss_that_is_not_finite() {
    let blueprint = blueprint();
    let (set, _) = images();
    // Pixels that become as large as an `f32` can be.
    let normalization = Normalization::new(vec![0.0], vec![1e-38]).expect("finite");
    let device = burn::tensor::Device::default().autodiff();
    let network = blueprint.network(&blueprint.space().smallest(), 0, &device).expect("a network");
    let trained = train(network, &set, &normalization, &settings(), 0, "test", &mut ()).expect("in memory");
    let trained = trained.expect("not interrupted");
    let step = trained.diverged.expect("it diverges");
    assert!(step < 5 && !trained.loss.is_finite(), "{step} steps");
    assert_eq!(trained.images, 32 * step as u64);
}
