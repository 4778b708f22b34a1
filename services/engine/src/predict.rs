//! One request through the least-squares engine.

use lensing::{Cosmology, Fit, Grid, LensGeometry, Map, fit, limits};
use runtime::Violations;
use serde::{Deserialize, Serialize};

use crate::NAME;

/// A map to be analysed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PredictRequest {
    /// Rows of convergence, y growing from row to row, x within a row.
    pub convergence_map: Vec<Vec<f64>>,
    /// Half the side of the map in kpc.
    #[serde(default = "default_half_width")]
    pub half_width_kpc: f64,
    /// Redshift of the lens.
    pub z_lens: f64,
    /// Redshift of the source.
    pub z_source: f64,
}

fn default_half_width() -> f64 {
    limits::DEFAULT_HALF_WIDTH
}

/// The lens that was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Prediction {
    /// Its parameters.
    pub parameters: Parameters,
    /// One standard error of each.
    pub errors: Errors,
    /// The share of the map (root mean square) that the lens leaves unexplained; near 0 for a clean NFW lens.
    pub consistency_residual: f64,
    /// Root mean square of map minus model.
    pub residual_rms: f64,
    /// Steps of the fit.
    pub iterations: u32,
    /// Whether the fit came to rest.
    pub converged: bool,
    /// Which engine answered.
    pub engine: &'static str,
    /// What to be careful about.
    pub warnings: Vec<String>,
}

/// Parameters of a lens.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Parameters {
    /// Base-10 logarithm of the mass.
    pub log10_mass: f64,
    /// Virial mass in solar masses.
    pub mass: f64,
    /// Scale radius in kpc.
    pub scale_radius: f64,
    /// One minus the axis ratio.
    pub ellipticity: f64,
    /// Degrees from +x to the major axis, counter-clockwise, in [0, 180).
    pub position_angle: f64,
}

/// Standard errors of [`Parameters`], in the same units.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Errors {
    /// Of the logarithm of mass.
    pub log10_mass: f64,
    /// Of the mass, for a small error.
    pub mass: f64,
    /// Of the scale radius, for a small error.
    pub scale_radius: f64,
    /// Of the ellipticity.
    pub ellipticity: f64,
    /// Of the position angle; null for a lens too round to have one.
    pub position_angle: Option<f64>,
}

/// Analyses a map, which takes milliseconds of computing.
pub fn predict(request: &PredictRequest) -> Result<Prediction, Violations> {
    let map = checked_map(request)?;
    let grid = Grid { side: map.side(), half_width: request.half_width_kpc };
    let geometry = LensGeometry::new(&Cosmology::default(), request.z_lens, request.z_source);
    match fit(&map, &grid, &geometry) {
        Ok(found) => Ok(prediction(&found)),
        Err(error) => {
            let mut violations = Violations::default();
            violations.add("/convergence_map", "no_lens_found", error.to_string());
            Err(violations)
        }
    }
}

fn checked_map(request: &PredictRequest) -> Result<Map, Violations> {
    let mut violations = Violations::default();
    violations.check_range("/half_width_kpc", request.half_width_kpc, &limits::HALF_WIDTH);
    check_redshifts(&mut violations, request.z_lens, request.z_source);
    let rows = &request.convergence_map;
    let side = rows.len();
    if !limits::ANALYSED_SIDE.contains(&side) {
        let (min, max) = (limits::ANALYSED_SIDE.start(), limits::ANALYSED_SIDE.end());
        violations.add("/convergence_map", "bad_shape", format!("must have {min} to {max} rows, not {side}"));
    } else if let Some(row) = rows.iter().position(|row| row.len() != side) {
        let message =
            format!("must have as many values as the map has rows: {side}, not {}", rows[row].len());
        violations.add(&format!("/convergence_map/{row}"), "bad_shape", message);
    }
    if let Some((row, column)) = first_wild_value(rows) {
        let range = -limits::MAX_CONVERGENCE..=limits::MAX_CONVERGENCE;
        let pointer = format!("/convergence_map/{row}/{column}");
        violations.check_range(&pointer, rows[row][column], &range);
    }
    if !violations.as_slice().is_empty() {
        return Err(violations);
    }
    let values = rows.iter().flatten().copied().collect();
    Map::new(side, values).ok_or(violations)
}

/// Notes redshifts out of range, or a source that is not behind its lens.
pub fn check_redshifts(violations: &mut Violations, z_lens: f64, z_source: f64) {
    violations.check_range("/z_lens", z_lens, &limits::Z_LENS);
    violations.check_range("/z_source", z_source, &limits::Z_SOURCE);
    if z_source < z_lens + limits::MIN_REDSHIFT_GAP {
        let message = format!("must be at least {} beyond z_lens", limits::MIN_REDSHIFT_GAP);
        violations.add("/z_source", "source_not_behind_lens", message);
    }
}

