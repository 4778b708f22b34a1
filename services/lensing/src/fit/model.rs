//! The model of the fit: parameters without singular points, and the cost and normal equations of a map. The
//! ellipse is held as (e cos 2phi, e sin 2phi), in which a round lens is an ordinary point.

use std::f64::consts::LN_10;

use super::solve::Matrix;
use crate::cosmology::LensGeometry;
use crate::lens::EllipticalNfw;
use crate::map::{Grid, Map};
use crate::nfw::Nfw;

pub(super) const PARAMETERS: usize = 4;

/// Beyond this the deflection integral and the fit lose accuracy; services accept half of it.
const MAX_ELLIPTICITY: f64 = 0.9;
const LOG10_MASS: (f64, f64) = (6.0, 18.0);
const LOG10_SCALE_RADIUS: (f64, f64) = (-2.0, 6.0);
/// Largest step of one parameter, in dex or ellipticity: the model is far from linear beyond.
const LARGEST_STEP: f64 = 0.5;

/// A point of the search.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Parameters {
    pub(super) log10_mass: f64,
    pub(super) log10_scale_radius: f64,
    ellipse: [f64; 2],
}

/// The ellipse of a point in the terms of a lens.
pub(super) struct Ellipse {
    pub(super) ellipticity: f64,
    pub(super) position_angle: f64,
}

impl Parameters {
    pub(super) fn ellipse(&self) -> Ellipse {
        let [e1, e2] = self.ellipse;
        Ellipse { ellipticity: e1.hypot(e2), position_angle: 0.5 * e2.atan2(e1) }
    }

    /// The point after a step, kept inside the range where the model means something.
    pub(super) fn moved(&self, step: &[f64; PARAMETERS]) -> Self {
        let longest = step.iter().fold(0.0_f64, |longest, part| longest.max(part.abs()));
        let share = if longest > LARGEST_STEP { LARGEST_STEP / longest } else { 1.0 };
        let mut ellipse = [self.ellipse[0] + share * step[2], self.ellipse[1] + share * step[3]];
        let ellipticity = ellipse[0].hypot(ellipse[1]);
        if ellipticity > MAX_ELLIPTICITY {
            ellipse = ellipse.map(|part| part * MAX_ELLIPTICITY / ellipticity);
        }
        Self {
            log10_mass: (self.log10_mass + share * step[0]).clamp(LOG10_MASS.0, LOG10_MASS.1),
            log10_scale_radius: (self.log10_scale_radius + share * step[1])
                .clamp(LOG10_SCALE_RADIUS.0, LOG10_SCALE_RADIUS.1),
            ellipse,
        }
    }

    pub(super) fn distance(&self, other: &Self) -> f64 {
        [
            self.log10_mass - other.log10_mass,
            self.log10_scale_radius - other.log10_scale_radius,
            self.ellipse[0] - other.ellipse[0],
            self.ellipse[1] - other.ellipse[1],
        ]
        .iter()
        .fold(0.0, |longest, part| part.abs().max(longest))
    }
}

/// A map to be explained.
pub(super) struct Problem<'a> {
    /// Points and their values. The very centre, where the model is infinite, is left out.
    pixels: Vec<(f64, f64, f64)>,
    geometry: &'a LensGeometry,
}

impl<'a> Problem<'a> {
    pub(super) fn new(map: &Map, grid: &Grid, geometry: &'a LensGeometry) -> Self {
        let pixels = grid
            .points()
            .zip(map.values())
            .filter(|&((x, y), _)| x != 0.0 || y != 0.0)
            .map(|((x, y), &value)| (x, y, value))
            .collect();
        Self { pixels, geometry }
    }

    pub(super) fn pixels(&self) -> usize {
        self.pixels.len()
    }

    /// Sum of squares of the map.
    pub(super) fn power(&self) -> f64 {
        self.pixels.iter().map(|(_, _, value)| value * value).sum()
    }

    /// The round lens of a scale radius that fits best. None when that would need a mass that is not positive.
    pub(super) fn round_lens(&self, scale_radius: f64) -> Option<Parameters> {
        let shape = Nfw::new(1e12, scale_radius, self.geometry);
        let (mut product, mut square) = (0.0, 0.0);
        for &(x, y, value) in &self.pixels {
            let unit = shape.convergence((x * x + y * y).sqrt()) / shape.kappa_s;
            product += value * unit;
            square += unit * unit;
        }
        let kappa_s = product / square;
        (kappa_s > 0.0).then(|| Parameters {
            log10_mass: self.log10_mass_of(kappa_s, scale_radius),
            log10_scale_radius: scale_radius.log10(),
            ellipse: [0.0, 0.0],
        })
    }

    /// Bisection: kappa_s grows with mass at a fixed scale radius.
    fn log10_mass_of(&self, kappa_s: f64, scale_radius: f64) -> f64 {
        let (mut low, mut high) = LOG10_MASS;
        for _ in 0..40 {
            let middle = 0.5 * (low + high);
            if Nfw::new(10f64.powf(middle), scale_radius, self.geometry).kappa_s < kappa_s {
                low = middle;
            } else {
                high = middle;
            }
        }
        0.5 * (low + high)
    }

