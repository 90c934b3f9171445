//! Outcomes of a device beside those of the reference, and how far apart they may be.

use dtr_experiment::schema::{Compute, Precision};
use serde::Serialize;

use crate::outcome::{Kind, Numbers, Outcome};

/// The one table of tolerances: differences relative to the largest number of a tensor; of decisions, the share that differs.
pub fn tolerance(dtype: Precision, kind: Kind) -> f64 {
    match (dtype, kind) {
        (Precision::F32, Kind::Value) => 1e-4,
        (Precision::F32, Kind::Gradient | Kind::Curve) => 1e-3,
        (Precision::F32, Kind::Decision) => 0.0,
        (Precision::F16, Kind::Value) => 1e-2,
        (Precision::F16, Kind::Gradient | Kind::Curve) => 3e-2,
        (Precision::Bf16, Kind::Value) => 4e-2,
        (Precision::Bf16, Kind::Gradient | Kind::Curve) => 1e-1,
        // Where two tokens are nearly as likely, half a precision may take the other one, and all that follows with it.
        (_, Kind::Decision) => 0.25,
    }
}

/// A tensor whose numbers are smaller than this share of the largest one of its case is compared with that: the gradient of a bias
/// that has no influence is rounding alone.
const NEGLIGIBLE: f64 = 1e-2;

/// One case on one device.
#[derive(Debug, Clone, Serialize)]
pub struct Case {
    /// What it belongs to.
    pub group: String,
    /// Its name in the group.
    pub case: String,
    /// What kind of numbers were compared.
    pub kind: Kind,
    /// Largest difference, or what the backend said in place of numbers.
    pub difference: std::result::Result<f64, String>,
    /// Largest difference allowed.
    pub tolerance: f64,
    /// How long it took.
    pub seconds: f64,
}

impl Case {
    /// Whether it is near enough.
    pub fn passed(&self) -> bool {
        self.difference.as_ref().is_ok_and(|difference| *difference <= self.tolerance)
    }
}

/// All cases on one device.
#[derive(Debug, Clone, Serialize)]
pub struct Result {
    /// The device, and its element type.
    pub device: String,
    /// What became of the suite, where it did not end.
    pub failed: Option<String>,
    /// Case by case.
    pub cases: Vec<Case>,
}

impl Result {
    /// Whether every case ran and is near enough.
    pub fn passed(&self) -> bool {
        self.failed.is_none() && self.cases.iter().all(Case::passed)
    }
}

/// What `device` gave beside the reference. A case that the device lacks is one that failed.
pub fn compare(compute: Compute, reference: &[Outcome], device: std::result::Result<Vec<Outcome>, String>) -> Result {
    let (outcomes, failed) = match device {
        Ok(outcomes) => (outcomes, None),
        Err(reason) => return Result { device: compute.to_string(), failed: Some(reason), cases: Vec::new() },
    };
    let case = |(index, wanted): (usize, &Outcome)| {
        let found =
            outcomes.get(index).filter(|found| (&found.group, &found.case, found.kind) == (&wanted.group, &wanted.case, wanted.kind));
        let difference = match (found.map(|found| &found.numbers), &wanted.numbers) {
            (None, _) => Err("it did not run".to_owned()),
            (_, Err(reason)) => Err(format!("the reference says: {reason}")),
            (Some(Err(reason)), _) => Err(reason.clone()),
            (Some(Ok(found)), Ok(wanted_numbers)) => difference(wanted.kind, found, wanted_numbers),
        };
        let seconds = found.map_or(0.0, |found| found.seconds);
        let (group, case, kind) = (wanted.group.clone(), wanted.case.clone(), wanted.kind);
        Case { group, case, kind, difference, tolerance: tolerance(compute.dtype, kind), seconds }
    };
    Result { device: compute.to_string(), failed, cases: reference.iter().enumerate().map(case).collect() }
}

