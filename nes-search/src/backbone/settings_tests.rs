use elastic_layers::Architecture;

use super::*;
use crate::{Blueprint, Config, Preset};

fn read(text: &str) -> Result<Config, String> {
    Config::from_toml(Preset::Laptop, text).map_err(|error| error.to_string())
}

/// MACs, parameters and dimensions of a configuration's backbone, on grey images of so many pixels with 10 classes.
fn built(text: &str, size: usize) -> (u64, u64, Architecture) {
    let backbone = read(text).expect(text).backbone;
    let blueprint =
        Blueprint::new([1, size, size], move |space, device| backbone.init([1, size, size], 10, space, device));
    let blueprint = blueprint.expect(text);
    let base = blueprint.space().base();
    let cost = blueprint.cost().cost(&base).expect(text);
    (cost.macs.0, cost.parameters, base)
}

#[test]
fn a_name_and_a_table_of_it_are_the_same() {
    for name in ["mobilenet-v1-small", "mobilenet-v2-small", "resnet-20"] {
        let (plain, table) = (format!("backbone = \"{name}\""), format!("[backbone]\nname = \"{name}\""));
        assert_eq!(read(&plain).unwrap(), read(&table).unwrap());
        assert!(read(&table).unwrap().to_toml().contains(&plain), "{name}");
        assert_eq!(built(&plain, 12), built(&table, 12));
    }
}

#[test]
fn parts_of_a_named_backbone_are_changed() {
    let text = "[backbone]\nname = \"mobilenet-v2-small\"\nwidth = 2.0\nmin_resolution = 9\n[backbone.scales]\nmin = 0.1\nstep = 0.03";
    let (macs, _, base) = built(text, 32);
    let (plain, ..) = built("backbone = \"mobilenet-v2-small\"", 32);
    // Four times, but for the image's one channel, the depthwise convolutions and the classes.
    assert!((3 * plain..4 * plain).contains(&macs), "{macs} and {plain}");
    let dims: Vec<_> =
        base.dims().iter().map(|dim| (dim.name.as_str(), dim.base, dim.min, dim.max, dim.step)).collect();
    assert_eq!(dims[0], ("resolution", 32, 9, 32, 1));
    assert_eq!(dims[2], ("stem", 16, 2, 24, 1));
    assert_eq!(dims[3], ("stage1", 16, 2, 24, 1));
    assert_eq!(dims.last(), Some(&("head", 192, 24, 288, 6)));
}

#[test]
fn stages_are_replaced() {
    let v2 = "[backbone]\nname = \"mobilenet-v2-small\"\nstem_channels = 4\nstem_stride = 2\nhead_channels = 20\n\
              [[backbone.stages]]\nchannels = 6\nexpansion = 1\n\
              [[backbone.stages]]\nchannels = 8\nblocks = 2\nstride = 2\nexpansion = 3";
    let (macs, parameters, base) = built(v2, 8);
    // 16 pixels: stem 9*4, stage 1 9*4 and 4*6; expansion 6*18 on 16 pixels, then 4 pixels: 9*18 and 18*8, and
    // 8*24, 9*24 and 24*8; head 8*20, classes 20*10.
    let on_16 = 36 + 36 + 24 + 108;
    let on_4 = 162 + 144 + 192 + 216 + 192 + 160;
    assert_eq!(macs, 16 * on_16 + 4 * on_4 + 200);
    let norms = 2 * (4 + 4 + 6 + 18 + 18 + 8 + 24 + 24 + 8 + 20);
    assert_eq!(parameters, on_16 + on_4 + 200 + 10 + norms);
    let names: Vec<_> = base.dims().iter().map(|dim| dim.name.as_str()).collect();
    let expected = ["resolution", "depth", "stem", "stage1", "stage2", "stage2.block1", "stage2.block2", "head"];
    assert_eq!(names, expected);

    let v1 = "[backbone]\nname = \"mobilenet-v1-small\"\n[[backbone.stages]]\nchannels = 6\nblocks = 3\nstride = 2";
    let (macs, _, base) = built(v1, 4);
    assert_eq!(base.dims().len(), 1 + 3);
    // The stem's 8 channels on 16 pixels; then 4 pixels.
    assert_eq!(macs, 16 * 72 + 4 * (72 + 48 + 2 * (54 + 36)) + 60);

    let resnet = "[backbone]\nname = \"resnet-20\"\nstem = \"large\"\nblock = \"bottleneck\"\nstem_channels = 5\nwidth = 3\n\
                  [[backbone.stages]]\nchannels = 8\nmiddle = 2";
    let (macs, _, base) = built(resnet, 4);
    assert_eq!(base.get("stage1"), Some(24));
    assert_eq!(base.get("stage1.block1"), Some(6));
    // The stem of 15 channels on 4 pixels, then one pixel.
    assert_eq!(macs, 4 * 49 * 15 + 15 * 24 + 15 * 6 + 9 * 36 + 6 * 24 + 240);
}

