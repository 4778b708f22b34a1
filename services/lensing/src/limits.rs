//! The ranges of values that our services accept and answer for. They are limits of the product, not of physics:
//! the profiles themselves work far outside.

use std::ops::RangeInclusive;

/// Virial mass in solar masses.
pub const MASS: RangeInclusive<f64> = 1e11..=1e14;
/// Scale radius in kpc.
pub const SCALE_RADIUS: RangeInclusive<f64> = 50.0..=500.0;
/// One minus the axis ratio.
pub const ELLIPTICITY: RangeInclusive<f64> = 0.0..=0.5;
/// Direction of the major axis in degrees; 180 is 0 again.
pub const POSITION_ANGLE_DEG: RangeInclusive<f64> = 0.0..=180.0;
/// Redshift of the lens.
pub const Z_LENS: RangeInclusive<f64> = 0.01..=2.0;
/// Redshift of the source.
pub const Z_SOURCE: RangeInclusive<f64> = 0.05..=5.0;
/// The source must be behind the lens by at least this.
pub const MIN_REDSHIFT_GAP: f64 = 0.01;
/// Half the side of the field of view in kpc.
pub const HALF_WIDTH: RangeInclusive<f64> = 50.0..=2000.0;
/// Half the side of the field of view in kpc unless a request says otherwise.
pub const DEFAULT_HALF_WIDTH: f64 = 500.0;
/// Sides, in pixels, of the maps that are made.
pub const SYNTHETIC_SIDES: [usize; 3] = [32, 64, 128];
/// Side, in pixels, of the maps that are analysed.
pub const ANALYSED_SIDE: RangeInclusive<usize> = 16..=256;
/// Greatest absolute convergence in a map that is analysed.
pub const MAX_CONVERGENCE: f64 = 100.0;