    /// Sum of squared differences between map and model.
    pub(super) fn cost(&self, at: &Parameters) -> f64 {
        let lens = self.lens(at);
        self.pixels.iter().map(|&(x, y, value)| (value - lens.convergence(x, y)).powi(2)).sum()
    }

    /// The matrix J'J and the vector J'(map - model).
    pub(super) fn normal_equations(&self, at: &Parameters) -> (Matrix, [f64; PARAMETERS]) {
        let slopes = Slopes::new(self.lens(at));
        let mut matrix = [[0.0; PARAMETERS]; PARAMETERS];
        let mut right = [0.0; PARAMETERS];
        for &(x, y, value) in &self.pixels {
            let (model, slope) = slopes.at(x, y);
            for i in 0..PARAMETERS {
                right[i] += slope[i] * (value - model);
                for j in 0..=i {
                    matrix[i][j] += slope[i] * slope[j];
                }
            }
        }
        (mirrored(&matrix), right)
    }

    fn lens(&self, at: &Parameters) -> EllipticalNfw {
        let profile = Nfw::new(10f64.powf(at.log10_mass), 10f64.powf(at.log10_scale_radius), self.geometry);
        let ellipse = at.ellipse();
        EllipticalNfw::new(profile, ellipse.ellipticity, ellipse.position_angle)
    }
}

/// The symmetric matrix whose lower half is given.
fn mirrored(lower: &Matrix) -> Matrix {
    std::array::from_fn(|i| std::array::from_fn(|j| lower[i.max(j)][i.min(j)]))
}

/// The model and its derivatives by the four parameters.
struct Slopes {
    lens: EllipticalNfw,
    by_log10_mass: f64,
    by_log10_scale_radius: f64,
    axis: (f64, f64),
    twice_axis: (f64, f64),
}

impl Slopes {
    fn new(lens: EllipticalNfw) -> Self {
        let by_mass = lens.profile.kappa_s_log_slope_by_mass();
        Self {
            by_log10_mass: LN_10 * by_mass,
            by_log10_scale_radius: LN_10 * (1.0 - 3.0 * by_mass),
            axis: lens.position_angle.sin_cos(),
            twice_axis: (2.0 * lens.position_angle).sin_cos(),
            lens,
        }
    }

    fn at(&self, x: f64, y: f64) -> (f64, [f64; PARAMETERS]) {
        let q = self.lens.axis_ratio;
        let (sin, cos) = self.axis;
        let (along, across) = (x * cos + y * sin, y * cos - x * sin);
        let radius = (q * along * along + across * across / q).sqrt();
        let value = self.lens.profile.convergence(radius);
        let slope = self.lens.profile.convergence_slope(radius);
        let by_axis_ratio = (along * along - across * across / (q * q)) / (2.0 * radius);
        // The radius turns by (q - 1/q) along across / radius; over the ellipticity 1 - q that stays finite.
        let by_turning = along * across * (1.0 + q) / (2.0 * q * radius);
        let (sin2, cos2) = self.twice_axis;
        let parts = [
            value * self.by_log10_mass,
            value * self.by_log10_scale_radius - slope * radius * LN_10,
            slope * (sin2 * by_turning - cos2 * by_axis_ratio),
            slope * (-sin2 * by_axis_ratio - cos2 * by_turning),
        ];
        (value, parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cosmology::Cosmology;
    use crate::map::convergence_map;

    #[test]
    fn slopes_are_those_of_the_model() {
        let geometry = LensGeometry::new(&Cosmology::default(), 0.5, 1.5);
        let grid = Grid { side: 4, half_width: 300.0 };
        let at = Parameters { log10_mass: 12.4, log10_scale_radius: 2.2, ellipse: [0.1, -0.23] };
        let empty = Map::new(4, vec![0.0; 16]).unwrap();
        let problem = Problem::new(&empty, &grid, &geometry);
        let slopes = Slopes::new(problem.lens(&at));
        let model = convergence_map(&problem.lens(&at), &grid);
        for parameter in 0..PARAMETERS {
            let mut step = [0.0; PARAMETERS];
            step[parameter] = 1e-5;
            let up = problem.lens(&at.moved(&step));
            step[parameter] = -1e-5;
            let down = problem.lens(&at.moved(&step));
            for ((x, y), expected) in grid.points().zip(model.values()) {
                let (value, slope) = slopes.at(x, y);
                let numeric = (up.convergence(x, y) - down.convergence(x, y)) / 2e-5;
                assert!((value / expected - 1.0).abs() < 1e-12);
                assert!((slope[parameter] - numeric).abs() < 1e-8 * value.max(1.0), "{parameter} at {x},{y}");
            }
        }
    }
}
