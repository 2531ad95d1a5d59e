//! Finished cells as a table and a plot.

use std::fmt::Write;

use onnx_bench::statistics::mean_and_sd;
use plotters::prelude::*;
use serde::Serialize;
use statrs::distribution::{ContinuousCDF, StudentsT};

use super::cell::Outcome;
use super::plan::{DataName, Row};

/// One line of a table: a row at a budget.
#[derive(Debug, Serialize)]
pub struct Line {
    pub data: DataName,
    pub budget: f64,
    pub row: Row,
    /// Mean MACs of the networks.
    pub macs: f64,
    pub seeds: Vec<u64>,
    pub accuracies: Vec<f64>,
    pub mean: f64,
    pub sd: f64,
    /// Accuracy less that of uniform-joint under the same seed: mean and half the width of its 95 % interval.
    pub over_joint: Option<(f64, f64)>,
    /// Cost of the search over that of training the backbone, in MACs, and its seconds.
    pub search_macs: f64,
    pub search_seconds: f64,
}

/// The lines of all cells, in the order in which they first appear.
pub fn lines(outcomes: &[Outcome]) -> Vec<Line> {
    let mut keys: Vec<(DataName, f64, Row)> = Vec::new();
    for Outcome { cell, .. } in outcomes {
        let key = (cell.data, cell.budget, cell.row);
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys.sort_by(|one, other| {
        let place = |key: &(DataName, f64, Row)| (key.0 as u8, key.2 as u8);
        (place(one).0.cmp(&place(other).0)).then(other.1.total_cmp(&one.1)).then(place(one).1.cmp(&place(other).1))
    });
    keys.into_iter().map(|key| line(outcomes, key)).collect()
}

fn line(outcomes: &[Outcome], (data, budget, row): (DataName, f64, Row)) -> Line {
    let of = |row: Row| {
        let mut all: Vec<&Outcome> = (outcomes.iter())
            .filter(|Outcome { cell, .. }| (cell.data, cell.budget, cell.row) == (data, budget, row))
            .collect();
        all.sort_by_key(|outcome| outcome.cell.seed);
        all
    };
    let (own, joint) = (of(row), of(Row::UniformJoint));
    let mean_of = |value: fn(&Outcome) -> f64| own.iter().map(|outcome| value(outcome)).sum::<f64>() / own.len() as f64;
    let accuracies: Vec<f64> = own.iter().map(|outcome| outcome.accuracy).collect();
    let (mean, sd) = mean_and_sd(&accuracies).unwrap_or((f64::NAN, f64::NAN));
    let differences: Vec<f64> = (own.iter())
        .filter_map(|one| {
            let other = joint.iter().find(|other| other.cell.seed == one.cell.seed)?;
            Some(one.accuracy - other.accuracy)
        })
        .collect();
    Line {
        data,
        budget,
        row,
        macs: mean_of(|outcome| outcome.macs as f64),
        seeds: own.iter().map(|outcome| outcome.cell.seed).collect(),
        accuracies,
        mean,
        sd,
        over_joint: if row == Row::UniformJoint { None } else { interval(&differences) },
        search_macs: mean_of(|outcome| outcome.search_macs),
        search_seconds: mean_of(|outcome| outcome.search_seconds),
    }
}

/// The mean of paired differences and half the width of its 95 % interval, by Student's distribution.
fn interval(differences: &[f64]) -> Option<(f64, f64)> {
    let (mean, sd) = mean_and_sd(differences)?;
    let count = differences.len() as f64;
    let student = StudentsT::new(0.0, 1.0, count - 1.0).ok()?;
    Some((mean, student.inverse_cdf(0.975) * sd / count.sqrt()))
}

/// The table that people read.
pub fn markdown(outcomes: &[Outcome]) -> String {
    let mut text = String::new();
    let mut last = None;
    for line in lines(outcomes) {
        if last != Some((line.data, line.budget)) {
            last = Some((line.data, line.budget));
            let _ = write!(
                text,
                "\n{}, {} of the MACs:\n\n| row | MACs | test accuracy, % | over uniform-joint, 95 % interval | search, share of \
                 the MACs | search s |\n|---|---:|---:|---:|---:|---:|\n",
                line.data, line.budget
            );
        }
        let difference = line.over_joint.map_or("-".into(), |(mean, half)| {
            format!("{:+.2} ({:+.2} to {:+.2})", 100.0 * mean, 100.0 * (mean - half), 100.0 * (mean + half))
        });
        let spread = if line.seeds.len() > 1 { format!(" ± {:.2}", 100.0 * line.sd) } else { String::new() };
        let _ = writeln!(
            text,
            "| {} | {:.0} | {:.2}{spread} (n = {}) | {difference} | {:.3} | {:.0} |",
            line.row,
            line.macs,
            100.0 * line.mean,
            line.seeds.len(),
            line.search_macs,
            line.search_seconds
        );
    }
    text
}

/// Accuracy over MACs, a line for each row, as SVG; the first data set of the cells.
pub fn plot(outcomes: &[Outcome]) -> anyhow::Result<String> {
    let data = outcomes[0].cell.data;
    let lines: Vec<Line> = lines(outcomes).into_iter().filter(|line| line.data == data).collect();
    let ends = |values: Vec<f64>| {
        values.iter().fold((f64::MAX, f64::MIN), |(low, high), &value| (low.min(value), high.max(value)))
    };
    let (low, high) = ends(lines.iter().map(|line| line.macs).collect());
    let (worst, best) = ends(lines.iter().map(|line| 100.0 * line.mean).collect());
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, (800, 500)).into_drawing_area();
        root.fill(&WHITE)?;
        let x = (0.9 * low..1.1 * high).log_scale();
        let mut chart = ChartBuilder::on(&root)
            .margin(16)
            .x_label_area_size(44)
            .y_label_area_size(56)
            .build_cartesian_2d(x, worst - 1.0..best + 1.0)?;
        chart.configure_mesh().x_desc("MACs").y_desc(format!("test accuracy on {data}, %")).draw()?;
        let mut rows: Vec<Row> = Vec::new();
        for line in &lines {
            if !rows.contains(&line.row) {
                rows.push(line.row);
            }
        }
        for (index, row) in rows.iter().enumerate() {
            let color = Palette99::pick(index).to_rgba();
            let points = lines.iter().filter(|line| line.row == *row).map(|line| (line.macs, 100.0 * line.mean));
            let mut points: Vec<(f64, f64)> = points.collect();
            points.sort_by(|one, other| one.0.total_cmp(&other.0));
            let line = LineSeries::new(points, color.stroke_width(2)).point_size(3);
            let legend = move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], color.stroke_width(2));
            chart.draw_series(line)?.label(row.to_string()).legend(legend);
        }
        chart.configure_series_labels().position(SeriesLabelPosition::LowerRight).background_style(WHITE).draw()?;
        root.present()?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_students() {
        // t of 4 degrees of freedom at 0.975 is 2.7764.
        let (mean, half) = interval(&[1.0, 2.0, 3.0, 4.0, 5.0]).expect("five values");
        assert!((mean - 3.0).abs() < 1e-12 && (half - 2.776_445 * (2.5_f64 / 5.0).sqrt()).abs() < 1e-5, "{half}");
        assert_eq!(interval(&[1.0]), None, "one value has no interval");
    }
}