fn first_wild_value(rows: &[Vec<f64>]) -> Option<(usize, usize)> {
    let is_wild = |value: &f64| value.is_nan() || value.abs() > limits::MAX_CONVERGENCE;
    rows.iter().enumerate().find_map(|(row, values)| Some((row, values.iter().position(is_wild)?)))
}

fn prediction(found: &Fit) -> Prediction {
    let mass = 10f64.powf(found.log10_mass);
    let scale_radius = 10f64.powf(found.log10_scale_radius);
    let per_dex = std::f64::consts::LN_10;
    Prediction {
        warnings: warnings(found, mass, scale_radius),
        parameters: Parameters {
            log10_mass: found.log10_mass,
            mass,
            scale_radius,
            ellipticity: found.ellipticity,
            position_angle: found.position_angle.to_degrees(),
        },
        errors: Errors {
            log10_mass: found.errors.log10_mass,
            mass: found.errors.log10_mass * per_dex * mass,
            scale_radius: found.errors.log10_scale_radius * per_dex * scale_radius,
            ellipticity: found.errors.ellipticity,
            position_angle: found.errors.position_angle.map(f64::to_degrees),
        },
        consistency_residual: found.relative_residual,
        residual_rms: found.residual_rms,
        iterations: found.iterations,
        converged: found.converged,
        engine: NAME,
    }
}

fn warnings(found: &Fit, mass: f64, scale_radius: f64) -> Vec<String> {
    let claims = [
        (!found.converged, "the fit did not come to rest: the parameters are a best effort"),
        (!is_near(mass, &limits::MASS), "the mass is outside the range that this service makes maps for"),
        (
            !is_near(scale_radius, &limits::SCALE_RADIUS),
            "the scale radius is outside the range that this service makes maps for",
        ),
        (
            !is_near(found.ellipticity, &limits::ELLIPTICITY),
            "the ellipticity is outside the range that this service makes maps for",
        ),
    ];
    claims.into_iter().filter(|(holds, _)| *holds).map(|(_, text)| text.to_owned()).collect()
}

/// Whether a recovered value lies in a range, but for the rounding of the fit.
fn is_near(value: f64, range: &std::ops::RangeInclusive<f64>) -> bool {
    let slack = 1e-6 * range.end();
    (range.start() - slack..=range.end() + slack).contains(&value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lensing::{EllipticalNfw, Nfw, convergence_map};

    fn request() -> PredictRequest {
        let geometry = LensGeometry::new(&Cosmology::default(), 0.5, 1.5);
        let lens = EllipticalNfw::new(Nfw::new(2e12, 200.0, &geometry), 0.3, 0.5);
        let map = convergence_map(&lens, &Grid { side: 32, half_width: 500.0 });
        let convergence_map = map.rows().map(<[f64]>::to_vec).collect();
        PredictRequest { convergence_map, half_width_kpc: 500.0, z_lens: 0.5, z_source: 1.5 }
    }

    #[test]
    fn recovers_what_was_put_in() {
        let found = predict(&request()).unwrap();
        assert!((found.parameters.mass / 2e12 - 1.0).abs() < 1e-6);
        assert!((found.parameters.scale_radius / 200.0 - 1.0).abs() < 1e-6);
        assert!((found.parameters.position_angle.to_radians() - 0.5).abs() < 1e-6);
        assert!(found.converged && found.warnings.is_empty() && found.consistency_residual < 1e-9);
    }

    fn check_refused(change: impl FnOnce(&mut PredictRequest), pointer: &str, code: &str) {
        let mut request = request();
        change(&mut request);
        let violations = predict(&request).unwrap_err();
        let found: Vec<_> = violations.as_slice().iter().map(|v| (v.pointer.as_str(), v.code)).collect();
        assert_eq!(found, [(pointer, code)]);
    }

    #[test]
    fn bad_requests_are_refused_at_their_place() {
        check_refused(|r| r.half_width_kpc = 49.0, "/half_width_kpc", "out_of_range");
        check_refused(|r| r.z_source = 0.505, "/z_source", "source_not_behind_lens");
        check_refused(|r| r.z_lens = 0.001, "/z_lens", "out_of_range");
        check_refused(|r| r.convergence_map.truncate(15), "/convergence_map", "bad_shape");
        check_refused(|r| r.convergence_map[7].push(0.0), "/convergence_map/7", "bad_shape");
        check_refused(|r| r.convergence_map[3][4] = f64::NAN, "/convergence_map/3/4", "out_of_range");
        check_refused(|r| r.convergence_map[3][4] = -100.5, "/convergence_map/3/4", "out_of_range");
        let clear = |r: &mut PredictRequest| r.convergence_map.iter_mut().flatten().for_each(|v| *v = 0.0);
        check_refused(clear, "/convergence_map", "no_lens_found");
    }
}
