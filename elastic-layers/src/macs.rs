//! The unit of compute: multiply-accumulates.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign};

use serde::{Deserialize, Serialize};

/// Multiply-accumulates of the convolutions and linear layers of a model, for one image.
///
/// A convolution with weight `[out, in / groups, k_h, k_w]` and output `[1, out, h, w]` costs
/// `out * h * w * (in / groups) * k_h * k_w`; a linear layer costs `inputs * outputs`. Bias
/// additions, batch norm, activations, pooling and resizing are not counted. The paper and most
/// tables call this number "FLOPs".
///
/// # Example
///
/// ```
/// use elastic_layers::Macs;
///
/// let total: Macs = [Macs(300_774_272), Macs(1_000)].into_iter().sum();
/// assert_eq!(total.to_string(), "300,775,272");
/// assert_eq!(total.short(), "300.8 M");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Macs(pub u64);

impl Macs {
    /// The number of multiply-accumulates as a float, for ratios and penalties.
    pub fn as_f64(self) -> f64 {
        self.0 as f64
    }

    /// This cost as a fraction of `budget`: R / R_t.
    pub fn ratio(self, budget: Macs) -> f64 {
        self.as_f64() / budget.as_f64()
    }

    /// The number to four digits with a decimal prefix: `812`, `24.5 k`, `2.4 M`, `4.1 G`.
    pub fn short(self) -> String {
        let value = self.as_f64();
        match self.0 {
            0..=999 => self.0.to_string(),
            1_000..=999_949 => format!("{:.1} k", value / 1e3),
            999_950..=999_949_999 => format!("{:.1} M", value / 1e6),
            _ => format!("{:.1} G", value / 1e9),
        }
    }
}

/// All digits with thousands separators; honours width and alignment.
impl fmt::Display for Macs {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        let mut text = String::with_capacity(digits.len() + digits.len() / 3);
        for (index, digit) in digits.chars().enumerate() {
            if index > 0 && (digits.len() - index).is_multiple_of(3) {
                text.push(',');
            }
            text.push(digit);
        }
        formatter.pad(&text)
    }
}

impl Add for Macs {
    type Output = Macs;

    fn add(self, other: Macs) -> Macs {
        Macs(self.0 + other.0)
    }
}

impl AddAssign for Macs {
    fn add_assign(&mut self, other: Macs) {
        self.0 += other.0;
    }
}

impl Sum for Macs {
    fn sum<I: Iterator<Item = Macs>>(parts: I) -> Macs {
        parts.fold(Macs(0), Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_digit_is_shown_in_groups_of_three() {
        for (macs, text) in
            [(0, "0"), (999, "999"), (1_000, "1,000"), (41_030_272, "41,030,272"), (4_089_184_256, "4,089,184,256")]
        {
            assert_eq!(Macs(macs).to_string(), text);
        }
        assert_eq!(format!("{:>8}|{:<7}|", Macs(12_345), Macs(999)), "  12,345|999    |");
    }

    #[test]
    fn the_short_form_never_rounds_up_to_a_thousand() {
        for (macs, text) in [
            (812, "812"),
            (24_540, "24.5 k"),
            (999_949, "999.9 k"),
            (999_950, "1.0 M"),
            (2_400_000, "2.4 M"),
            (999_950_000, "1.0 G"),
            (4_089_184_256, "4.1 G"),
        ] {
            assert_eq!(Macs(macs).short(), text);
        }
    }

    #[test]
    fn serialises_as_a_plain_number() {
        let text = serde_json::to_string(&Macs(300_774_272)).expect("a number");
        assert_eq!(text, "300774272");
        let back: Macs = serde_json::from_str(&text).expect("the same number");
        assert_eq!(back, Macs(300_774_272));
    }

    #[test]
    fn adds_and_orders() {
        let mut total: Macs = [Macs(1), Macs(2)].into_iter().sum();
        total += Macs(4);
        assert_eq!(total + Macs(3), Macs(10));
        assert!(Macs(9) < Macs(10));
        assert_eq!(Macs(5).ratio(Macs(10)), 0.5);
    }
}
