//! From numbers to places on a chart: scales with round marks, and labels that keep out of each other's way.

pub(super) struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    map: fn(f64) -> f64,
}

impl Scale {
    pub fn new(values: impl Iterator<Item = f64>, from: f64, to: f64, map: fn(f64) -> f64) -> Self {
        let values: Vec<f64> = values.map(map).filter(|value| value.is_finite()).collect();
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let (low, high) = if low > high {
            (0.0, 1.0)
        } else if high - low < 1e-9 {
            (low - 0.5, high + 0.5)
        } else {
            (low, high)
        };
        Self { low, high, from, to, map }
    }

    /// The same scale from a mark to a mark, so that it shows two at least.
    pub fn widened(mut self, decades: bool) -> Self {
        if decades {
            self.low = fine_decades(self.low).filter(|mark| *mark <= self.low + 1e-9).fold(self.low - 1.0, f64::max);
            self.high = fine_decades(self.high).filter(|mark| *mark >= self.high - 1e-9).fold(self.high + 1.0, f64::min);
        } else {
            let step = self.step();
            (self.low, self.high) = ((self.low / step + 1e-9).floor() * step, (self.high / step - 1e-9).ceil() * step);
        }
        self
    }

    pub fn at(&self, value: f64) -> f64 {
        self.place((self.map)(value))
    }

    pub fn place(&self, mapped: f64) -> f64 {
        self.from + (self.to - self.from) * (mapped - self.low) / (self.high - self.low)
    }

    /// A round distance that cuts the scale into five parts or fewer.
    fn step(&self) -> f64 {
        let raw = (self.high - self.low) / 5.0;
        let power = 10_f64.powf(raw.log10().floor());
        [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|step| *step >= raw * (1.0 - 1e-9)).unwrap_or(raw)
    }

    /// Round numbers between the ends.
    pub fn ticks(&self) -> Vec<f64> {
        let step = self.step();
        let (first, last) = ((self.low / step - 1e-6).ceil() as i64, (self.high / step + 1e-6).floor() as i64);
        (first..=last).map(|n| n as f64 * step).collect()
    }

    /// Round numbers along the axis itself, or powers of two.
    pub fn marks(&self, doublings: bool) -> Vec<f64> {
        if doublings {
            let between = self.low.ceil() as i32..=self.high.floor() as i32;
            let step = between.clone().count().div_ceil(8).max(1);
            between.step_by(step).map(|power| 2_f64.powi(power)).collect()
        } else {
            self.ticks()
        }
    }

    /// Logarithms of round numbers between the ends: of powers of ten where these are many, else of their double and fivefold too.
    pub fn decades(&self) -> Vec<f64> {
        let whole: Vec<f64> = (self.low.ceil() as i32..=self.high.floor() as i32).map(f64::from).collect();
        if whole.len() > 2 {
            return whole;
        }
        let mut marks: Vec<f64> =
            (self.low.floor() as i32..=self.high.ceil() as i32).flat_map(|power| fine_decades(power.into())).collect();
        marks.retain(|mark| (self.low - 1e-9..=self.high + 1e-9).contains(mark));
        marks.sort_by(f64::total_cmp);
        marks.dedup();
        marks
    }
}

/// Logarithms of 1, 2, 5 and 10 times the power of ten below a value given by its logarithm.
fn fine_decades(value: f64) -> impl Iterator<Item = f64> {
    let power = (value + 1e-9).floor();
    [1.0_f64, 2.0, 5.0, 10.0].into_iter().map(move |factor| power + factor.log10())
}

/// Heights of labels, each as near to the height it wants as the others let it be.
pub(super) fn apart(wanted: &[f64], distance: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by(|a, b| wanted[*a].total_cmp(&wanted[*b]));
    let mut heights = wanted.to_vec();
    // Crowded labels spread evenly about their middle.
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for index in order {
        groups.push(vec![index]);
        while let [.., before, last] = &groups[..] {
            let middle = |group: &[usize]| group.iter().map(|label| wanted[*label]).sum::<f64>() / group.len() as f64;
            let needed = distance * (before.len() + last.len()) as f64 / 2.0;
            if middle(last) - middle(before) >= needed {
                break;
            }
            let last = groups.pop().expect("there are two");
            groups.last_mut().expect("there is one").extend(last);
        }
    }
    for group in groups {
        let middle = group.iter().map(|label| wanted[*label]).sum::<f64>() / group.len() as f64;
        for (place, label) in group.iter().enumerate() {
            heights[*label] = middle + distance * (place as f64 - (group.len() - 1) as f64 / 2.0);
        }
    }
    heights
}

/// A number as short as it can be said.
pub(crate) fn number(value: f64) -> String {
    let size = value.abs();
    if size >= 1e6 {
        format!("{}M", trimmed(value / 1e6))
    } else if size >= 1e4 {
        format!("{}k", trimmed((value / 100.0).round() / 10.0))
    } else {
        trimmed(value)
    }
}

fn trimmed(value: f64) -> String {
    let decimals = if value.abs() < 0.1 { 4 } else { 2 };
    let text = format!("{value:.decimals$}");
    if !text.contains('.') {
        return text;
    }
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let shown = [8192.0, 0.5, 16_384.0, 25_000.0, 1_200_000.0, 0.002, 0.0].map(number);
        assert_eq!(["8192", "0.5", "16.4k", "25k", "1.2M", "0.002", "0"].map(str::to_owned), shown);
    }

    #[test]
    fn every_axis_shows_two_marks_and_holds_all_values() {
        for (values, decades) in
            [([0.94, 0.95], false), ([99.9, 100.0], false), ([3000.0, 3900.0], true), ([1.0, 10.0], true), ([0.3, 2e6], true)]
        {
            let map: fn(f64) -> f64 = if decades { f64::log10 } else { |y| y };
            let scale = Scale::new(values.into_iter(), 0.0, 1.0, map).widened(decades);
            let marks = if decades { scale.decades() } else { scale.ticks() };
            assert!(marks.len() >= 2 && marks.len() <= 8, "{values:?}: {marks:?}");
            assert!(values.iter().all(|value| (-1e-6..=1.0 + 1e-6).contains(&scale.at(*value))), "{values:?}");
        }
    }

    #[test]
    fn labels_keep_apart_and_near() {
        assert_eq!(apart(&[10.0, 100.0], 13.0), [10.0, 100.0]);
        assert_eq!(apart(&[50.0, 50.0], 10.0), [45.0, 55.0]);
        let crowded = apart(&[30.0, 10.0, 11.0, 12.0], 10.0);
        let mut sorted = crowded.clone();
        sorted.sort_by(f64::total_cmp);
        assert!(sorted.windows(2).all(|pair| pair[1] - pair[0] >= 10.0 - 1e-9), "{crowded:?}");
    }
}
