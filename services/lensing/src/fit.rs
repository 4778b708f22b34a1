//! Recovers the parameters of an elliptical NFW lens from its convergence map by least squares
//! (Levenberg-Marquardt with an analytic Jacobian). It assumes a lens in the centre of the map and noise of equal
//! size in all pixels; it does not know how a map came about. Equal maps give equal bits.

mod model;
mod solve;

use std::f64::consts::PI;

use thiserror::Error;

use crate::cosmology::LensGeometry;
use crate::lens::EllipticalNfw;
use crate::map::{Grid, Map};
use crate::nfw::Nfw;
use model::{PARAMETERS, Parameters, Problem};
use solve::Matrix;

/// Steps after which a start is given up; an ordinary fit takes about ten.
const MAX_ITERATIONS: u32 = 100;
/// A step below this, in dex and in ellipticity, changes nothing that anyone can measure.
const SMALLEST_STEP: f64 = 1e-9;
/// First guesses of the scale radius, as shares of the half width of the map.
const START_SHARES: [f64; 4] = [0.3, 0.1, 0.8, 2.0];

/// What a fit found.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
    /// Base-10 logarithm of the virial mass in solar masses.
    pub log10_mass: f64,
    /// Base-10 logarithm of the scale radius in kpc.
    pub log10_scale_radius: f64,
    /// One minus the axis ratio.
    pub ellipticity: f64,
    /// Direction of the major axis in radians, in [0, pi).
    pub position_angle: f64,
    /// One standard error of each, from the covariance at the solution.
    pub errors: FitErrors,
    /// Root mean square of map minus model.
    pub residual_rms: f64,
    /// The same as a share of the root mean square of the map: how much of the map the model leaves unexplained.
    pub relative_residual: f64,
    /// Steps taken.
    pub iterations: u32,
    /// Whether the last step was too small to matter; if not, the numbers are a best effort.
    pub converged: bool,
}

impl Fit {
    /// The lens that was found.
    pub fn lens(&self, geometry: &LensGeometry) -> EllipticalNfw {
        let profile = Nfw::new(10f64.powf(self.log10_mass), 10f64.powf(self.log10_scale_radius), geometry);
        EllipticalNfw::new(profile, self.ellipticity, self.position_angle)
    }
}

/// Standard errors of the parameters of a [`Fit`], in the same units.
#[derive(Debug, Clone, PartialEq)]
pub struct FitErrors {
    /// Of the logarithm of mass.
    pub log10_mass: f64,
    /// Of the logarithm of scale radius.
    pub log10_scale_radius: f64,
    /// Of the ellipticity.
    pub ellipticity: f64,
    /// Of the position angle. None when the ellipse is too round to have a direction.
    pub position_angle: Option<f64>,
}

/// Why no lens can be fitted to a map.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum FitError {
    /// Map and grid differ in size, or there are too few pixels.
    #[error("map of {map} pixels on a side does not fit a grid of {grid}, or has fewer than 3")]
    Shape {
        /// Side of the map.
        map: usize,
        /// Side of the grid.
        grid: usize,
    },
    /// No positive mass explains the map better than no mass.
    #[error("map has no convergence that rises towards its centre")]
    NoSignal,
    /// The map leaves some parameter undetermined.
    #[error("map does not determine the parameters of a lens")]
    Degenerate,
}

/// Fits an elliptical NFW lens to a map.
pub fn fit(map: &Map, grid: &Grid, geometry: &LensGeometry) -> Result<Fit, FitError> {
    if map.side() != grid.side || map.side() < 3 {
        return Err(FitError::Shape { map: map.side(), grid: grid.side });
    }
    let problem = Problem::new(map, grid, geometry);
    let mut best: Option<Descent> = None;
    for start in starts(&problem, grid)? {
        let descent = Descent::run(&problem, start);
        let better = best.as_ref().is_none_or(|best| descent.better_than(best));
        if better {
            best = Some(descent);
        }
        if best.as_ref().is_some_and(|best| best.converged) {
            break;
        }
    }
    best.ok_or(FitError::NoSignal)?.report(&problem)
}

