//! The NFW lens with an ellipse in its convergence. The elliptical radius keeps the area of the circle, so the mass
//! inside an ellipse is that of the spherical lens inside the same radius. Axis ratio 1 takes the spherical path
//! and gives its very bits.

use crate::nfw::Nfw;
use crate::quadrature::integrate_pair;

/// An NFW lens that is elliptical in its convergence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EllipticalNfw {
    /// Radial profile.
    pub profile: Nfw,
    /// Minor over major axis, above 0 and at most 1.
    pub axis_ratio: f64,
    /// Direction of the major axis in radians, counter-clockwise from +x.
    pub position_angle: f64,
}

impl EllipticalNfw {
    /// A lens of ellipticity `1 - b/a` in [0, 1) with its major axis at `position_angle` radians.
    pub fn new(profile: Nfw, ellipticity: f64, position_angle: f64) -> Self {
        Self { profile, axis_ratio: 1.0 - ellipticity, position_angle }
    }

    /// Convergence at a point in kpc; infinite at the centre.
    pub fn convergence(&self, x: f64, y: f64) -> f64 {
        self.profile.convergence(self.elliptical_radius(x, y))
    }

    /// Deflection at a point in kpc: both components in arcseconds, zero at the centre.
    pub fn deflection(&self, x: f64, y: f64) -> (f64, f64) {
        let radius = (x * x + y * y).sqrt();
        if radius == 0.0 {
            return (0.0, 0.0);
        }
        if self.axis_ratio == 1.0 {
            let towards = self.profile.deflection(radius) / radius;
            return (towards * x, towards * y);
        }
        let (own_x, own_y) = self.own_axes(x, y);
        let (along, across) = self.deflection_in_own_axes(own_x, own_y);
        let (sin, cos) = self.position_angle.sin_cos();
        (along * cos - across * sin, along * sin + across * cos)
    }

    fn elliptical_radius(&self, x: f64, y: f64) -> f64 {
        if self.axis_ratio == 1.0 {
            return (x * x + y * y).sqrt();
        }
        let (along, across) = self.own_axes(x, y);
        (self.axis_ratio * along * along + across * across / self.axis_ratio).sqrt()
    }

    fn own_axes(&self, x: f64, y: f64) -> (f64, f64) {
        let (sin, cos) = self.position_angle.sin_cos();
        (x * cos + y * sin, y * cos - x * sin)
    }

    /// The integral of Bourassa and Kantowski in Schramm's form. The substitution u = t^4 takes out the logarithm
    /// at u = 0: with it 32 points reach 3e-11, without it 2e-6.
    fn deflection_in_own_axes(&self, x: f64, y: f64) -> (f64, f64) {
        let q = self.axis_ratio;
        let flattening = 1.0 - q * q;
        let (along, across) = integrate_pair(|t| {
            let u = t.powi(4);
            let stretch = 1.0 - flattening * u;
            let radius = (q * u * (x * x + y * y / stretch)).sqrt();
            let term = self.profile.convergence(radius) * 4.0 * t.powi(3) / stretch.sqrt();
            (term, term / stretch)
        });
        let scale = q * self.profile.scale_angle / self.profile.scale_radius;
        (scale * x * along, scale * y * across)
    }
}