/// How far apart two lists of tensors are.
fn difference(kind: Kind, found: &Numbers, wanted: &Numbers) -> std::result::Result<f64, String> {
    let lengths = |numbers: &Numbers| numbers.iter().map(Vec::len).collect::<Vec<_>>();
    if kind == Kind::Decision {
        let total: usize = lengths(wanted).iter().sum();
        // Tokens and letters are whole numbers.
        let same = |(found, wanted): (&f64, &f64)| (found - wanted).abs() < 0.5;
        let same: usize = found.iter().zip(wanted).map(|(found, wanted)| found.iter().zip(wanted).filter(|pair| same(*pair)).count()).sum();
        let longest = total.max(lengths(found).iter().sum());
        return Ok(1.0 - same as f64 / longest.max(1) as f64);
    }
    if lengths(found) != lengths(wanted) {
        return Err(format!("{:?} numbers in place of {:?}", lengths(found), lengths(wanted)));
    }
    let largest = |numbers: &[f64]| numbers.iter().fold(0.0_f64, |largest, x| largest.max(x.abs()));
    let overall = wanted.iter().map(|numbers| largest(numbers)).fold(0.0, f64::max);
    let mut worst = 0.0_f64;
    for (found, wanted) in found.iter().zip(wanted) {
        let scale = largest(wanted).max(NEGLIGIBLE * overall).max(f64::MIN_POSITIVE);
        for (found, wanted) in found.iter().zip(wanted) {
            if !found.is_finite() {
                return Err(format!("{found} in place of {wanted}"));
            }
            worst = worst.max((found - wanted).abs() / scale);
        }
    }
    Ok(worst)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_relative_to_the_tensor() {
        let wanted = vec![vec![10.0, -20.0], vec![0.5]];
        assert!((difference(Kind::Value, &vec![vec![10.0, -20.2], vec![0.5]], &wanted).expect("numbers") - 0.01).abs() < 1e-9);
        assert!((difference(Kind::Value, &vec![vec![10.0, -20.0], vec![0.6]], &wanted).expect("numbers") - 0.2).abs() < 1e-9);
        // A tensor that does not count beside the others is measured by them.
        assert!((difference(Kind::Gradient, &vec![vec![100.0], vec![1e-9]], &vec![vec![100.0], vec![-1e-9]]).expect("numbers")) < 1e-8);
        assert!(difference(Kind::Value, &vec![vec![f64::NAN, 1.0], vec![0.5]], &wanted).is_err());
        assert!(difference(Kind::Value, &vec![vec![10.0, -20.0]], &wanted).is_err());
        assert!((difference(Kind::Decision, &vec![vec![10.0, 3.0], vec![0.5]], &wanted).expect("numbers") - 1.0 / 3.0).abs() < 1e-9);
        assert!((difference(Kind::Decision, &vec![vec![10.0], vec![0.5]], &wanted).expect("numbers") - 1.0 / 3.0).abs() < 1e-9);
    }

    #[test]
    fn what_did_not_run_has_failed() {
        let outcome =
            |case: &str| Outcome { group: "g".into(), case: case.into(), kind: Kind::Value, numbers: Ok(vec![vec![1.0]]), seconds: 0.0 };
        let compute = Compute { device: "flex".parse().expect("a device"), dtype: Precision::F32 };
        let reference = [outcome("a"), outcome("b")];
        assert!(compare(compute, &reference, Ok(reference.to_vec())).passed());
        assert!(!compare(compute, &reference, Ok(vec![outcome("a")])).passed());
        assert!(!compare(compute, &reference, Ok(vec![outcome("b"), outcome("a")])).passed());
        assert!(!compare(compute, &reference, Err("no device".into())).passed());
        let panicked = Outcome { numbers: Err("no kernel".into()), ..outcome("b") };
        assert!(!compare(compute, &reference, Ok(vec![outcome("a"), panicked])).passed());
    }
}
