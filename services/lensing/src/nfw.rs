//! The spherical NFW profile, made from virial mass and scale radius: concentration is derived, never assumed.
//! It does not know ellipticity or grids. Radii are projected, in kpc, and above zero.

use std::f64::consts::PI;

use crate::cosmology::LensGeometry;
use crate::shape;

/// A spherical NFW lens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Nfw {
    /// Virial mass in solar masses.
    pub mass: f64,
    /// Scale radius in kpc.
    pub scale_radius: f64,
    /// Virial radius in kpc.
    pub virial_radius: f64,
    /// Virial radius over scale radius.
    pub concentration: f64,
    /// Characteristic density in solar masses per cubic kpc.
    pub density: f64,
    /// Characteristic convergence.
    pub kappa_s: f64,
    /// Scale radius as seen on the sky, in arcseconds.
    pub scale_angle: f64,
}

impl Nfw {
    /// The lens of a virial mass (solar masses) and a scale radius (kpc), both above zero.
    pub fn new(mass: f64, scale_radius: f64, geometry: &LensGeometry) -> Self {
        let virial_radius = (3.0 * mass / (4.0 * PI * geometry.virial_density)).cbrt();
        let concentration = virial_radius / scale_radius;
        let density = mass / (4.0 * PI * scale_radius.powi(3) * enclosed(concentration));
        Self {
            mass,
            scale_radius,
            virial_radius,
            concentration,
            density,
            kappa_s: density * scale_radius / geometry.critical_surface_density,
            scale_angle: geometry.arcsec(scale_radius),
        }
    }

    /// Convergence at a radius.
    pub fn convergence(&self, radius: f64) -> f64 {
        2.0 * self.kappa_s * shape::f(radius / self.scale_radius)
    }

    /// The derivative of the convergence by radius, per kpc.
    pub fn convergence_slope(&self, radius: f64) -> f64 {
        2.0 * self.kappa_s * shape::f_slope(radius / self.scale_radius) / self.scale_radius
    }

    /// Mean convergence inside a radius.
    pub fn mean_convergence(&self, radius: f64) -> f64 {
        let x = radius / self.scale_radius;
        4.0 * self.kappa_s * shape::h(x) / (x * x)
    }

    /// Tangential shear at a radius.
    pub fn shear(&self, radius: f64) -> f64 {
        self.mean_convergence(radius) - self.convergence(radius)
    }

    /// Deflection at a radius in arcseconds, towards the centre.
    pub fn deflection(&self, radius: f64) -> f64 {
        let x = radius / self.scale_radius;
        4.0 * self.kappa_s * self.scale_angle * shape::h(x) / x
    }

    /// Lensing potential at a radius in square arcseconds.
    pub fn potential(&self, radius: f64) -> f64 {
        let x = radius / self.scale_radius;
        2.0 * self.kappa_s * self.scale_angle * self.scale_angle * shape::potential(x)
    }

    /// The derivative of ln kappa_s by ln mass, 1 - g/3. By ln scale radius it is g - 2.
    pub(crate) fn kappa_s_log_slope_by_mass(&self) -> f64 {
        let c = self.concentration;
        1.0 - (c / (1.0 + c)).powi(2) / enclosed(c) / 3.0
    }
}

/// m(c) = ln(1+c) - c/(1+c): the mass inside c scale radii in units of 4 pi rho_s r_s^3.
fn enclosed(c: f64) -> f64 {
    c.ln_1p() - c / (1.0 + c)
}