#[test]
fn changes_survive_their_own_text_and_replace_those_of_another_backbone() {
    let text = "[backbone]\nname = \"resnet-20\"\nwidth = 0.5\nstem = \"small\"\nblock = \"basic\"\nstem_channels = 8\n\
                min_resolution = 10\nscales = { min = 0.2, max = 2.0, step = 0.1 }\n\
                stages = [{ channels = 8, middle = 4, blocks = 2, stride = 2 }, { channels = 16, middle = 12 }]";
    let config = read(text).unwrap();
    let own = config.to_toml();
    for preset in [Preset::Laptop, Preset::Paper, Preset::Smoke] {
        assert_eq!(Config::from_toml(preset, &own).unwrap().backbone, config.backbone, "{own}");
    }
    let lines: Vec<&str> = own.lines().collect();
    for pair in lines.windows(2).filter(|pair| !pair[1].is_empty() && !pair[1].starts_with('#')) {
        assert!(pair[0].starts_with('#'), "no comment before {:?}", pair[1]);
    }
    let other = Config::from_toml(Preset::Laptop, "backbone = { name = \"mobilenet-v1\", width = 0.5 }").unwrap();
    assert_eq!(other.backbone, BackboneSettings { width: Some(0.5), ..BackboneName::MobilenetV1.into() });
    let json = serde_json::to_string(&config.backbone).unwrap();
    assert_eq!(serde_json::from_str::<BackboneSettings>(&json).unwrap(), config.backbone);
}

#[test]
fn mistakes_are_named() {
    let v2 = "name = \"mobilenet-v2-small\", ";
    for (table, parts) in [
        ("backbone = \"mobilenet-v9\"".into(), ["unknown variant `mobilenet-v9`", "mobilenet-v2-small"]),
        ("backbone = 3".into(), ["expected the name of a backbone, or a table", "backbone"]),
        ("backbone = { width = 2.0 }".into(), ["missing field `name`", "backbone"]),
        (format!("backbone = {{ {v2} widht = 2.0 }}"), ["unknown field `widht`", "min_resolution"]),
        (format!("backbone = {{ {v2} width = 0.0 }}"), ["backbone.width", "0.001 to 1000, found 0"]),
        (format!("backbone = {{ {v2} min_resolution = 0 }}"), ["backbone.min_resolution", "1 to 8192, found 0"]),
        (format!("backbone = {{ {v2} block = \"basic\" }}"), ["backbone.block", "mobilenet-v2-small has no such part"]),
        (format!("backbone = {{ {v2} scales = {{ min = 1.5 }} }}"), ["backbone.scales.min", "to 1, found 1.5"]),
        (format!("backbone = {{ {v2} stages = [] }}"), ["tables in backbone.stages", "1 to 1000, found 0"]),
        (
            format!("backbone = {{ {v2} stages = [{{ channels = 3 }}] }}"),
            ["backbone.stages, table 1: expansion", "expected a number, found none"],
        ),
        (
            format!("backbone = {{ {v2} stages = [{{ channels = 0, expansion = 1 }}] }}"),
            ["backbone.stages, table 1: channels", "found 0"],
        ),
        (
            "backbone = { name = \"resnet-20\", head_channels = 4 }".into(),
            ["backbone.head_channels", "expected none, as resnet-20 has no such part"],
        ),
    ] {
        let message = read(&table).expect_err(&table);
        for part in parts {
            assert!(message.contains(part), "{table}: expected {part:?} in: {message}");
        }
    }
    let backbone = read(&format!("backbone = {{ {v2} min_resolution = 40 }}")).unwrap().backbone;
    let built = backbone.init([1, 28, 28], 10, &mut SearchSpace::new(), &Device::default());
    let message = built.map(drop).expect_err("no network").to_string();
    assert_eq!(message, "backbone.min_resolution: expected at most the 28 pixels of the images, found 40");
}