/// Starting points, the one that explains most first.
fn starts(problem: &Problem<'_>, grid: &Grid) -> Result<Vec<Parameters>, FitError> {
    let mut starts: Vec<(f64, Parameters)> = START_SHARES
        .iter()
        .filter_map(|share| problem.round_lens(share * grid.half_width))
        .map(|start| (problem.cost(&start), start))
        .collect();
    if starts.is_empty() {
        return Err(FitError::NoSignal);
    }
    starts.sort_by(|a, b| a.0.total_cmp(&b.0));
    Ok(starts.into_iter().map(|(_, start)| start).collect())
}

/// One run downhill from one start.
struct Descent {
    at: Parameters,
    cost: f64,
    iterations: u32,
    converged: bool,
}

impl Descent {
    fn run(problem: &Problem<'_>, start: Parameters) -> Self {
        let mut descent = Self { cost: problem.cost(&start), at: start, iterations: 0, converged: false };
        let mut damping = 1e-3;
        while descent.iterations < MAX_ITERATIONS && !descent.converged {
            descent.iterations += 1;
            let (normal, gradient) = problem.normal_equations(&descent.at);
            damping = descent.step(problem, &normal, &gradient, damping);
            if !damping.is_finite() {
                break;
            }
        }
        descent
    }

    /// Takes the first damped step that lowers the cost; the damping for the next one, or infinity at a dead end.
    fn step(
        &mut self,
        problem: &Problem<'_>,
        normal: &Matrix,
        gradient: &[f64; PARAMETERS],
        mut damping: f64,
    ) -> f64 {
        while damping < 1e12 {
            let Some(step) = solve::solve(&solve::damped(normal, damping), gradient) else {
                damping *= 10.0;
                continue;
            };
            let next = self.at.moved(&step);
            let length = next.distance(&self.at);
            let cost = problem.cost(&next);
            if cost <= self.cost {
                (self.at, self.cost) = (next, cost);
                self.converged = length < SMALLEST_STEP;
                return (damping / 10.0).max(1e-12);
            }
            if length < SMALLEST_STEP {
                // Downhill only rounding is left: this is the minimum.
                self.converged = true;
                return damping;
            }
            damping *= 10.0;
        }
        f64::INFINITY
    }

    fn better_than(&self, other: &Self) -> bool {
        (self.converged, -self.cost) > (other.converged, -other.cost)
    }

    fn report(&self, problem: &Problem<'_>) -> Result<Fit, FitError> {
        let (normal, _) = problem.normal_equations(&self.at);
        let inverse = solve::inverse(&normal).ok_or(FitError::Degenerate)?;
        let freedom = (problem.pixels() - PARAMETERS) as f64;
        let ellipse = self.at.ellipse();
        Ok(Fit {
            log10_mass: self.at.log10_mass,
            log10_scale_radius: self.at.log10_scale_radius,
            ellipticity: ellipse.ellipticity,
            position_angle: ellipse.position_angle.rem_euclid(PI),
            errors: errors(&inverse, self.cost / freedom, &self.at),
            residual_rms: (self.cost / problem.pixels() as f64).sqrt(),
            relative_residual: (self.cost / problem.power()).sqrt(),
            iterations: self.iterations,
            converged: self.converged,
        })
    }
}

/// Standard errors from the inverse normal matrix and the variance of a pixel.
fn errors(inverse: &Matrix, variance: f64, at: &Parameters) -> FitErrors {
    let ellipse = at.ellipse();
    let (sin, cos) = (2.0 * ellipse.position_angle).sin_cos();
    let spread = |towards: [f64; 2]| {
        let mut sum = 0.0;
        for (i, a) in towards.iter().enumerate() {
            for (j, b) in towards.iter().enumerate() {
                sum += a * b * inverse[2 + i][2 + j];
            }
        }
        (variance * sum).max(0.0).sqrt()
    };
    let turning = spread([-sin, cos]);
    FitErrors {
        log10_mass: (variance * inverse[0][0]).max(0.0).sqrt(),
        log10_scale_radius: (variance * inverse[1][1]).max(0.0).sqrt(),
        ellipticity: spread([cos, sin]),
        position_angle: (ellipse.ellipticity > turning).then(|| turning / (2.0 * ellipse.ellipticity)),
    }
}
