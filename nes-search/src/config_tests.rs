use super::*;

const PRESETS: [Preset; 3] = [Preset::Laptop, Preset::Paper, Preset::Smoke];

#[test]
fn presets_are_in_range_and_survive_their_own_text() {
    for preset in PRESETS {
        let config = Config {
            data: Some("some/where".into()),
            image_size: Some(96),
            threads: Some(3),
            latency_table: Some("some/table.json".into()),
            ..Config::preset(preset)
        };
        config.check().unwrap();
        let text = config.to_toml();
        for base in PRESETS {
            assert_eq!(Config::from_toml(base, &text).unwrap(), config, "{preset:?} over {base:?}:\n{text}");
        }
    }
}

#[test]
fn every_field_is_explained() {
    for preset in PRESETS {
        let config = Config {
            data: Some("some/where".into()),
            image_size: Some(96),
            threads: Some(3),
            latency_table: Some("some/table.json".into()),
            ..Config::preset(preset)
        };
        let text = config.to_toml();
        let lines: Vec<&str> = text.lines().collect();
        for pair in lines.windows(2).filter(|pair| !pair[1].is_empty() && !pair[1].starts_with('#')) {
            assert!(pair[0].starts_with('#'), "no comment before {:?}", pair[1]);
        }
    }
}

#[test]
fn a_file_changes_what_it_names() {
    let text = "budget = \"250k\"\n[search.length]\niterations = 3\n[search.nes]\nsigma = 2\n";
    let config = Config::from_toml(Preset::Paper, text).unwrap();
    let mut expected = paper();
    expected.budget = "250k".parse().unwrap();
    expected.search.length = Length::Iterations(3);
    expected.search.nes.sigma = 2.0;
    assert_eq!(config, expected);
    let text = "[search]\nlength = { iterations = 3 }\n";
    let error = Config::from_toml(Preset::Laptop, text).expect_err("trials have no allowance").to_string();
    assert!(error.contains("search.trials: expected 0 where search.length is in iterations"), "{error}");
}

#[test]
fn a_budget_may_be_a_number() {
    for (text, expected) in [("0.2", "0.2"), ("1", "1"), ("250000", "250k"), ("\"2.5M\"", "2.5M")] {
        let config = Config::from_toml(Preset::Laptop, &format!("budget = {text}\n")).unwrap();
        assert_eq!(config.budget, expected.parse().unwrap(), "{text}");
    }
}

/// Runs from before there was a choice have no such line.
#[test]
fn a_file_without_a_backbone_means_the_default_one() {
    let text = laptop().to_toml();
    let line = "backbone = \"mobilenet-v2-small\"\n";
    assert!(text.contains(line), "{text}");
    assert_eq!(Config::from_toml(Preset::Laptop, &text.replace(line, "")).unwrap(), laptop());
}

#[test]
fn mistakes_are_named() {
    for (text, parts) in [
        ("[search.nes]\nsigm = 1.0", ["unknown field `sigm`", "sigma_floor"]),
        ("colour = 1", ["unknown field `colour`", "budget"]),
        ("[search.nes]\nsigma = -1.0", ["search.nes.sigma", "0.001 to 1000, found -1"]),
        (
            "[train.sgd.augment]\nrandom_resized_crop = true",
            ["train.sgd.augment.shift: expected 0 with random_resized_crop", "found 1"],
        ),
        ("image_size = 0", ["image_size", "1 to 8192, found 0"]),
        ("[train]\nepochs = 0", ["train.epochs", "0.0001 to 1000000, found 0"]),
        ("[train]\nepochs = -3", ["train.epochs", "found -3"]),
        ("[train]\nepochs = \"many\"", ["invalid type: string \"many\"", "epochs"]),
        ("budget = \"-1\"", ["a budget is a fraction", "\"-1\""]),
        ("budget = -1", ["a budget is a fraction", "\"-1\""]),
        ("[search.nes]\nform = \"other\"", ["unknown variant `other`", "paper"]),
        ("sigma = = 1", ["TOML parse error at line 1", "sigma = = 1"]),
    ] {
        let message = Config::from_toml(Preset::Laptop, text).expect_err(text).to_string();
        for part in parts {
            assert!(message.contains(part), "{text:?}: expected {part:?} in: {message}");
        }
    }
}
